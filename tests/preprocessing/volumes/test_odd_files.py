"""Every odd file there is, as image and as label beside good cases: the good convert, each bad one is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from preprocessing.check import Options as CheckOptions
from preprocessing.check import check
from preprocessing.shards.store import open_store
from tests.preprocessing.conftest import nibabel_voxels, run_process

# What docs/layouts.md says in words: the reason for which a file is refused as the image of a one-channel data set.
REASONS = {
    "DS_Store_from_images_folder": "not a NIfTI header",
    "empty.nii.gz": "0 bytes are too few for a NIfTI header",
    "header_only.nii.gz": "truncated: its header promises 62827 bytes, it holds 352",
    "lfs_pointer.nii.gz": "133 bytes are too few for a NIfTI header",
    "truncated_60pct.nii.gz": "broken or truncated gzip",
    "truncated_voxels.nii.gz": "truncated: its header promises 62827 bytes, it holds 31413",
    "nibabel_analyze.hdr": "not a NIfTI header",
    "nibabel_nifti1.hdr": "the header of a pair, and no",
    "nibabel_nifti2.hdr": "the header of a pair, and no",
    "nibabel_row_major.dconn.nii": "is neither x,y,z nor x,y,z,channel",
    "3D.nii": "is not a number",
    "4D.nii": "is not a number",
    "nibabel_example4d.nii.gz": "has 2 channels, there should be 1",
    "nibabel_example_nifti2.nii.gz": "has 2 channels, there should be 1",
    "nibabel_functional.nii": "has 20 channels, there should be 1",
}
NEVER_A_LABEL = (
    "voxels (D,H,W), its image",
    "holds label 3, the data set names [0, 1, 2]",
)


@pytest.mark.data
def test_every_odd_file_converts_or_is_named(real_data: Path, tmp_path: Path) -> None:
    good = real_data / "Task04_Hippocampus"
    odd = [path for path in sorted((real_data / "odd").rglob("*")) if path.is_file()]
    (tmp_path / "dataset.json").write_text((good / "dataset.json").read_text())
    listed = json.loads((good / "dataset.json").read_text())["training"][:2]
    pairs = {f"good_{n}": (good / entry["image"], good / entry["label"]) for n, entry in enumerate(listed)}
    rows = [[case_id, str(image), str(label)] for case_id, (image, label) in pairs.items()]
    rows += [[f"image_{n:02d}", str(path), ""] for n, path in enumerate(odd)]
    rows += [[f"label_{n:02d}", rows[0][1], str(path)] for n, path in enumerate(odd)]
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "MRI", "label"], *rows])
    output = tmp_path / "store"
    ended = run_process("preprocessing.to_shards", "--input", tmp_path / "cases.csv", "--output", output)
    assert (ended.code, "Traceback" in ended.errors, list(output.rglob("*.tmp"))) == (3, False, [])

    refused = {
        entry["case_id"]: entry["reason"] for entry in json.loads((output / "errors.json").read_text())["refused"]
    }
    for case_id, reason in refused.items():
        path = odd[int(case_id[-2:])]
        assert str(path) in reason
        assert f"refused case {case_id}: {reason}" in ended.errors
        if case_id.startswith("image"):
            assert REASONS[path.name] in reason
        else:
            assert any(known in reason for known in (*REASONS.values(), *NEVER_A_LABEL)), reason
    assert {odd[int(name[-2:])].name for name in refused if name.startswith("image")} == set(REASONS)
    assert {name for name in refused if name.startswith("label")} == {f"label_{n:02d}" for n in range(len(odd))}

    store = open_store(output)
    assert set(store.case_ids) == {row[0] for row in rows} - set(refused)
    for case_id, (image, label) in pairs.items():
        case = store.case(case_id)
        box = tuple(slice(o, o + n) for o, n in zip(case.origin_dhw, case.shape_dhw, strict=True))
        assert np.array_equal(case.image()[..., 0], nibabel_voxels(image).transpose(2, 1, 0)[box])
        stored = case.label()
        assert stored is not None
        assert np.array_equal(stored[..., 0], nibabel_voxels(label).transpose(2, 1, 0)[box])
    assert check(CheckOptions(shards=output)) == 0
