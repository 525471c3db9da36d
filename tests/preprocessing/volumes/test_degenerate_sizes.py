"""Sides of one to three voxels, slices stored as volumes among them: through conversion and back."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert
from preprocessing.volumes.geometry import restore_to_source

SHAPES = {f"case_{x}{y}{z}": (x, y, z) for x, y, z in itertools.product((1, 2, 3), repeat=3)}


@pytest.mark.parametrize(
    ("orientation", "spacing"),
    [("source", None), ("PIR", None), ("LPS", (1.0, 1.0, 1.0)), ("RAS", (0.4, 3.0, 1.0)), ("RAS", (2.0, 2.0, 9.0))],
)
def test_every_small_side_converts_and_comes_back(
    tmp_path: Path, orientation: str, spacing: tuple[float, float, float] | None
) -> None:
    labels = {}
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for number, (case_id, shape) in enumerate(SHAPES.items()):
        random = np.random.default_rng(number)
        labels[case_id] = random.integers(0, 2, shape).astype(np.uint8)
        for folder, voxels in (("imagesTr", random.integers(1, 99, shape)), ("labelsTr", labels[case_id])):
            image = nib.Nifti1Image(voxels.astype(np.uint8), np.diag([1.0, 2.0, 3.0, 1.0]))  # type: ignore[no-untyped-call]
            nib.save(image, tmp_path / folder / f"{case_id}.nii")
    entries = [{"image": f"imagesTr/{name}.nii", "label": f"labelsTr/{name}.nii"} for name in SHAPES]
    described = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "x"}, "training": entries}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    options = Options(
        input=tmp_path, output=tmp_path / "store", workers=1, orientation=orientation, spacing=spacing, report=True
    )
    assert convert(options) == 0
    store = open_store(tmp_path / "store")
    for case_id, label in labels.items():
        case = store.case(case_id)
        stored = case.label()
        assert stored is not None
        back = restore_to_source(stored[..., 0], case.origin_dhw, case.source_shape_dhw, case.geometry)
        assert back.shape == label.shape
        assert spacing is not None or np.array_equal(back, label)
