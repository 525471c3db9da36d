"""Draw the article's experiments, one function each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.reporting.figure import COLOURS, INK, LIMIT, OURS, PEER, finish, new_figure, whiskers
from benchmarks.reporting.page import brief
from benchmarks.reporting.result import METRICS, PROJECTED, PUBLISHED, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IS_OURS = ("dali", "voxelfeed", "patch of")
PART_COLOURS = dict(zip(("disk_ms", "preprocessing_ms", "transfer_ms", "model_ms", "other_ms"), COLOURS, strict=False))


def draw_load(record: Record, path: Path) -> None:
    """Draw a bar of wall milliseconds per form of an image."""
    figure = new_figure(9, 3.6)
    axes = figure.add_subplot()
    _bars(axes, record["rows"], "wall_ms", "{} ms")
    axes.set_title(f"{record['data']['name']}: loading one image", loc="left")
    axes.set_xlabel("wall milliseconds, logarithmic", loc="left", size=9)
    finish(figure, record, path)


def draw_epoch(record: Record, path: Path) -> None:
    """Draw a panel per condition with a bar of seconds per loader; what did not get through says so."""
    groups = list(dict.fromkeys(row["group"] for row in record["rows"]))
    figure = new_figure(9, 0.8 + 2.2 * len(groups))
    for axes, group in zip(figure.subplots(len(groups), 1, sharex=True, squeeze=False).ravel(), groups, strict=True):
        _bars(axes, [row for row in record["rows"] if row["group"] == group], "epoch_s", "{} s")
        axes.set_title(group, loc="left")
    figure.axes[-1].set_xlabel("seconds of an epoch after the first, logarithmic", loc="left", size=9)
    finish(figure, record, path)


def draw_workers(record: Record, path: Path) -> None:
    """Draw seconds of an epoch against the number of workers, a line per loader."""
    figure = new_figure(9, 4.5)
    axes = figure.add_subplot()
    counts = list(dict.fromkeys(row["label"] for row in record["rows"]))
    for colour, group in zip(COLOURS, dict.fromkeys(row["group"] for row in record["rows"]), strict=False):
        rows = [row for row in record["rows"] if row["group"] == group and not row["failure"]]
        if not rows:
            continue
        places = [counts.index(row["label"]) for row in rows]
        axes.plot(places, [row["summary"]["epoch_s"]["median"] for row in rows], color=colour, linewidth=1)
        for place, row in zip(places, rows, strict=True):
            values = row["summary"]["epoch_s"]
            axes.errorbar(place, values["median"], whiskers(values), fmt="o", color=colour, capsize=3)
        last = rows[-1]["summary"]["epoch_s"]["median"]
        axes.annotate(group, (places[-1], last), xytext=(8, 0), textcoords="offset points", va="center", color=colour)
    axes.set_yscale("log")
    axes.set_xticks(range(len(counts)), counts)
    cores = str(record["machine"]["cores"])
    if cores in counts:
        axes.axvline(counts.index(cores), color=LIMIT, linestyle="--", linewidth=1, zorder=0)
        axes.annotate(
            "as many as cores",
            (counts.index(cores), 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -4),
            textcoords="offset points",
            va="top",
            color=LIMIT,
            size=8,
        )
    axes.set_xlabel("workers (dali: threads)")
    axes.set_ylabel("seconds of an epoch, logarithmic")
    axes.set_title(f"{record['data']['name']}: workers too few and too many", loc="left")
    finish(figure, record, path)


def draw_split(record: Record, path: Path) -> None:
    """Draw a bar per loader, stacked from the parts of a step."""
    rows = record["rows"]
    figure = new_figure(9, 1.8 + 0.5 * len(rows))
    axes = figure.add_subplot()
    left = [0.0] * len(rows)
    for part, colour in PART_COLOURS.items():
        lengths = [row["summary"][part]["median"] for row in rows]
        axes.barh(range(len(rows)), lengths, left=left, color=colour, label=METRICS[part].removesuffix(", ms"))
        left = [start + length for start, length in zip(left, lengths, strict=True)]
    for place, (row, end) in enumerate(zip(rows, left, strict=True)):
        waiting = sum(row["summary"][part]["median"] for part in ("disk_ms", "preprocessing_ms", "transfer_ms"))
        axes.annotate(f" waits {waiting / end:.0%}", (end, place), va="center", size=9)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.legend(ncols=5, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9)
    axes.set_title(f"{record['data']['name']}: where the time of a training step goes", loc="left", pad=26)
    axes.set_xlabel("milliseconds of a training step, medians", loc="left", size=9)
    finish(figure, record, path)


def draw_project(record: Record, path: Path) -> None:
    """Draw a panel per size: projected bars for every instance and way, the article's figures beside them."""
    projected = [row for row in record["rows"] if row["kind"] in (PROJECTED, PUBLISHED)]
    groups = list(dict.fromkeys(row["group"] for row in projected))
    figure = new_figure(11, 10)
    for axes, group in zip(figure.subplots(len(groups), 1, squeeze=False).ravel(), groups, strict=True):
        _bars(axes, [row for row in projected if row["group"] == group], "epoch_s", "{} s")
        axes.set_title(f"Projection, not measured: {group}, one patch each", loc="left")
    figure.axes[-1].set_xlabel("seconds of an epoch, logarithmic; orange: the article's figures", loc="left", size=9)
    finish(figure, record, path)


def _bars(axes: Axes, rows: list[Record], metric: str, text: str) -> None:
    """Draw horizontal bars on a logarithmic axis; a failed row gets its reason."""
    for place, row in enumerate(rows):
        if row["failure"]:
            axes.annotate(
                f" {row['failure']}", (0, place), xycoords=("axes fraction", "data"), va="center", color=LIMIT, size=8
            )
            continue
        values = row["summary"][metric]
        colour = LIMIT if row["kind"] == PUBLISHED else OURS if any(n in row["label"] for n in IS_OURS) else PEER
        axes.barh(place, values["median"], xerr=whiskers(values), color=colour, height=0.65, capsize=3, ecolor=INK)
        axes.annotate(
            text.format(brief(values["median"])),
            (values["max"], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            size=8,
        )
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows], size=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
