"""How the scores of validation cases are averaged."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from training.inference.scores import average, by_structure
from training.model.checkpoint import load_checkpoint, save_checkpoint
from training.options import Options
from training.run import train
from training.trainer.record import read_metrics, read_run, without_nan


def test_mean_scores_average_structures_and_cases() -> None:
    one = {"WT": {"dice": 1.0, "hd95_mm": 3.0}, "ET": {"dice": 0.5, "hd95_mm": math.nan}}
    other = {"WT": {"dice": 0.5, "hd95_mm": 5.0}, "ET": {"dice": 0.0, "hd95_mm": math.nan}}
    means = average({"a": one, "b": other})
    assert by_structure(means, "dice") == {"WT": 0.75, "ET": 0.25, "mean": 0.5}
    assert without_nan(by_structure(means, "hd95_mm")) == {"WT": 4.0, "ET": None, "mean": 4.0}


def test_a_structure_that_no_validation_case_has_does_not_pick_the_best(
    msd_folder: Path, tiny_options: Options, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The network learns nothing in an epoch of a rate of 1e-12, and of label 3 there is nothing to find."""
    source = shutil.copytree(msd_folder, tmp_path / "set")
    described = json.loads((source / "dataset.json").read_text())
    described["labels"] = {"0": "background", "1": "first", "2": "second", "3": "rare"}
    (source / "dataset.json").write_text(json.dumps(described))
    for path in (source / "labelsTr").glob("case_004*"):  # the one that is held out
        made: Any = nib.load(path)
        values = np.asanyarray(made.dataobj)
        nib.save(nib.Nifti1Image(np.where(values == 3, 0, values), made.affine), path)  # type: ignore[no-untyped-call]
    assert convert(ConvertOptions(input=source, output=tmp_path / "S", workers=1)) == 0
    options = dataclasses.replace(tiny_options, shards=tmp_path / "S", output=tmp_path / "run", epochs=1)
    assert train(options) == 0
    assert read_run(options.output)["cases"]["validation"] == ["case_004"]
    said = "no validation case has rare: left out of the mean that picks best.pt"
    assert said in caplog.text
    (line,) = read_metrics(options.output)
    assert line["left_out"] == ["rare"]
    assert line["dice"]["mean"] == pytest.approx((line["dice"]["first"] + line["dice"]["second"]) / 2)
    best = load_checkpoint(options.output / "checkpoints" / "best.pt")
    assert best["means"]["dice"]["mean"] == line["dice"]["mean"]
    assert "(without rare, which no validation case has)" in (options.output / "report.html").read_text()


def test_a_run_of_an_earlier_version_picks_its_best_anew(
    tiny_options: Options, tiny_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its best mean counted what it now leaves out, and would never be reached again."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    last = run / "checkpoints" / "last.pt"
    content = load_checkpoint(last)
    content["progress"] |= {"left_out": ["gone"], "best_dice": 0.99}
    save_checkpoint(last, content)
    assert train(dataclasses.replace(tiny_options, output=run, epochs=4, resume="auto")) == 0
    assert "it is chosen anew" in caplog.text
    assert load_checkpoint(run / "checkpoints" / "best.pt")["epoch"] == 4
    del content["progress"]["left_out"]  # where nothing was left out, nothing changes
    save_checkpoint(last, content)
    caplog.clear()
    assert train(dataclasses.replace(tiny_options, output=run, epochs=4, resume="auto")) == 0
    assert "it is chosen anew" not in caplog.text
