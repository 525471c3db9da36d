"""Project epochs and costs on the article's instances from processor times measured here; nothing of it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.assumptions import (
    EPOCHS,
    INSTANCES,
    LARGE_CASES,
    PUBLISHED,
    SMALL_CASES,
    STORAGES,
    Instance,
)
from benchmarks.reporting.result import PROJECTED, Record, make_row
from benchmarks.reporting.result import PUBLISHED as KIND_PUBLISHED
from benchmarks.scaling.storage_model import fsx_size_tib

STORAGE = STORAGES[2]  # FSx for Lustre, 500 MB/s/TiB
MEMORY_SHARE = 0.7  # of an instance's memory that is left for volumes


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to feed a GPU, by what a patch costs; one patch to a case and epoch.

    ``cpu_s`` are processor seconds of a patch whose case is in memory, ``missing_cpu_s`` of one whose case is not.
    ``cached_mb`` is what a case takes in memory, ``stored_mb`` on disk, ``read_mb`` is read there for a patch.
    ``is_serial``: loading and training take turns in one process (PyTorch's default of no workers).
    """

    name: str
    cpu_s: float
    missing_cpu_s: float
    cached_mb: float
    stored_mb: float
    read_mb: float
    is_serial: bool = False


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Seconds of an epoch, and the stage that decides them."""

    seconds: float
    limit: str


def epoch_seconds(way: Way, instance: Instance, num_cases: int) -> Epoch:
    """Project a later epoch: stages that run side by side last as long as the slowest, serial ones add up.

    Processor work spreads over the instance's cores (a serial loader's over one per GPU), a core there being as fast as
    one here. Memory keeps as many cases as fit; the file system is read for all of them unless all fit, since what a
    page cache drops is what a shuffled epoch needs next. GPUs share the cases evenly.
    """
    kept = min(MEMORY_SHARE * instance.ram_gib * 2**30 / (num_cases * way.cached_mb * 1e6), 1.0)
    cpu_s = num_cases * (kept * way.cpu_s + (1 - kept) * way.missing_cpu_s)
    rate_mb_per_s = STORAGE.rate_mb_per_s(fsx_size_tib(num_cases * way.stored_mb))
    stages = {
        "GPU": num_cases / (instance.gpu.patches_per_s * instance.num_gpus),
        "processor": cpu_s / (instance.num_gpus if way.is_serial else instance.cores),
        "storage": 0.0 if kept == 1 else num_cases * way.read_mb / rate_mb_per_s,
    }
    slowest = max(stages, key=lambda name: stages[name])
    return Epoch(seconds=sum(stages.values()) if way.is_serial else stages[slowest], limit=slowest)


def project(ways: list[Way]) -> Iterator[Record]:
    """Yield a row for every size, instance and way, and the article's own figures."""
    for num_cases in (SMALL_CASES, LARGE_CASES):
        group = f"epoch of {num_cases:,} cases"
        for instance in INSTANCES:
            for way in ways:
                epoch = epoch_seconds(way, instance, num_cases)
                hours = EPOCHS * epoch.seconds / 3600
                summary = {
                    "epoch_s": [epoch.seconds],
                    "hours": [hours],
                    "usd": [hours * instance.usd_per_hour],
                }
                label = f"{instance.name}, {way.name} (limit: {epoch.limit})"
                yield make_row(group, label, summary, kind=PROJECTED)
    for published in PUBLISHED:
        group = f"epoch of {published.num_cases:,} cases"
        epoch_s = [seconds / published.epochs for seconds in published.seconds]
        summary = {"epoch_s": epoch_s, "hours": [EPOCHS * seconds / 3600 for seconds in epoch_s]}
        yield make_row(group, f"article: {published.what}", summary, kind=KIND_PUBLISHED)
