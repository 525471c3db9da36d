"""The same recipe from several loaders: a row each, and a second call trains nothing again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.article import Options, repeat
from benchmarks.experiments.quality import Quality, quality_row
from preprocessing.console.errors import EXIT_DONE, RunError
from training.trainer.record import read_metrics


def test_loaders_that_follow_the_plan_learn_the_same(coordinate_store: Path, tmp_path: Path) -> None:
    options = Quality(
        shards=coordinate_store, loaders="dali,torch", seeds="3,4", other_seeds="3", patch=(16, 16, 16), epochs=1,
        runs_folder=tmp_path / "runs", output=tmp_path,
    )  # fmt: skip
    assert repeat(Options(experiment=options)) == EXIT_DONE
    (path,) = tmp_path.glob("training-quality_*.json")
    record = json.loads(path.read_text())
    assert not any("Trained before" in line for line in record["method"])
    rows = {row["label"]: row["summary"] for row in record["rows"]}
    assert list(rows) == ["dali", "torch", "dali, seed 3", "dali, seed 4", "torch, seed 3"]
    (ours, another, theirs) = (rows[label]["dice"]["median"] for label in list(rows)[2:])
    assert ours == pytest.approx(theirs, abs=1e-3)
    (line,) = read_metrics(tmp_path / "runs" / "dali-seed-3")
    assert ours == line["dice"]["mean"]
    assert rows["dali"]["dice_mean"]["median"] == pytest.approx((ours + another) / 2)
    assert rows["torch"]["dice_mean"]["median"] == theirs
    assert rows["dali"]["minutes"]["median"] > 0
    checkpoint = tmp_path / "runs" / "dali-seed-3" / "checkpoints" / "last.pt"
    before = checkpoint.stat().st_mtime_ns
    assert repeat(Options(experiment=options)) == EXIT_DONE
    assert checkpoint.stat().st_mtime_ns == before
    assert len(list(tmp_path.glob("*.png"))) == 2
    (again,) = set(tmp_path.glob("training-quality_*.json")) - {path}
    line = json.loads(again.read_text())["method"][-1]
    assert line.endswith("minutes do not compare: dali, seed 3; dali, seed 4; torch, seed 3.")


def test_a_failed_training_ends_it_in_one_line(coordinate_store: Path, tmp_path: Path) -> None:
    options = Quality(shards=coordinate_store, loaders="dahli", runs_folder=tmp_path, patch=(16, 16, 16))
    with pytest.raises(RunError, match=r"python -m training.run --loader dahli .*: .*unknown loader 'dahli'"):
        repeat(Options(experiment=options))


def test_mean_and_deviation_are_of_the_seeds() -> None:
    """Of 0.8, 0.9 and 0.7: mean 0.8, deviation 0.1 with n - 1."""
    runs = [{"dice": dice, "hd95_mm": None, "minutes": 1.0} for dice in (0.8, 0.9, 0.7)]
    summary = quality_row("dali", runs)["summary"]
    assert summary["dice_mean"]["median"] == pytest.approx(0.8)
    assert summary["dice_std"]["median"] == pytest.approx(0.1)
    assert "hd95_mm" not in summary
    assert "dice_std" not in quality_row("dali", runs[:1])["summary"]


def test_options_are_these() -> None:
    assert [field.name for field in dataclasses.fields(Quality)] == [
        "shards", "loaders", "seeds", "other_seeds", "patch", "epochs", "runs_folder", "output"
    ]  # fmt: skip
    assert Quality().seeds == "0,1,2,3,4"
