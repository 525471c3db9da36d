"""The form of every result: where it comes from, and rows of figures with their spread."""

from __future__ import annotations

import datetime as dt
import re
import statistics
from collections.abc import Mapping, Sequence
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

TEXT, COUNT, NUMBER = (str,), (int,), (int, float)
FORM: dict[str, Any] = {
    "": {"format_version": COUNT, "benchmark": TEXT, "date": TEXT, "machine": (dict,), "commit": (dict, type(None))}
    | {"versions": (dict,), "data": (dict,), "options": (dict,), "runs": COUNT, "noise": (dict,)}
    | {"rows": (list,), "method": (list,)},
    "machine": {"cpu": TEXT, "cores": COUNT, "ram_gib": NUMBER, "gpu": (str, type(None)), "python": TEXT},
    "commit": {"hash": TEXT, "dirty": (bool,)},
    "data": {"name": TEXT, "cases": COUNT},
    "noise": {"others_cores": NUMBER, "load_before": (*NUMBER, type(None)), "is_noisy": (bool,)},
    "row": {"group": TEXT, "label": TEXT, "kind": TEXT, "failure": (str, type(None)), "summary": (dict,)},
}
"""The fields of a result, of its parts and of its rows, and their types."""
OPTIONAL = {"": {"doubts", "left_out", "unfinished"}, "row": {"details"}}
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")


def check_record(record: Record) -> None:
    """Raise ``InputError`` saying what a record lacks or holds too much, before it is written or shown."""
    _check_fields("", record)
    for part in ("machine", "commit", "data", "noise"):
        if record[part] is not None:
            _check_fields(part, record[part])
    if record["format_version"] != FORMAT_VERSION or not DATE.fullmatch(record["date"]) or not record["rows"]:
        raise InputError(f"it has to be of format {FORMAT_VERSION}, with a date in UTC and at least one row")
    for row in record["rows"]:
        _check_fields("row", row)
        for name, values in row["summary"].items():
            if name not in METRICS or not 0 <= values["min"] <= values["median"] <= values["max"]:
                raise InputError(f"row {row['label']}: {name} is unknown, or no spread: {values}")


def _check_fields(part: str, found: Mapping[str, Any]) -> None:
    wrong = [name for name, kinds in FORM[part].items() if not isinstance(found.get(name, ...), kinds)]
    unknown = sorted({*found} - {*FORM[part], *OPTIONAL.get(part, found)})
    if wrong or unknown:
        raise InputError(f"{part or 'result'}: missing or wrong: {', '.join(wrong)}; unknown: {', '.join(unknown)}")


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


def groups_of(record: Record) -> dict[str, list[Record]]:
    """Return the rows by their group, in order."""
    groups: dict[str, list[Record]] = {}
    for row in record["rows"]:
        groups.setdefault(row["group"], []).append(row)
    return groups


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


def contents(data: Record, options: Record, runs: int, rows: list[Record], method: list[str]) -> Record:
    """Put together what a benchmark itself knows of its result."""
    return {"data": data, "options": options, "runs": runs, "rows": rows, "method": method}


def make_record(benchmark: str, content: Record, watch: NoiseWatch) -> Record:
    """Complete ``content`` (``contents`` and what is optional) with its origin, which names no host and no path.

    Raises ``InputError`` where it has not the form of a result.
    """
    record = {
        "format_version": FORMAT_VERSION,
        "benchmark": benchmark,
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "commit": describe_commit(),
        "versions": describe_versions(),
        "noise": watch.read(),
        **content,
    }
    check_record(record)
    return record
