"""Draw a record: a bar per loader, the numpy floor and the synthetic ceiling as lines; below, the same in training."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contenders.table import CEILING, FLOOR, OWN_DRAWS
from benchmarks.reporting.figure import INK, LIMIT, OURS, PEER, new_figure
from benchmarks.reporting.result import Record, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOM = 1.3  # the axis ends this far right of the longest bar, to hold its number


def plot(record: Record, path: Path) -> None:
    """Write the picture as PNG. The synthetic ceiling is off the scale as a rule and then only named."""
    bars = [row for row in record["rows"] if row["loader"] not in (CEILING, FLOOR)]
    trained = [row for row in record["rows"] if row["training"] and row["loader"] != CEILING]
    height = 2.1 + 0.55 * max(len(bars), 1)
    height_trained = 1.2 + 0.55 * len(trained) if trained else 0.0
    figure = new_figure(9, height + height_trained)
    ratios = [height, height_trained] if trained else [height]
    axes, *below = figure.subplots(len(ratios), gridspec_kw={"height_ratios": ratios}, squeeze=False)[:, 0]
    end = ROOM * max([_rate(row, "max") for row in record["rows"] if row["loader"] != CEILING], default=1.0)
    end = end or 1.0
    axes.set_xlim(0, end)
    _draw_bars(axes, bars, [row["summary"] and row["summary"]["patches_per_s"] for row in bars])
    _draw_lines(axes, record, end)
    data, options = record["data"], record["options"]
    patch = " x ".join(map(str, options["patch"]))
    axes.set_title(f"{data['name']}: patches of {patch} x {data['channels']} delivered per second", loc="left")
    axes.set_xlabel(_caption(record, end), loc="left", color=INK, size=9)
    if trained:
        _draw_training(below[0], trained, record)
    for drawn in (axes, *below):
        drawn.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _draw_training(axes: Axes, rows: list[Record], record: Record) -> None:
    """Draw what the training step took from each loader, and the ceilings: what it takes when nothing is loaded."""
    _draw_bars(axes, rows, [row["training"]["patches_per_s"] for row in rows])
    ceilings = [row for row in record["rows"] if row["training"] and row["loader"] == CEILING]
    rates = [row["training"]["patches_per_s"] for row in (*rows, *ceilings)]
    axes.set_xlim(0, ROOM * max(rate["max"] for rate in rates))
    for row in ceilings:
        _draw_line(axes, row["training"]["patches_per_s"]["median"], row["label"], LIMIT)
    net = rows[0]["training"]["net"]
    axes.set_title(f"inside a training step of {net}: patches per second; dashed: nothing to load", loc="left")


def _draw_bars(axes: Axes, rows: list[Record], rates: list[Spread | None]) -> None:
    for place, (row, rate) in enumerate(zip(rows, rates, strict=True)):
        median, least, most = (rate["median"], rate["min"], rate["max"]) if rate else (0.0, 0.0, 0.0)
        colour = PEER if row["loader"] in OWN_DRAWS else OURS
        axes.barh(place, median, height=0.6, color=colour, xerr=[[median - least], [most - median]], capsize=4)
        text = "failed" if rate is None else f"{median:,.3g}" if median < 100 else f"{median:,.0f}"
        axes.annotate(text, (most, place), xytext=(6, 0), textcoords="offset points", va="center", weight="bold")
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.9)


def _draw_lines(axes: Axes, record: Record, end: float) -> None:
    """Draw the floor's lines, and the ceiling's when it is on the scale."""
    sides = cycle(["right", "left"])  # two floors close together keep their names apart: slower one first
    lines = [row for row in record["rows"] if row["loader"] == FLOOR and row["summary"]]
    lines += [row for row in record["rows"] if row["loader"] == CEILING and 0 < _rate(row, "median") < end]
    for row in sorted(lines, key=lambda row: _rate(row, "median")):
        place = _rate(row, "median")
        _draw_line(axes, place, f"{row['loader']}, {row['settings'] or 'ceiling'}: {place:,.0f}", INK, next(sides))


def _draw_line(axes: Axes, place: float, text: str, colour: str, side: str = "left") -> None:
    """Draw an upright line through the bars, its name beside it: ``side`` is the text's side that lies at the line."""
    shift = 4 if side == "left" else -4
    axes.axvline(place, color=colour, linestyle="--", linewidth=1)
    axes.annotate(
        text, (place, -0.85), xytext=(shift, -2), textcoords="offset points", ha=side, va="top", color=colour, size=9
    )


def _caption(record: Record, end: float) -> str:
    machine, options = record["machine"], record["options"]
    gpu = machine["gpu"] or "no GPU"
    ceiling = [
        f"ceiling ({row['label']}): {_rate(row, 'median'):,.0f}, off the scale"
        for row in record["rows"]
        if row["loader"] == CEILING and _rate(row, "median") >= end
    ]
    runs = f"median of {options['runs']} runs, whiskers from the slowest to the fastest"
    return "\n".join(
        [f"patches/s, {runs}", f"{machine['cpu']}, {machine['cores']} cores, {gpu}, {record['date'][:10]}", *ceiling]
    )


def _rate(row: Record, name: str) -> float:
    return float(row["summary"]["patches_per_s"][name]) if row["summary"] else 0.0
