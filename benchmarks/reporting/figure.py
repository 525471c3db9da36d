"""The pictures of all results: bars, lines and stacks, and the line that says where the figures come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.reporting.result import METRICS, PROJECTED, PUBLISHED, Record, Spread, brief, groups_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, PEER, LIMIT, INK = "#2b6cb0", "#a0aec0", "#c05621", "#4a5568"
COLOURS = ("#2b6cb0", "#38a169", "#b7791f", "#805ad5", "#c53030", "#319795")
MEDIANS = "median of {runs} runs, whiskers from the least to the most"
IS_OURS = ("dali", "voxelfeed", "patch of")
Points = Sequence[tuple[float, Spread]]


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Figure, record: Record, path: Path, shows: str = MEDIANS) -> None:
    """Say on which machine and when it was measured, what is shown, and whether it was quiet; write the PNG."""
    machine, noise = record["machine"], record["noise"]
    parts = [f"{machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}", record["date"][:10]]
    text = "; ".join([*parts, *([shows.format(**record)] if shows else [])])
    if noise["is_noisy"]:
        text += f"\nNOISY MACHINE: something else used {noise['others_cores']:.1f} cores meanwhile"
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=LIMIT if noise["is_noisy"] else INK)
    figure.savefig(path, dpi=130)


def draw_bars(record: Record, path: Path, metric: str, *, is_log: bool = False) -> None:
    """Write a picture with a panel of bars for every group of rows that has ``metric``, one below the other."""
    shown = {group: rows for group, rows in groups_of(record).items() if any(metric in row["summary"] for row in rows)}
    figure, grid = new_panels(map(len, shown.values()))
    for axes, (group, rows) in zip(grid, shown.items(), strict=True):
        bars(axes, rows, metric, is_log=is_log)
        projected = "projected, not measured: " if any(row["kind"] == PROJECTED for row in rows) else ""
        axes.set_title(f"{record['data']['name']}, {projected}{group}", loc="left", size=11)
    finish(figure, record, path)


def new_panels(num_bars: Iterable[int]) -> tuple[Figure, list[Axes]]:
    """Make a figure with a panel for each number of bars, one below the other."""
    heights = [1.1 + 0.36 * count for count in num_bars]
    figure = new_figure(9.5, 0.3 + sum(heights))
    return figure, list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights).ravel())


def bars(axes: Axes, rows: Sequence[Record], metric: str, *, note: str = "", is_log: bool = False) -> None:
    """Draw a bar with whiskers for each row, its figure beside it; a failed row gets its reason."""
    for place, row in enumerate(rows):
        if metric not in row["summary"]:
            text = f" failed: {row['failure']}"[:110]
            axes.annotate(text, (0, place), xycoords=("axes fraction", "data"), va="center", color=LIMIT, size=8)
            continue
        values, colour = row["summary"][metric], colour_of(row)
        axes.barh(place, values["median"], xerr=whiskers(values), color=colour, height=0.65, capsize=3, ecolor=INK)
        beside(axes, brief(values["median"]), (values["max"], place), va="center")
    if is_log:
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows], size=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    words = [METRICS[metric], *["logarithmic"] * is_log, *[note] * bool(note)]
    axes.set_xlabel(", ".join(words), loc="left", size=9)


def colour_of(row: Record) -> str:
    """Tell ours, the peers and what others published apart."""
    if row["kind"] == PUBLISHED:
        return LIMIT
    is_ours = row.get("details", {}).get("is_ours", any(name in row["label"] for name in IS_OURS))
    return OURS if is_ours else PEER


def lines(axes: Axes, series: Mapping[str, Points]) -> None:
    """Draw a line with whiskers for each of ``series``, points (x, spread of y), named at its end."""
    for number, (name, unsorted) in enumerate(series.items()):
        points = sorted(unsorted, key=lambda point: point[0])
        colour, places = COLOURS[number % len(COLOURS)], [place for place, _ in points]
        axes.plot(places, [values["median"] for _, values in points], color=colour, linewidth=1)
        for place, values in points:
            axes.errorbar(place, values["median"], whiskers(values), fmt="o", color=colour, capsize=3)
        if points:
            beside(axes, name, (places[-1], points[-1][1]["median"]), va="center", color=colour)


def stack(axes: Axes, rows: Sequence[Record], parts: Sequence[str]) -> list[float]:
    """Draw a bar for each row, put together from the medians of ``parts``; returns where the bars end."""
    ends = [0.0] * len(rows)
    for part, colour in zip(parts, COLOURS, strict=False):
        lengths = [row["summary"][part]["median"] for row in rows]
        axes.barh(range(len(rows)), lengths, left=ends, color=colour, label=METRICS[part].removesuffix(", ms"))
        ends = [end + length for end, length in zip(ends, lengths, strict=True)]
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.legend(ncols=5, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9)
    return ends


def whiskers(values: Spread) -> list[list[float]] | None:
    """Return the distances from the median down to the least and up to the most, as matplotlib takes them."""
    if values["min"] == values["max"]:
        return None
    return [[values["median"] - values["min"]], [values["max"] - values["median"]]]


def beside(axes: Axes, text: str, place: tuple[float, float], *, va: str = "bottom", color: str = INK) -> None:
    """Write a few words to the right of a place of the data."""
    axes.annotate(text, place, xytext=(5, 0), textcoords="offset points", va=va, size=8, color=color)


def upright_line(axes: Axes, place: float, text: str, colour: str = INK, side: str = "left") -> None:
    """Draw a dashed line from bottom to top, its name at its upper end: ``side`` is the text's side that touches it."""
    axes.axvline(place, color=colour, linestyle="--", linewidth=1, zorder=3)
    at, shift = (place, 1), (4 if side == "left" else -4, -2)
    anchor = ("data", "axes fraction")
    axes.annotate(
        text, at, xycoords=anchor, xytext=shift, textcoords="offset points", ha=side, va="top", color=colour, size=8
    )
