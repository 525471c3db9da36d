"""Draw the scale result: opening, ranks, the storage model against its points, and how many GPUs a storage feeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.experiments.assumptions import CASE_MB, GPUS, PATCH_MB, SAMPLES_PER_CASE
from benchmarks.experiments.storage import gpus_fed
from benchmarks.reporting.figure import COLOURS, INK, LIMIT, OURS, finish, limit_line, new_figure, whiskers
from benchmarks.reporting.result import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPENING, RANKS, POINTS, STORAGE = "opening a store", "plan, by ranks", "throttled reads", "storage and GPUs"
OPEN_LIMIT_MS, OPEN_LIMIT_MB = 1000.0, 200.0  # what a store of 48,884 cases may cost at most


def draw(record: Record, path: Path) -> None:
    """Write the picture as PNG."""
    figure = new_figure(12, 9)
    opening, ranks, points, storage = figure.subplots(2, 2).ravel()
    _draw_opening(opening, _rows(record, OPENING))
    _draw_ranks(ranks, _rows(record, RANKS))
    _draw_points(points, _rows(record, POINTS))
    _draw_storage(storage, _rows(record, STORAGE))
    finish(figure, record, path)


def _rows(record: Record, group: str) -> list[Record]:
    return [row for row in record["rows"] if row["group"] == group and not row["failure"]]


def _draw_opening(axes: Axes, rows: list[Record]) -> None:
    cases = [int(row["label"].split()[0]) for row in rows]
    for row, place in zip(rows, cases, strict=True):
        axes.errorbar(
            place,
            row["summary"]["open_ms"]["median"],
            whiskers(row["summary"]["open_ms"]),
            fmt="o",
            color=OURS,
            capsize=3,
        )
        axes.annotate(
            f"{row['summary']['memory_mb']['median']:.0f} MB",
            (place, row["summary"]["open_ms"]["max"]),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            size=8,
            color=INK,
        )
    axes.loglog()
    limit_line(axes, OPEN_LIMIT_MS, f"limit: {OPEN_LIMIT_MS:g} ms (and {OPEN_LIMIT_MB:.0f} MB)")
    axes.set_title("Opening a store: time, and memory beside each point", loc="left")
    axes.set_xlabel("cases in the store")
    axes.set_ylabel("ms")


def _draw_ranks(axes: Axes, rows: list[Record]) -> None:
    places = [int(row["label"].split()[0]) for row in rows]
    for row, place in zip(rows, places, strict=True):
        values = row["summary"]["plan_us_per_sample"]
        axes.errorbar(place, values["median"], whiskers(values), fmt="o", color=OURS, capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_ylim(0)
    axes.set_title("Plan: checked for every number of ranks, and timed", loc="left")
    axes.set_xlabel("ranks")
    axes.set_ylabel("processor microseconds per sample")


def _draw_points(axes: Axes, rows: list[Record]) -> None:
    full, *throttled = [row["summary"] for row in rows]
    for values in throttled:
        axes.errorbar(
            values["mb_per_s"]["median"],
            values["patches_per_s"]["median"],
            whiskers(values["patches_per_s"]),
            fmt="o",
            color=OURS,
            capsize=3,
            label="measured" if values is throttled[0] else None,
        )
    rates = [values["mb_per_s"]["median"] for values in throttled]
    predicted = [values["predicted_patches_per_s"]["median"] for values in throttled]
    axes.plot(rates, predicted, color=INK, linewidth=1, label="model")
    limit_line(axes, full["patches_per_s"]["median"], "ceiling: not throttled")
    worst = max(values["error_percent"]["median"] for values in throttled)
    axes.set_ylim(0, 1.15 * full["patches_per_s"]["max"])
    axes.set_xlim(0)
    axes.legend(loc="lower right", frameon=False)
    axes.set_title(f"Storage model against throttled reads: off by {worst:.0f} % at most", loc="left")
    axes.set_xlabel("storage, MB/s")
    axes.set_ylabel("patches/s")


def _draw_storage(axes: Axes, rows: list[Record]) -> None:
    rates = np.geomspace(100, 30_000, 50)
    for colour, gpu in zip(COLOURS, GPUS, strict=False):
        volumes = [gpus_fed(gpu, CASE_MB / SAMPLES_PER_CASE, rate) for rate in rates]
        axes.plot(rates, volumes, color=colour, label=f"{gpu.name}, whole volumes, {SAMPLES_PER_CASE} patches each")
        patches = [gpus_fed(gpu, PATCH_MB, rate) for rate in rates]
        axes.plot(rates, patches, color=colour, linestyle=":", label=f"{gpu.name}, patch by patch")
    mlperf = GPUS[-1].mlperf_mb_per_s
    axes.plot(rates, rates / mlperf, color=LIMIT, linestyle="--", label=f"MLPerf unet3d, H100: {mlperf / 1e3:.2f} GB/s")
    names = {row["label"].rpartition(": ")[0]: row["summary"]["mb_per_s"]["median"] for row in rows}
    for name, rate in names.items():
        axes.axvline(rate, color=INK, linewidth=0.5)
        axes.annotate(
            name,
            (rate, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(-2, 0),
            textcoords="offset points",
            rotation=90,
            ha="right",
            size=7,
            color=INK,
        )
    axes.loglog()
    axes.set_ylim(0.004, 3e4)
    axes.legend(loc="upper left", fontsize=7, facecolor="white", framealpha=1, edgecolor="none")
    axes.set_title("Projection: GPUs that a storage keeps busy", loc="left")
    axes.set_xlabel("storage, MB/s")
    axes.set_ylabel("GPUs")
