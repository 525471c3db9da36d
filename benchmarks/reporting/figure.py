"""What the plots of all results share: size, colours, the line that says where the figures come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.reporting.result import Record, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, PEER, LIMIT, INK = "#2b6cb0", "#a0aec0", "#c05621", "#4a5568"
MEDIANS = "median of {runs} runs, whiskers from the least to the most"
COLOURS = ("#2b6cb0", "#38a169", "#b7791f", "#805ad5", "#c53030", "#319795")


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
    said = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}",
        record["date"][:10],
        *([shows.format(**record)] if shows else []),
    ]
    text = "; ".join(said)
    if noise["is_noisy"]:
        text += f"\nNOISY MACHINE: something else used {noise['others_cores']:.1f} cores meanwhile"
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    colour = LIMIT if noise["is_noisy"] else INK
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=colour)
    figure.savefig(path, dpi=130)


def whiskers(values: Spread) -> list[list[float]] | None:
    """Return the distances from the median down to the least and up to the most, as matplotlib takes them."""
    if values["min"] == values["max"]:
        return None
    return [[values["median"] - values["min"]], [values["max"] - values["median"]]]


def limit_line(axes: Axes, value: float, text: str) -> None:
    """Draw a horizontal line that must not be crossed, and name it."""
    axes.axhline(value, color=LIMIT, linestyle="--", linewidth=1)
    axes.annotate(
        text,
        (0.02, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, -3),
        textcoords="offset points",
        va="top",
        color=LIMIT,
        size=8,
    )
