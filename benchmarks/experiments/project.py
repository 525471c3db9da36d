"""Project epochs and costs on the article's instances from processor times measured here; nothing of it is measured."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.contenders.table import TABLE
from benchmarks.experiments import assumptions
from benchmarks.experiments.assumptions import EPOCHS, INSTANCES, Instance, fsx_size_tib
from benchmarks.experiments.epoch import epoch_config
from benchmarks.measuring.data import Experiment, make_store, patch_bytes
from benchmarks.measuring.epochs import Values, measure_epochs
from benchmarks.measuring.origin import describe_data
from benchmarks.reporting.result import PROJECTED, PUBLISHED, Record, contents, make_row
from preprocessing.shards.store import Store

STORAGE = assumptions.STORAGES[2]  # FSx for Lustre, 500 MB/s/TiB
MEMORY_SHARE = 0.7  # of an instance's memory that is left for volumes
GROUP = "measured here, the model's input"
METHOD = [
    (
        f"Projected: an epoch of one patch per case, and {EPOCHS} such epochs. Side by side, it lasts as long as the "
        "slowest of GPU, processor (time per patch measured here, over the instance's cores: half its vCPUs, each as "
        "fast as one here) and storage; one after the other, as long as GPU, one core and storage together."
    ),
    (
        f"{MEMORY_SHARE:.0%} of an instance's memory keep as many cases as fit; what does not fit is prepared anew. "
        f"Unless all fit, all are read from {STORAGE.name}, of the smallest size that holds them."
    ),
    "Not in it: the first epoch, validation, what GPUs lose by talking to each other, stragglers.",
    (
        f"Published figures are those of {assumptions.ARTICLE}; its crop and network differ from the GPUs' figures, so "
        "compare orders of magnitude."
    ),
    *dict.fromkeys(f"{instance.gpu.name}: {instance.gpu.source}" for instance in INSTANCES),
    *(f"{instance.name}: {instance.source}" for instance in INSTANCES),
]


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


class Epoch(NamedTuple):
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
    for num_cases in (assumptions.SMALL_CASES, assumptions.LARGE_CASES):
        group = f"epoch of {num_cases:,} cases"
        for instance in INSTANCES:
            for way in ways:
                epoch = epoch_seconds(way, instance, num_cases)
                hours = EPOCHS * epoch.seconds / 3600
                summary = {"epoch_s": [epoch.seconds], "hours": [hours], "usd": [hours * instance.usd_per_hour]}
                label = f"{instance.name}, {way.name} (limit: {epoch.limit})"
                yield make_row(group, label, summary, kind=PROJECTED)
    for published in assumptions.PUBLISHED:
        group = f"epoch of {published.num_cases:,} cases"
        epoch_s = [seconds / published.epochs for seconds in published.seconds]
        summary = {"epoch_s": epoch_s, "hours": [EPOCHS * seconds / 3600 for seconds in epoch_s]}
        yield make_row(group, f"article: {published.what}", summary, kind=PUBLISHED)


@dataclass(frozen=True, kw_only=True)
class Project(Experiment):
    """Project epoch times and costs on ml.p3.2xlarge, ml.p3.16xlarge and ml.p4d.24xlarge, beside the article's.

    Measures the processor time per patch of MONAI's Dataset, its CacheDataset and ours; the rest is a model.
    """

    cases: int = 6
    """Cases of an epoch that is measured."""


def measure_project(options: Project) -> Record:
    """Run the experiment; returns data, options, runs, rows and method."""
    with tempfile.TemporaryDirectory() as scratch:
        store = make_store(options.source, options.cases, Path(scratch))
        config = epoch_config(store)
        serial = replace(config, num_workers=0)
        measured = {
            "MONAI Dataset": measure_epochs(TABLE["monai"], serial, options.runs),
            "MONAI CacheDataset": measure_epochs(TABLE["monai-cache"], config, options.runs),
            "voxelfeed": measure_epochs(TABLE["dali"], config, options.runs),
        }
        ways = _ways(store, patch_bytes(store, config) / 1e6, measured)
        data = describe_data(store)
    rows = [*(make_row(GROUP, name, values) for name, values in measured.items()), *project(ways)]
    return contents(data, {"patch": list(config.patch), "batch_size": config.batch_size}, options.runs, rows, METHOD)


def _ways(store: Store, patch_mb: float, measured: dict[str, Values]) -> list[Way]:
    dataset, cached, ours = (statistics.median(values["cpu_ms_per_patch"]) / 1e3 for values in measured.values())
    entries = [entry for _, entry in store.entries()]
    packed_mb = sum(record.size_bytes for entry in entries for record in entry.sources) / len(entries) / 1e6
    stored_mb = sum(record.size_bytes for entry in entries for record in entry.files) / len(entries) / 1e6
    voxels = statistics.mean(math.prod(entry.source_shape_dhw) for entry in entries)
    float_mb = voxels * (4 * len(store.manifest.channel_names) + 1) / 1e6  # float32 image, uint8 label, uncropped

    def way(name: str, cpu_s: float, mb: float) -> Way:
        return Way(name=name, cpu_s=cpu_s, missing_cpu_s=cpu_s, cached_mb=mb, stored_mb=mb, read_mb=mb)

    plain = way("MONAI Dataset, workers", dataset, packed_mb)
    return [
        replace(plain, name="MONAI Dataset, no workers", is_serial=True),
        plain,
        replace(plain, name="MONAI CacheDataset", cpu_s=cached, cached_mb=float_mb),
        replace(way("voxelfeed", ours, stored_mb), read_mb=min(patch_mb, stored_mb)),
    ]
