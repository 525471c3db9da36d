"""Compare loaders on the same plan: ``python benchmarks/loader_compare.py``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.contenders.table import FLOOR, TABLE, Contender
from benchmarks.measuring.data import median_patch, parse_numbers
from benchmarks.measuring.origin import describe_data, num_cores
from benchmarks.measuring.processes import NoiseWatch
from benchmarks.measuring.rounds import measure
from benchmarks.measuring.rows import Assignment, Sweep, choose_rows
from benchmarks.reporting import comparison
from benchmarks.reporting.page import publish
from benchmarks.reporting.result import contents, make_record
from pipelines.config import LoaderConfig
from pipelines.loaders import open_plan
from preprocessing import to_shards
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError, check_known
from preprocessing.console.flags import AutoTriple, main
from preprocessing.phantom import DEFAULT_FOLDER
from preprocessing.shards.store import Store, open_store

log = logging.getLogger(__name__)
AUTO = Path("auto")
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
    loaders: str = "auto"
    """auto: ours, the best of MONAI, ceiling and floor. all: every loader and peer. Or a comma list of their names."""
    patch: AutoTriple = None
    """Patch size. auto takes the median volume, at most 128 a side."""
    batch_size: str = "2"
    """Patches per batch; a comma list tries each."""
    augment: str = "basic"
    """none; basic: flips, intensity scale and shift; full: nnU-Net's list."""
    output: Path = Path("benchmarks/results")
    """Folder for MACHINE_DATE.json, .md and .png."""
    runs: int = 5
    """Timed runs of each loader, after its warm-up, and as many stretches of training."""
    seconds: float = 2.0
    """Length of a run."""
    threads: int = 0
    """Threads of dali and numpy-floor; 0 means one for every core."""
    workers: str = "auto"
    """Worker processes of torch and the peers; a comma list tries each. auto: one for every core, none for a cache."""
    device: str = "auto"
    """cpu, gpu, or auto: the CPU and, where there is one, the GPU."""
    train: str = "none"
    """Network (segresnet, unet, dynunet, nnunet) to measure the loaders inside its training step as well."""


def compare(options: Options, table: Mapping[str, Contender] = TABLE) -> int:
    """Run the command with the loaders of ``table``; returns the exit code."""
    sweep = _check_options(options)
    store, watch = open_store(_ensure_store(options)), NoiseWatch()
    config = _configure(options, sweep, store)
    has_gpu = torch.cuda.is_available()
    rows, left_out = choose_rows(options.loaders, config, sweep, options.device, table, has_gpu=has_gpu)
    log.info("measuring %s", "; ".join(row.label for row in rows))
    nets = [options.train if options.train != "none" and row.contender.name != FLOOR else "" for row in rows]
    assignments = [Assignment(row=row, seconds=options.seconds, net=net) for row, net in zip(rows, nets, strict=True)]
    measured = measure(assignments, options.runs, trainings=options.runs)
    training = f"{comparison.TRAINING}, {options.train}"
    made = comparison.comparison_rows(measured, store.root, training=training)
    given = {"seconds": options.seconds, "device": options.device, "train": options.train}
    described, method = comparison.describe_options(config) | given, comparison.describe_method(rows)
    content = contents(describe_data(store), described, options.runs, made, method)
    content |= {"doubts": comparison.doubts(made), "left_out": [one._asdict() for one in left_out]}
    record = make_record(comparison.BENCHMARK, content, watch)
    publish(record, f"Loader comparison: {store.manifest.name}", comparison.draw, options.output)
    return EXIT_UNEXPECTED if any(row["failure"] for row in made) else EXIT_DONE


def _check_options(options: Options) -> Sweep:
    """Read what is swept; raises ``InputError`` for what cannot be run."""
    for name in ("runs", "seconds"):
        if getattr(options, name) <= 0:
            raise InputError(f"--{name} {getattr(options, name)}: it must be above 0")
    if options.threads < 0:
        raise InputError(f"--threads {options.threads}: 0 means one for every core, or give a number")
    if options.train != "none":
        from training.model.networks import NETWORKS  # half of what the rest of this command imports

        check_known("train", options.train, ("none", *NETWORKS))
    workers = [] if options.workers == "auto" else parse_numbers("--workers", options.workers, least=0)
    return Sweep(batch_sizes=parse_numbers("--batch-size", options.batch_size, least=1), workers=workers)


def _ensure_store(options: Options) -> Path:
    """Return the store to read, made from ``--source`` where that is asked for or nothing is there."""
    is_phantom = options.source == DEFAULT_FOLDER
    shards = options.shards
    if shards == AUTO:
        shards = to_shards.Options.output if is_phantom else Path("data") / f"shards-{options.source.resolve().name}"
    if is_phantom:
        to_shards.ensure_phantom(shards)
    else:
        log.info("converting %s to %s", options.source, shards)
        to_shards.convert_all(to_shards.Options(input=options.source, output=shards))
    return shards


def _configure(options: Options, sweep: Sweep, store: Store) -> LoaderConfig:
    """Fill in what the options leave open; raises ``InputError`` for what no loader could deliver."""
    largest = max(sweep.batch_sizes)
    patch, threads = options.patch or median_patch(store), options.threads or num_cores()
    chosen = LoaderConfig(store=store.root, patch=patch, batch_size=largest, augment=options.augment)
    per_case = max(SAMPLES_PER_CASE, -(-STEPS_PER_EPOCH * largest // describe_data(store)["cases"]))
    chosen = replace(chosen, samples_per_case=per_case, reuse_buffers=True)
    config = replace(chosen, num_threads=threads, num_workers=num_cores())
    open_plan(config)
    return config


if __name__ == "__main__":
    main(compare, Options)
