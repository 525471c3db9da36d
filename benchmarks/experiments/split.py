"""Where the time of a real training step goes with each loader: the article's four parts."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.contenders.table import TABLE, Contender, choose
from benchmarks.experiments.epoch import epoch_config
from benchmarks.measuring.data import Experiment, make_store, median_patch
from benchmarks.measuring.epochs import measure_epochs
from benchmarks.measuring.origin import describe_data
from benchmarks.measuring.processes import ProcessError, run_command
from benchmarks.reporting.figure import beside, finish, new_figure, stack
from benchmarks.reporting.result import Record, contents, make_row
from pipelines.config import LoaderConfig
from pipelines.loaders import LOADERS
from preprocessing.console.errors import RunError
from preprocessing.console.flags import AutoTriple
from training.trainer.record import read_metrics

log = logging.getLogger(__name__)
LOADING = ("disk_ms", "preprocessing_ms", "transfer_ms")
PARTS = (*LOADING, "model_ms", "other_ms")
METHOD = [
    (
        "python -m training.run with each loader, its own split of every epoch's time, divided by the steps; the first "
        "epoch is left out. Only waiting counts: what a loader does while the model computes costs nothing."
    ),
    "A loader that cannot tell reading from preprocessing books all as preprocessing.",
    (
        "Checked before training: each loader's first batches, on this store and at this patch and batch size, as in "
        "loader_compare; afterwards, that all took equal numbers of steps. The batches inside the trainer are not "
        "looked at, nor any after the first few."
    ),
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
    loaders = choose(options.loaders, {name: TABLE[name] for name in LOADERS})
    rows = []
    steps: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        store = make_store(options.source, options.cases, Path(scratch))
        patch = options.patch or median_patch(store)
        device = "gpu" if torch.cuda.is_available() else "cpu"  # as the trainer chooses
        config = replace(epoch_config(store), patch=patch, device=device)
        for one in loaders:
            check_loader(one, config)
        for name in (one.name for one in loaders):
            output = Path(scratch) / name
            log.info("training %d epochs with %s", 1 + options.runs, name)
            epochs = options.runs + 1
            flags = {"loader": name, "shards": Path(store.root), "output": output, "preset": "article"}
            flags |= {"patch": ",".join(map(str, patch)), "epochs": epochs, "val-every": epochs, "samples-per-case": 1}
            run_command("training.run", flags)
            lines = read_metrics(output)
            steps[name] = [line["split"]["steps"] for line in lines]
            rows.append(make_row("milliseconds of a step", name, _parts(lines[1:])))
        check_steps(steps)
        data = describe_data(store)
    return contents(data, {"patch": list(patch), "batch_size": 2, "preset": "article"}, options.runs, rows, METHOD)


def check_loader(loader: Contender, config: LoaderConfig) -> None:
    """Deliver an epoch in a process of its own and check the first batches; raises ``ProcessError`` for a wrong one."""
    try:
        measure_epochs(loader, config, 0)
    except ProcessError as error:
        raise ProcessError(f"{loader.name}: {error}") from error


def check_steps(steps: Mapping[str, Sequence[int]]) -> None:
    """Raise ``RunError`` where a loader's epochs had other numbers of steps than the first one's."""
    first, *others = steps
    for name in others:
        if steps[name] != steps[first]:
            counts = f"{first} took {steps[first]}, {name} {steps[name]}"
            raise RunError(f"steps of each epoch: {counts}; they must be equal")


def _parts(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    splits = [line["split"] for line in lines]
    return {part: [1e3 * split[part.replace("_ms", "_s")] / split["steps"] for split in splits] for part in PARTS}


def draw_split(record: Record, path: Path) -> None:
    """Draw a bar per loader, stacked from the parts of a step."""
    rows = record["rows"]
    figure = new_figure(9, 1.8 + 0.5 * len(rows))
    axes = figure.add_subplot()
    for place, (row, end) in enumerate(zip(rows, stack(axes, rows, PARTS), strict=True)):
        waiting = sum(row["summary"][part]["median"] for part in LOADING)
        beside(axes, f"waits {waiting / end:.0%}", (end, place), va="center")
    axes.set_title(f"{record['data']['name']}: where the time of a training step goes", loc="left", pad=26)
    axes.set_xlabel("milliseconds of a training step, medians", loc="left", size=9)
    finish(figure, record, path)
