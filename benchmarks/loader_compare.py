"""Compare loaders on the same plan: ``python benchmarks/loader_compare.py``."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file, also in its own child processes: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich import get_console
from rich.progress import Progress

from benchmarks.machine import num_cores
from benchmarks.measure import Task
from benchmarks.record import Protocol, describe_data, make_record
from benchmarks.report_results import show, write
from benchmarks.rounds import Measured, measure
from benchmarks.rows import TABLE, Row, choose_rows
from pipelines.loaders import LoaderBuilder, LoaderConfig, open_plan
from preprocessing import to_shards
from preprocessing.cli import AutoTriple, main
from preprocessing.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError
from preprocessing.phantom import DEFAULT_FOLDER
from preprocessing.shards import Store, open_store

log = logging.getLogger(__name__)
AUTO = Path("auto")
PHANTOM_SHARDS = Path("data/shards")
LONGEST_SIDE, SIDE_STEP = 128, 16
STEPS_PER_EPOCH = 512  # at least: with three cases to an epoch, loaders would be measured starting and stopping
SAMPLES_PER_CASE = 4


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare how fast loaders deliver the same patches, after checking that they do; table, JSON, Markdown and PNG.

    Exit code 1 when a loader fails or delivers anything but what the plan and the numpy reference say.
    """

    source: Path = DEFAULT_FOLDER
    """Data set folder to convert first. The default is the synthetic phantom, made on first use."""
    shards: Path = AUTO
    """Shard store. auto is data/shards for the phantom, data/shards-NAME for another --source."""
    loaders: str = "all"
    """Comma list of dali, torch, synthetic (the ceiling) and numpy-floor (plain numpy, the yardstick)."""
    patch: AutoTriple = None
    """Patch size. auto takes the median volume, at most 128 a side."""
    batch_size: int = 2
    """Patches per batch."""
    augment: str = "basic"
    """none; basic: flips, intensity scale and shift; full: nnU-Net's list."""
    output: Path = Path("benchmarks/results")
    """Folder for MACHINE_DATE.json, .md and .png."""
    runs: int = 5
    """Timed runs of each loader, after its warm-up."""
    seconds: float = 2.0
    """Length of a run."""
    threads: int = 0
    """Threads of dali and numpy-floor; 0 means one for every core."""
    workers: int = 0
    """Worker processes of torch; 0 means one for every core."""
    device: str = "auto"
    """cpu, gpu, or auto: the CPU and, where there is one, the GPU."""


def compare(options: Options, table: Mapping[str, LoaderBuilder] = TABLE) -> int:
    """Run the command with the loaders of ``table``; returns the exit code."""
    _check_options(options)
    store = open_store(_ensure_store(options))
    config = _configure(options, store)
    has_gpu = torch.cuda.is_available()
    rows, left_out = choose_rows(options.loaders, config, options.device, table, has_gpu=has_gpu)
    measured = _measure(rows, options, table)
    protocol = Protocol(runs=options.runs, seconds=options.seconds, device=options.device)
    record = make_record(store, config, protocol, measured, left_out)
    show(record)
    log.info("written: %s", ", ".join(str(path) for path in write(record, options.output)))
    return EXIT_UNEXPECTED if any(row.failure for row in measured) else EXIT_DONE


def _check_options(options: Options) -> None:
    for name in ("runs", "seconds", "batch_size"):
        if getattr(options, name) <= 0:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: it must be above 0")
    for name in ("threads", "workers"):
        if getattr(options, name) < 0:
            raise InputError(f"--{name} {getattr(options, name)}: 0 means one for every core, or give a number")


def _ensure_store(options: Options) -> Path:
    """Return the store to read, made from ``--source`` where that is asked for or nothing is there."""
    is_phantom = options.source == DEFAULT_FOLDER
    shards = options.shards
    if shards == AUTO:
        shards = PHANTOM_SHARDS if is_phantom else Path("data") / f"shards-{options.source.resolve().name}"
    if not is_phantom or (shards == PHANTOM_SHARDS and not shards.exists()):
        log.info("converting %s to %s", options.source, shards)
        to_shards.convert(to_shards.Options(input=options.source, output=shards))
    return shards


def _configure(options: Options, store: Store) -> LoaderConfig:
    """Fill in what the options leave open; raises ``InputError`` for what no loader could deliver."""
    data = describe_data(store)
    auto = [max(min(LONGEST_SIDE, side) // SIDE_STEP, 1) * SIDE_STEP for side in data["shape_dhw"]["median"]]
    enough = -(-STEPS_PER_EPOCH * options.batch_size // data["cases"])
    config = LoaderConfig(
        store=Path(store.root),
        patch=options.patch or (auto[0], auto[1], auto[2]),
        batch_size=options.batch_size,
        augment=options.augment,
        samples_per_case=max(SAMPLES_PER_CASE, enough),
        num_threads=options.threads or num_cores(),
        num_workers=options.workers or num_cores(),
        reuse_buffers=True,
    )
    open_plan(config)
    return config


def _measure(rows: Sequence[Row], options: Options, table: Mapping[str, LoaderBuilder]) -> list[Measured]:
    """Measure all rows behind a progress bar."""
    method = multiprocessing.get_start_method()
    tasks = [
        Task(row=row, build=table[row.loader], seconds=options.seconds, worker_start_method=method) for row in rows
    ]
    log.info("measuring %s", "; ".join(row.label for row in rows))
    with Progress(disable=not get_console().is_terminal, transient=True) as progress:
        bar = progress.add_task("measuring", total=len(rows) * (1 + options.runs))

        def done(label: str) -> None:
            progress.update(bar, advance=1, description=label)

        return measure(tasks, options.runs, done)


if __name__ == "__main__":
    main(compare, Options)
