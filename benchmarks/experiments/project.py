"""What the article's epochs and costs would be on its instances, from processor times measured here."""

from __future__ import annotations

import math
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.assumptions import ARTICLE, EPOCHS, INSTANCES
from benchmarks.default_data import make_store
from benchmarks.experiments.epoch import epoch_config
from benchmarks.experiments.epoch_seconds import Values, measure_epochs
from benchmarks.experiments.experiment import Experiment
from benchmarks.experiments.model import MEMORY_SHARE, STORAGE, Way, project
from benchmarks.reporting.data import describe_cases
from benchmarks.reporting.result import Record, make_row
from benchmarks.scaling.throttled_reads import patch_bytes
from preprocessing.shards import Store

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
        f"Published figures are those of {ARTICLE}; its crop and network differ from the GPUs' figures, so orders of "
        "magnitude are to be compared."
    ),
    *dict.fromkeys(f"{instance.gpu.name}: {instance.gpu.source}" for instance in INSTANCES),
    *(f"{instance.name}: {instance.source}" for instance in INSTANCES),
]


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
            "MONAI Dataset": measure_epochs("monai", serial, options.runs),
            "MONAI CacheDataset": measure_epochs("monai-cache", config, options.runs),
            "voxelfeed": measure_epochs("dali", config, options.runs),
        }
        ways = _ways(store, patch_bytes(store, config) / 1e6, measured)
        data = describe_cases(store)
    return {
        "data": data,
        "options": {"patch": list(config.patch), "batch_size": config.batch_size},
        "runs": options.runs,
        "rows": [*(make_row(GROUP, name, values) for name, values in measured.items()), *project(ways)],
        "method": METHOD,
    }


def _ways(store: Store, patch_mb: float, measured: dict[str, Values]) -> list[Way]:
    dataset, cached, ours = (statistics.median(values["cpu_ms_per_patch"]) / 1e3 for values in measured.values())
    entries = [entry for _, entry in store.entries()]
    packed_mb = sum(record.size_bytes for entry in entries for record in entry.sources) / len(entries) / 1e6
    stored_mb = sum(record.size_bytes for entry in entries for record in entry.files) / len(entries) / 1e6
    voxels = statistics.mean(math.prod(entry.source_shape_dhw) for entry in entries)
    float_mb = voxels * (4 * len(store.manifest.channel_names) + 1) / 1e6  # float32 image, uint8 label, uncropped
    plain = Way(
        name="MONAI Dataset, workers",
        cpu_s=dataset,
        missing_cpu_s=dataset,
        cached_mb=packed_mb,
        stored_mb=packed_mb,
        read_mb=packed_mb,
    )
    return [
        replace(plain, name="MONAI Dataset, no workers", is_serial=True),
        plain,
        replace(plain, name="MONAI CacheDataset", cpu_s=cached, cached_mb=float_mb),
        Way(
            name="voxelfeed",
            cpu_s=ours,
            missing_cpu_s=ours,
            cached_mb=stored_mb,
            stored_mb=stored_mb,
            read_mb=min(patch_mb, stored_mb),
        ),
    ]
