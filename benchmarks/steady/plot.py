"""Draw the steady state: rates with few and many cases, of copies and of the host path, and what many batches took."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.reporting.figure import INK, OURS, PEER, finish, new_figure, whiskers
from benchmarks.reporting.page import brief
from benchmarks.reporting.result import METRICS, Record
from benchmarks.steady import by_cases, growth, host_copy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {by_cases.GROUP: "patches_per_s", growth.GROUP: "faults_per_batch", host_copy.GROUP: "patches_per_s"}


def draw(record: Record, path: Path) -> None:
    """Write the picture as PNG: a panel per group, the ratio or the growth beside each bar."""
    figure = new_figure(9, 6)
    for axes, (group, metric) in zip(figure.subplots(len(PANELS), 1), PANELS.items(), strict=True):
        _draw_group(axes, [row for row in record["rows"] if row["group"] == group and not row["failure"]], metric)
        axes.set_title(f"{record['data']['name']}, dali {group}: {METRICS[metric]}", loc="left", size=10)
    finish(figure, record, path)


def _draw_group(axes: Axes, rows: list[Record], metric: str) -> None:
    for place, row in enumerate(rows):
        values = row["summary"][metric]
        colour = PEER if row["label"].startswith("numpy") else OURS
        axes.barh(place, values["median"], xerr=whiskers(values), color=colour, height=0.6, capsize=3, ecolor=INK)
        text = "".join([f"  {brief(values['median'])}", *_beside(row["summary"])])
        axes.annotate(text, (values["max"], place), va="center", size=9)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.35)


def _beside(summary: Record) -> list[str]:
    texts = {"ratio": " ({:.2f} of the bar above)", "grown_mb": ", grown by {:.1f} MB"}
    return [text.format(summary[name]["median"]) for name, text in texts.items() if name in summary]
