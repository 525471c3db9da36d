"""The form of every result: where it comes from, and rows of figures with their spread."""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measuring.origin import describe_commit, describe_machine, describe_versions
from benchmarks.measuring.processes import NoiseWatch
from benchmarks.reporting.schema import COUNT, DATE, NUMBER, SPREAD, TEXT, exactly, list_of, or_null

Record = dict[str, Any]
Spread = dict[str, float]
FORMAT_VERSION = 1
MEASURED, PROJECTED, PUBLISHED = "measured", "projected", "published"

METRICS = {
    "wall_s": "wall, s",
    "cpu_s": "CPU, s",
    "wall_ms": "wall, ms",
    "cpu_ms": "CPU, ms",
    "times_floor": "of the floor",
    "times_ours": "voxelfeed is faster by",
    "cases_per_s": "cases/s",
    "first_epoch_s": "first epoch, s",
    "epoch_s": "later epochs, s",
    "patches_per_s": "patches/s",
    "cpu_ms_per_patch": "CPU, ms/patch",
    "peak_memory_mb": "peak memory, MB",
    "open_ms": "opening, ms",
    "memory_mb": "memory, MB",
    "first_batch_ms": "first batch of an epoch, ms",
    "ratio": "of the row above",
    "faults_per_batch": "minor page faults/batch",
    "grown_mb": "memory grown, MB",
    "plan_us_per_sample": "plan, CPU us/sample",
    "plan_epoch_ms": "first sample of an epoch, CPU ms",
    "dice": "mean Dice",
    "dice_mean": "its mean over seeds",
    "dice_std": "and standard deviation",
    "hd95_mm": "mean HD95, mm",
    "minutes": "minutes",
    "steps": "steps per rank",
    "predicted_patches_per_s": "predicted patches/s",
    "error_percent": "error, %",
    "disk_ms": "disk I/O, ms",
    "preprocessing_ms": "preprocessing, ms",
    "transfer_ms": "CPU to GPU, ms",
    "model_ms": "model, ms",
    "other_ms": "other, ms",
    "hours": "10 epochs, hours",
    "usd": "10 epochs, USD",
    "mb_per_s": "MB/s",
    "gpus_patches": "GPUs, patches",
    "gpus_volumes": "GPUs, volumes",
    "gpus_mlperf": "GPUs, MLPerf",
    "usd_per_month": "USD per month",
}
"""Every figure a row may have, and its heading."""

ROW = exactly(
    {
        "group": TEXT,
        "label": TEXT,
        "kind": {"enum": [MEASURED, PROJECTED, PUBLISHED]},
        "failure": or_null(TEXT),
        "summary": {
            "type": "object",
            "properties": dict.fromkeys(METRICS, SPREAD),
            "additionalProperties": False,
        },
    }
)
ORIGIN = {
    "benchmark": TEXT,
    "date": DATE,
    "machine": {"type": "object", "required": ["cpu", "cores", "ram_gib", "gpu"]},
    "commit": or_null({"type": "object", "required": ["hash", "dirty"]}),
    "versions": {"type": "object", "additionalProperties": TEXT},
    "data": {
        "type": "object",
        "required": ["name", "cases"],
        "properties": {"name": TEXT, "cases": COUNT, "distinct": COUNT},
    },
}
"""What stands in the JSON of every benchmark, also in those with a schema of their own."""

OWN = {
    "method": list_of(TEXT),
    "format_version": {"const": FORMAT_VERSION},
    "options": {"type": "object"},
    "runs": COUNT,
    "noise": {
        "type": "object",
        "required": ["others_cores", "load_before", "is_noisy"],
        "properties": {"others_cores": NUMBER, "load_before": NUMBER, "is_noisy": {"type": "boolean"}},
    },
    "rows": list_of(ROW) | {"minItems": 1},
}
SCHEMA = {"$schema": "https://json-schema.org/draft/2020-12/schema", **exactly(ORIGIN | OWN)}
"""The whole JSON of the benchmarks that use this file."""


def spread(values: Sequence[float]) -> Spread:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def make_row(
    group: str,
    label: str,
    summary: Mapping[str, Sequence[float]],
    *,
    kind: str = MEASURED,
    failure: str | None = None,
) -> Record:
    """Make a row of ``summary``: the values of the runs of each metric (a key of ``METRICS``)."""
    made = {name: spread(values) for name, values in summary.items()}
    return {"group": group, "label": label, "kind": kind, "failure": failure, "summary": made}


def describe_origin() -> Record:
    """Return date, machine, commit and versions. It names no host and no path."""
    return {
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "commit": describe_commit(),
        "versions": describe_versions(),
    }


def make_record(benchmark: str, content: Record, watch: NoiseWatch) -> Record:
    """Complete ``content`` (data, options, runs, rows, method); raises ``ValidationError`` off the schema."""
    import jsonschema

    noise = watch.read()
    described = {"others_cores": noise.others_cores, "load_before": noise.load_before, "is_noisy": noise.is_noisy}
    head = {"format_version": FORMAT_VERSION, "benchmark": benchmark, "noise": described}
    record = head | describe_origin() | content
    jsonschema.validate(record, SCHEMA)
    return record
