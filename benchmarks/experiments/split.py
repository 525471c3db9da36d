"""Where the time of a real training step goes with each loader: the article's four parts."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.default_data import describe_cases, make_store, median_patch
from benchmarks.experiments.experiment import Experiment
from benchmarks.reporting.result import Record, make_row
from benchmarks.training_run import run_training
from preprocessing.cli import AutoTriple
from training.record import read_metrics

log = logging.getLogger(__name__)
PARTS = ("disk", "preprocessing", "transfer", "model", "other")
METHOD = [
    (
        "python -m training.run with each loader, its own split of every epoch's time, divided by the steps; the first "
        "epoch is left out. Only waiting counts: what a loader does while the model computes costs nothing."
    ),
    "A loader that cannot tell reading from preprocessing books all as preprocessing.",
]


@dataclass(frozen=True, kw_only=True)
class Split(Experiment):
    """Split a training step into disk I/O, preprocessing, CPU-to-GPU transfer and model, for several loaders."""

    loaders: str = "monai,monai-cache,torch,dali,synthetic"
    """Comma list."""
    patch: AutoTriple = None
    """Patch size. auto takes the median volume, at most 128 a side; without a GPU take less."""
    cases: int = 10
    """Cases, a fifth of which are for validation."""


def measure_split(options: Split) -> Record:
    """Run the experiment; returns data, options, runs, rows and method."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        store = make_store(options.source, options.cases, Path(scratch))
        patch = options.patch or median_patch(store)
        for name in options.loaders.split(","):
            output = Path(scratch) / name
            log.info("training %d epochs with %s", 1 + options.runs, name)
            epochs = options.runs + 1
            flags = {"loader": name, "shards": Path(store.root), "output": output, "preset": "article"}
            flags |= {"patch": ",".join(map(str, patch)), "epochs": epochs, "val-every": epochs, "samples-per-case": 1}
            run_training(flags)
            rows.append(make_row("milliseconds of a step", name, _parts(read_metrics(output)[1:])))
        data = describe_cases(store)
    return {
        "data": data,
        "options": {"patch": list(patch), "batch_size": 2, "preset": "article"},
        "runs": options.runs,
        "rows": rows,
        "method": METHOD,
    }


def _parts(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    splits = [line["split"] for line in lines]
    return {f"{part}_ms": [1e3 * split[f"{part}_s"] / split["steps"] for split in splits] for part in PARTS}
