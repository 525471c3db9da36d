"""The form of every result: where it comes from, and rows of figures with their spread."""

from __future__ import annotations

import datetime as dt
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from benchmarks.measuring.origin import describe_commit, describe_machine, describe_versions
from benchmarks.measuring.processes import NoiseWatch
from preprocessing.console.errors import InputError

Record = dict[str, Any]
Spread = dict[str, float]
FORMAT_VERSION = 3
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
    "mb_per_s": "MB/s",
    "cpu_ms_per_patch": "CPU, ms/patch",
    "first_batch_ms": "first batch, ms",
    "peak_memory_mb": "peak memory, MB",
    "others_cores": "others, cores",
    "of_floor": "of floor",
    "dali_is": "dali is",
    "of_ceiling": "of ceiling",
    "waiting": "waiting",
    "gpu_utilisation": "GPU busy, %",
    "gpu_memory_mb": "GPU memory, MB",
    "open_ms": "opening, ms",
    "memory_mb": "memory, MB",
    "ratio": "of the row above",
    "plan_us_per_sample": "plan, CPU us/sample",
    "plan_epoch_ms": "first sample of an epoch, CPU ms",
    "dice": "mean Dice",
    "dice_mean": "its mean over seeds",
    "dice_std": "and standard deviation",
    "hd95_mm": "mean HD95, mm",
    "minutes": "minutes",
    "steps": "steps per rank",
    "disk_ms": "disk I/O, ms",
    "preprocessing_ms": "preprocessing, ms",
    "transfer_ms": "CPU to GPU, ms",
    "model_ms": "model, ms",
    "other_ms": "other, ms",
    "hours": "10 epochs, hours",
    "usd": "10 epochs, USD",
    "gpus_patches": "GPUs, patches",
    "gpus_volumes": "GPUs, volumes",
    "gpus_mlperf": "GPUs, MLPerf",
    "usd_per_month": "USD per month",
    "copy_gb_per_s": "pinned copy, GB/s",
    "fill_gb_per_s": "filling the pool, GB/s",
    "filled_gb": "pool, GB",
    "fill_patches_per_s": "patches/s while it fills",
    "later_patches_per_s": "patches/s afterwards",
    "later_read_gb": "read again, GB",
    "tests": "tests",
    "failures": "failures",
    "errors": "errors",
    "skipped": "skipped",
}
"""Every figure a row may have, and its heading; the columns of a table are in this order."""

WRITTEN = dict.fromkeys(("of_ceiling", "waiting"), "{:.1%}")
WRITTEN |= {"others_cores": "{:.2f}", "of_floor": "{:.0%}", "dali_is": "{:.1f}x"}

FIELDS: dict[str, Any] = {
    "format_version": int,
    "benchmark": str,
    "date": str,
    "machine": {"cpu": str, "cores": int, "ram_gib": Real, "gpu": str | None, "python": str},
    "commit": {"hash": str, "dirty": bool},
    "versions": dict,
    "data": {"name": str, "cases": int},
    "options": dict,
    "runs": int,
    "noise": {"others_cores": Real, "load_before": Real | None, "is_noisy": bool},
    "rows": list,
    "method": list,
}
OPTIONAL = {"doubts", "left_out", "unfinished"}
ROW = {"group": str, "label": str, "kind": str, "failure": str | None, "summary": dict}
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")


def check_record(record: Record) -> None:
    """Raise ``InputError`` saying what a record lacks or holds too much, before it is written or shown."""
    _check_fields("result", record, FIELDS, OPTIONAL)
    for name, form in FIELDS.items():
        if isinstance(form, dict) and not (name == "commit" and record[name] is None):
            _check_fields(name, record[name], form, set(record[name]))
    if record["format_version"] != FORMAT_VERSION or not DATE.fullmatch(record["date"]):
        raise InputError(
            f"format {record['format_version']} of {record['date']}, not {FORMAT_VERSION} and a date in UTC"
        )
    if not record["rows"]:
        raise InputError("result: no rows")
    for row in record["rows"]:
        _check_fields("row", row, ROW, {"details"})
        if unknown := {*row["summary"]} - {*METRICS}:
            raise InputError(f"row {row['label']}: unknown figures {', '.join(sorted(unknown))}")
        for name, values in row["summary"].items():
            if not 0 <= values["min"] <= values["median"] <= values["max"]:
                raise InputError(f"row {row['label']}: {name} is no spread: {values}")


def _check_fields(what: str, found: Mapping[str, Any], form: Mapping[str, Any], optional: Iterable[str]) -> None:
    if missing := {*form} - {*found}:
        raise InputError(f"{what}: lacks {', '.join(sorted(missing))}")
    if unknown := {*found} - {*form, *optional}:
        raise InputError(f"{what}: does not know {', '.join(sorted(unknown))}")
    for name, kind in form.items():
        if not isinstance(kind, dict) and not isinstance(found[name], kind):
            raise InputError(f"{what}: {name} is {found[name]!r}")


def brief(value: float) -> str:
    """Write three digits, or all those before the point; millions as 1.23M, next to nothing as <0.001."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    if 0 < value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def written(metric: str, values: Spread, gap: str = " ") -> str:
    """Write the median and, where the runs differ, their range after ``gap``: ``94.8 (92.3..97.9)``."""
    median, least, most = (
        WRITTEN[metric].format(values[name]) if metric in WRITTEN else brief(values[name])
        for name in ("median", "min", "max")
    )
    return f"{median}{gap}({least}..{most})" if values["max"] > values["min"] else median


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
    details: Record | None = None,
) -> Record:
    """Make a row of ``summary``: the values of the runs of each metric (a key of ``METRICS``).

    ``details`` is what one benchmark knows of its rows besides.
    """
    made = {name: spread(values) for name, values in summary.items()}
    row = {"group": group, "label": label, "kind": kind, "failure": failure, "summary": made}
    return row | ({} if details is None else {"details": details})


def make_record(benchmark: str, content: Record, watch: NoiseWatch) -> Record:
    """Complete ``content`` (data, options, runs, rows, method) with its origin, which names no host and no path.

    Raises ``InputError`` where it has not the form of a result.
    """
    noise = watch.read()
    record = {
        "format_version": FORMAT_VERSION,
        "benchmark": benchmark,
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "commit": describe_commit(),
        "versions": describe_versions(),
        "noise": {"others_cores": noise.others_cores, "load_before": noise.load_before, "is_noisy": noise.is_noisy},
        **content,
    }
    check_record(record)
    return record
