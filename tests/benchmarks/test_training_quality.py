"""The same recipe from several loaders: a row each, and a second call trains nothing again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.training_quality import Options, measure_quality
from preprocessing.errors import EXIT_DONE, RunError
from training.record import read_metrics


def test_loaders_that_follow_the_plan_learn_the_same(coordinate_store: Path, tmp_path: Path) -> None:
    options = Options(
        shards=coordinate_store, loaders="dali,torch", seeds="3", patch=(16, 16, 16), epochs=1,
        runs_folder=tmp_path / "runs", output=tmp_path,
    )  # fmt: skip
    assert measure_quality(options) == EXIT_DONE
    (path,) = tmp_path.glob("training-quality_*.json")
    ours, theirs = json.loads(path.read_text())["rows"]
    assert (ours["label"], theirs["label"]) == ("dali", "torch")
    assert ours["summary"]["dice"]["median"] == pytest.approx(theirs["summary"]["dice"]["median"], abs=1e-3)
    (line,) = read_metrics(tmp_path / "runs" / "dali-seed-3")
    assert ours["summary"]["dice"]["median"] == line["dice"]["mean"]
    assert ours["summary"]["minutes"]["median"] > 0
    checkpoint = tmp_path / "runs" / "dali-seed-3" / "checkpoints" / "last.pt"
    before = checkpoint.stat().st_mtime_ns
    assert measure_quality(options) == EXIT_DONE
    assert checkpoint.stat().st_mtime_ns == before
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_a_failed_training_ends_it_in_one_line(coordinate_store: Path, tmp_path: Path) -> None:
    options = Options(shards=coordinate_store, loaders="dahli", runs_folder=tmp_path, patch=(16, 16, 16))
    with pytest.raises(RunError, match=r"training with --loader dahli failed: .*unknown loader 'dahli'"):
        measure_quality(options)
