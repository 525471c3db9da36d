"""Every side of one to three voxels, from training to the report."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from tests.training.conftest import TINY
from training.evaluate import Options as EvaluateOptions
from training.evaluate import evaluate
from training.predict import Options as PredictOptions
from training.predict import predict
from training.report import Options as ReportOptions
from training.report import report
from training.run import train

SHAPES = list(itertools.product((1, 2, 3), repeat=3))


def write_set(root: Path) -> Path:
    """Write a volume of each shape, its label drawn at random."""
    draw = np.random.default_rng(0)
    entries = []
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for shape in SHAPES:
        name = "c{}{}{}.nii.gz".format(*shape)
        label = draw.integers(0, 3, shape).astype(np.uint8)
        image = (50 * label + draw.integers(1, 20, shape)).astype(np.int16)
        for folder, voxels in (("imagesTr", image), ("labelsTr", label)):
            made = nib.Nifti1Image(voxels, np.diag([1.0, 1.5, 2.0, 1.0]))  # type: ignore[no-untyped-call]
            nib.save(made, root / folder / name)
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    names = {"0": "background", "1": "one", "2": "two"}
    described = {"name": "small", "modality": {"0": "MRI"}, "labels": names, "training": entries, "test": []}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


@pytest.mark.parametrize("augment", ["basic", "full"])
def test_volumes_of_a_few_voxels_go_all_the_way(tmp_path: Path, augment: str) -> None:
    source, run = write_set(tmp_path / "set"), tmp_path / "run"
    assert convert(ConvertOptions(input=source, output=tmp_path / "S", workers=1)) == 0
    small: dict[str, Any] = {"epochs": 1, "samples_per_case": 1, "held_out": 0.0, "augment": augment}
    assert train(dataclasses.replace(TINY, shards=tmp_path / "S", output=run, **small)) == 0
    checkpoint, images = run / "checkpoints" / "best.pt", source / "imagesTr"
    assert predict(PredictOptions(checkpoint=checkpoint, input=images, output=tmp_path / "P", device="cpu")) == 0
    scored = EvaluateOptions(
        predictions=tmp_path / "P", labels=source / "labelsTr", images=images, output=run / "evaluation"
    )
    assert evaluate(scored) == 0
    assert len(json.loads((run / "evaluation" / "scores.json").read_text())["cases"]) == len(SHAPES)
    assert report(ReportOptions(run=run)) == 0
    assert (run / "report.html").read_text().count("data:image/png") == 2 + 3 + len(SHAPES)
