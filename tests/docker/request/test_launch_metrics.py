"""The metrics that SageMaker reads out of the log are those of the run."""

from __future__ import annotations

import re
from pathlib import Path

from request.training import METRICS

from tests.preprocessing.conftest import run_process
from training.trainer.record import read_metrics


def test_every_metric_is_found_in_the_log_of_a_run(coordinate_store: Path, tmp_path: Path) -> None:
    """Its values are those that the run keeps, epoch by epoch; where an epoch was not validated there is no Dice."""
    run = tmp_path / "run"
    small = ["--patch", "16,16,16", "--samples-per-case", "2", "--net", "segresnet", "--device", "cpu"]
    places = ["--shards", coordinate_store, "--output", run]
    ended = run_process("training.run", *places, *small, "--epochs", "3", "--val-every", "2")
    assert ended.code == 0, ended.errors
    log = ended.errors.splitlines()
    found = {name: [m[1] for line in log if (m := re.search(regex, line))] for name, regex in METRICS.items()}
    lines = read_metrics(run)
    dice = [line["dice"]["mean"] for line in lines if line["dice"]]
    assert len(dice) == 2
    assert found == {
        "epoch": ["1", "2", "3"],
        "loss": [f"{line['loss']:.4f}" for line in lines],
        "validation:dice": [f"{mean:.4f}" for mean in dice],
        "patches_per_second": [f"{line['patches_per_s']:.1f}" for line in lines],
        "waiting_percent": [f"{100 * line['waiting']:.1f}" for line in lines],
        "best:dice": [f"{max(dice):.4f}"],
    }
