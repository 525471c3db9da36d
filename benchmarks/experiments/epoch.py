"""Epochs of MONAI's datasets and ours, with memory enough and too little, and with workers too few and too many."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.contenders.table import Contender, choose_installed
from benchmarks.experiments.memory_limit import memory_limit
from benchmarks.measuring.data import Experiment, forget, make_store, median_patch, parse_numbers
from benchmarks.measuring.epochs import measure_epochs
from benchmarks.measuring.origin import describe_data, num_cores
from benchmarks.measuring.processes import ProcessError
from benchmarks.reporting.figure import LIMIT as LIMIT_COLOUR
from benchmarks.reporting.figure import finish, lines, new_figure, upright_line
from benchmarks.reporting.result import Record, contents, make_row
from pipelines.config import LoaderConfig
from preprocessing.shards.store import Store

log = logging.getLogger(__name__)
LIMIT = "memory limited to"  # in a row's group: what fails there is a finding
LOADERS = "monai,monai-persistent,monai-cache,monai-smartcache,torch,dali"
METHOD = [
    "Loading alone, into the host's memory, no training step; one patch per case and epoch, as in the article.",
    "The first epoch begins with building the loader and fills its caches; the later ones are timed one by one.",
    "Each loader in a process of its own; CPU time and peak memory (PSS) are of the process and its workers.",
    "The cases are copies of the data set's: the nii.gz hard links, the shards files of their own.",
    "After timing, the first batches are checked as in loader_compare; a wrong one fails the row.",
]
LIMIT_METHOD = (
    "A limit is a memory cgroup without swap around the loader's processes; it counts the page cache, from which the "
    "store was dropped before."
)


@dataclass(frozen=True, kw_only=True)
class Epoch(Experiment):
    """Time epochs of MONAI's Dataset, PersistentDataset, CacheDataset and SmartCacheDataset, and of ours.

    First --cases cases with all the machine's memory, then, if asked for, --large-cases within each limit of it.
    """

    loaders: str = LOADERS
    """Comma list."""
    cases: int = 4
    """Cases where memory is not limited."""
    large_cases: int = 12
    """Cases where it is."""
    memory_mb: str = "0"
    """Comma list of limits in MB, which need root and cgroup v1; 0 limits nothing."""


@dataclass(frozen=True, kw_only=True)
class Workers(Experiment):
    """Time epochs with worker processes (torch, MONAI) or threads (dali) too few and too many."""

    loaders: str = "monai,torch,dali"
    """Comma list."""
    workers: str = "0,2,8"
    """Comma list of numbers of workers; with threads there is no 0."""
    cases: int = 16
    """Cases of an epoch."""


def measure_epoch(options: Epoch) -> Record:
    """Run the experiment; returns data, options, runs, rows and method."""
    limits = [limit for limit in parse_numbers("--memory-mb", options.memory_mb, least=0) if limit]
    loaders = installed_here(options.loaders)
    for limit_mb in limits:
        with memory_limit(limit_mb):
            pass  # where it cannot be made, that is said before minutes are spent
    with tempfile.TemporaryDirectory() as scratch:
        store = make_store(options.source, options.cases, Path(scratch) / "small")
        group = f"{options.cases} cases, memory not limited"
        rows = [_row(group, one.name, one, epoch_config(store), options.runs) for one in loaders]
        if limits:
            large = make_store(options.source, options.large_cases, Path(scratch) / "large")
            large_mb = sum(shard.size_bytes for shard in large.manifest.shards) / 1e6
            for limit_mb in limits:
                group = f"{options.large_cases} cases ({large_mb:,.0f} MB of shards), {LIMIT} {limit_mb:,} MB"
                rows += [_row(group, one.name, one, epoch_config(large), options.runs, limit_mb) for one in loaders]
        return _content(store, rows, options.runs, [*METHOD, LIMIT_METHOD] if limits else METHOD)


def measure_workers(options: Workers) -> Record:
    """Run the experiment; returns data, options, runs, rows and method."""
    counts = parse_numbers("--workers", options.workers, least=0)
    loaders = installed_here(options.loaders)
    with tempfile.TemporaryDirectory() as scratch:
        store = make_store(options.source, options.cases, Path(scratch))
        rows = []
        for one in loaders:
            for count in counts:
                if count or not one.has_threads:
                    config = replace(epoch_config(store), num_workers=count, num_threads=max(count, 1))
                    rows.append(_row(one.name, str(count), one, config, options.runs))
        return _content(store, rows, options.runs, METHOD)


def draw_workers(record: Record, path: Path) -> None:
    """Draw seconds of an epoch against the number of workers, a line per loader."""
    figure = new_figure(9, 4.5)
    axes = figure.add_subplot()
    counts = list(dict.fromkeys(row["label"] for row in record["rows"]))
    measured = [row for row in record["rows"] if not row["failure"]]
    series = {
        group: [(counts.index(row["label"]), row["summary"]["epoch_s"]) for row in measured if row["group"] == group]
        for group in dict.fromkeys(row["group"] for row in measured)
    }
    lines(axes, series)
    axes.set_yscale("log")
    axes.set_xticks(range(len(counts)), counts)
    cores = str(record["machine"]["cores"])
    if cores in counts:
        upright_line(axes, counts.index(cores), "as many as cores", LIMIT_COLOUR)
    axes.set(xlabel="workers (dali: threads)", ylabel="seconds of an epoch, logarithmic")
    axes.set_title(f"{record['data']['name']}: workers too few and too many", loc="left")
    finish(figure, record, path)


def installed_here(names: str) -> list[Contender]:
    """Return the loaders that ``names`` lists, saying what all leaves out; raises ``InputError`` for unknown ones."""
    installed, left_out = choose_installed(names)
    for missing in left_out:
        log.warning("left out: %s %s", missing.label, missing.reason)
    return installed


def is_unexpected(row: Record) -> bool:
    """Tell whether a row failed that had memory enough."""
    return bool(row["failure"]) and LIMIT not in row["group"]


def epoch_config(store: Store) -> LoaderConfig:
    """Return what all loaders of these experiments are given: one patch per case, a worker or thread per core."""
    cores = num_cores()
    shared = LoaderConfig(store=Path(store.root), patch=median_patch(store), samples_per_case=1, reuse_buffers=True)
    return replace(shared, num_threads=cores, num_workers=cores)


def _row(group: str, label: str, loader: Contender, config: LoaderConfig, runs: int, limit_mb: int = 0) -> Record:
    """Measure one row; a loader that does not get through is a failed row, under a limit of memory a finding."""
    try:
        if limit_mb:
            forget(path for path in Path(config.store).rglob("*") if path.is_file())
        with memory_limit(limit_mb) as prefix:
            return make_row(group, label, measure_epochs(loader, config, runs, prefix))
    except ProcessError as error:
        return make_row(group, label, {}, failure=str(error))


def _content(store: Store, rows: list[Record], runs: int, method: list[str]) -> Record:
    config = epoch_config(store)
    options = {"patch": list(config.patch), "batch_size": config.batch_size, "workers": config.num_workers}
    return contents(describe_data(store), options, runs, rows, method)
