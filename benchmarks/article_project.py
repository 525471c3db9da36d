"""What the article's epochs and costs would be on its instances, from processor times measured here."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.article_epoch import epoch_config
from benchmarks.article_model import MEMORY_SHARE, STORAGE, Way, project
from benchmarks.assumptions import ARTICLE, EPOCHS, GPUS, INSTANCES
from benchmarks.default_data import describe_cases, make_store
from benchmarks.epoch_seconds import Values, measure_epochs
from benchmarks.experiment import Experiment
from benchmarks.result import Record, make_row
from preprocessing.shards import Store

GROUP = "measured here, the model's input"
METHOD = [
    (
        f"Projected: an epoch of one patch per case, and {EPOCHS} such epochs. Side by side, it lasts as long as the "
        "slowest of GPU, processor (time per patch measured here, over the instance's cores: half its vCPUs, each as "
        "fast as one here) and storage; one after the other, as long as GPU, one core and storage together."
    ),
    (
        f"Storage: {STORAGE.name}, of the smallest size that holds the data; not read again where what is cached "
        f"fits in {MEMORY_SHARE:.0%} of the instance's memory."
    ),
    "Not in it: the first epoch, validation, what GPUs lose by talking to each other, stragglers.",
    (
        f"Published figures are those of {ARTICLE}; its crop and network differ from the GPUs' figures, so orders of "
        "magnitude are to be compared."
    ),
    *dict.fromkeys(f"{item.name}: {item.source}" for item in (*GPUS, *INSTANCES)),
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
        ways, data = _ways(store, measured), describe_cases(store)
    return {
        "data": data,
        "options": {"patch": list(config.patch), "batch_size": config.batch_size},
        "runs": options.runs,
        "rows": [*(make_row(GROUP, name, values) for name, values in measured.items()), *project(ways)],
        "method": METHOD,
    }


def _ways(store: Store, measured: dict[str, Values]) -> list[Way]:
    cpu_s = {name: statistics.median(values["cpu_ms_per_patch"]) / 1e3 for name, values in measured.items()}
    entries = [entry for _, entry in store.entries()]
    packed_mb = sum(record.size_bytes for entry in entries for record in entry.sources) / len(entries) / 1e6
    stored_mb = sum(record.size_bytes for entry in entries for record in entry.files) / len(entries) / 1e6
    voxels = statistics.mean(d * h * w for d, h, w in (entry.source_shape_dhw for entry in entries))
    float_mb = voxels * (4 * len(store.manifest.channel_names) + 1) / 1e6  # float32 image, uint8 label, uncropped
    dataset, cached, ours = cpu_s.values()
    return [
        Way(name="MONAI Dataset, no workers", cpu_s=dataset, read_mb=packed_mb, cached_mb=packed_mb, is_serial=True),
        Way(name="MONAI Dataset, workers", cpu_s=dataset, read_mb=packed_mb, cached_mb=packed_mb),
        Way(name="MONAI CacheDataset, as far as it fits", cpu_s=cached, read_mb=packed_mb, cached_mb=float_mb),
        Way(name="voxelfeed", cpu_s=ours, read_mb=stored_mb, cached_mb=stored_mb),
    ]
