# ruff: noqa: INP001  # a script beside the pages, not a package
"""Draw README's picture, once for light pages and once for dark ones: ``python docs/draw_readme_picture.py [FOLDER]``.

Above, the way of the data; below, the patches per second of the newest loader comparison in benchmarks/results.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

ROOT = Path(__file__).resolve().parents[1]
PAGE, INK, SOFT, OURS, PEER, LIMIT = range(6)
LIGHT = ("#f8fafc", "#1a202c", "#64748b", "#2563eb", "#cbd5e1", "#94a3b8")
DARK = ("#161b22", "#e6edf3", "#9aa7b4", "#4f8ff7", "#3d4855", "#6b7886")
NAMES = {
    "dali": "voxelfeed dali",
    "torch": "voxelfeed torch",
    "numpy-floor": "plain NumPy, the same work",
    "monai-cache": "MONAI CacheDataset",
    "monai-thread": "MONAI ThreadDataLoader",
    "monai-smartcache": "MONAI SmartCacheDataset",
    "monai-persistent": "MONAI PersistentDataset",
    "monai-defaults": "MONAI CacheDataset, default settings",
    "monai": "MONAI Dataset",
    "nnunet": "nnU-Net",
    "torchio": "TorchIO",
}
STATIONS = (
    ("nii.gz", "compressed volumes", ""),
    ("shards", "memory-mapped files", "to_shards\nonce"),
    ("patches", "cut, flipped, normalised\non the CPU or the GPU", "build_loader\nevery step"),
    ("network", "your loop or training.run", "batches\n[N,C,D,H,W]"),
)


def newest_comparison() -> dict[str, Any]:
    """Return the record of the newest run of benchmarks/loader_compare.py."""
    records = [json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "results").glob("*.json")]
    comparisons = [record for record in records if record["benchmark"] == "loader_compare"]
    return max(comparisons, key=lambda record: str(record["date"]))


def fastest_rows(record: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """Return (loader, patches/s as median, min and max) of each loader's fastest row, the fastest loader first."""
    rates: dict[str, dict[str, float]] = {}
    for row in record["rows"]:
        loader = row["label"].split(",")[0]
        rate = (row["summary"] or {}).get("patches_per_s")
        if loader in NAMES and rate and rate["median"] > rates.get(loader, {"median": 0.0})["median"]:
            rates[loader] = rate
    return sorted(rates.items(), key=lambda item: -item[1]["median"])


def draw_flow(axes: Axes, colours: tuple[str, ...]) -> None:
    """Draw the four stations, and the arrows between them, in a field of 20 by 4.6."""
    axes.set(xlim=(0, 20), ylim=(-0.1, 4.6), aspect="equal")
    axes.axis("off")
    for number, (name, what, arrow) in enumerate(STATIONS):
        x = 1.9 + 5.4 * number
        axes.text(x, 1.25, name, color=colours[INK], size=15, weight="bold", ha="center", va="center")
        axes.text(x, 0.85, what, color=colours[SOFT], size=10, ha="center", va="top", linespacing=1.3)
        if arrow:
            arrow_style = {"arrowstyle": "-|>,head_width=.35,head_length=.6", "color": colours[SOFT], "lw": 1.6}
            axes.annotate("", (x - 1.75, 2.9), (x - 3.65, 2.9), arrowprops=arrow_style)
            axes.text(x - 2.7, 3.15, arrow.split("\n")[0], color=colours[INK], size=10, ha="center", family="monospace")
            axes.text(x - 2.7, 2.3, arrow.split("\n")[1], color=colours[SOFT], size=10, ha="center")
    line = {"edgecolor": colours[PAGE], "linewidth": 1.2}
    for step in range(3):  # a stack of files
        corner = (1.0 + 0.3 * step, 2.5 - 0.3 * step)
        axes.add_patch(FancyBboxPatch(corner, 1.2, 1.4, "round,pad=0.1", facecolor=colours[LIMIT], **line))
    for row in range(3):  # rows of bytes
        for column in range(4):
            corner = (6.2 + 0.57 * column, 1.95 + 0.72 * row)
            axes.add_patch(Rectangle(corner, 0.5, 0.6, facecolor=colours[OURS], alpha=0.45 + 0.18 * row))
    for x, y in ((11.55, 1.9), (12.55, 2.75)):  # two cubes
        top = [(x, y + 1.0), (x + 0.35, y + 1.3), (x + 1.35, y + 1.3), (x + 1.0, y + 1.0)]
        side = [(x + 1.0, y), (x + 1.35, y + 0.3), (x + 1.35, y + 1.3), (x + 1.0, y + 1.0)]
        front = [(x, y), (x + 1.0, y), (x + 1.0, y + 1.0), (x, y + 1.0)]
        for face, shade in ((front, 1.0), (top, 0.55), (side, 0.75)):
            axes.add_patch(Polygon(face, facecolor=colours[PAGE], **line))
            axes.add_patch(Polygon(face, facecolor=colours[OURS], alpha=shade, **line))
    for column, height in enumerate((2.1, 1.5, 0.9, 0.5, 0.9, 1.5, 2.1)):  # a U-Net's levels
        corner = (16.85 + 0.36 * column, 2.95 - height / 2)
        axes.add_patch(Rectangle(corner, 0.24, height, facecolor=colours[LIMIT]))


def draw_bars(axes: Axes, record: dict[str, Any], colours: tuple[str, ...]) -> None:
    """Draw a bar for each loader, its median written beside it, whiskers from the least to the most."""
    rows = fastest_rows(record)
    for place, (loader, rate) in enumerate(rows):
        is_ours = loader in ("dali", "torch")
        reach = [[rate["median"] - rate["min"]], [rate["max"] - rate["median"]]]
        bar_style = {"facecolor": colours[OURS if is_ours else PEER], "ecolor": colours[SOFT]}
        axes.barh(place, rate["median"], 0.72, xerr=reach, error_kw={"lw": 1.2, "capsize": 0}, **bar_style)
        weight = "bold" if is_ours else "normal"
        text = f"{rate['median']:.1f}"
        axes.text(rate["max"] + 1.2, place, text, color=colours[INK], size=10.5, va="center", weight=weight)
    axes.set_yticks(range(len(rows)), [NAMES[loader] for loader, _ in rows], color=colours[INK], size=10.5)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xticks=[], xlim=(0, 1.1 * rows[0][1]["max"]))
    axes.tick_params(length=0, pad=8)
    axes.spines[:].set_visible(False)
    data, options, machine = record["data"], record["options"], record["machine"]
    patch = " x ".join(map(str, (*options["patch"], data["channels"])))
    title = f"patches per second, each of {patch} voxels"
    axes.set_title(title, color=colours[INK], size=12.5, weight="bold", pad=10, loc="left")
    where = f"{machine['cores']} CPU cores, {machine['gpu'] or 'no GPU'}, {record['date'][:10]}"
    runs = f"median of {record['runs']} runs (least to most)"
    how = f"{data['name']}, batch {options['batch_size']}, augment {options['augment']}, {runs}"
    axes.set_xlabel(f"{how}; {where}", color=colours[SOFT], size=9.5, labelpad=8, loc="left")


def draw(record: dict[str, Any], colours: tuple[str, ...], path: Path) -> None:
    """Draw both halves on one card and write it; the figures also stand in the file's description, for the test."""
    figure = Figure(figsize=(11, 7.2))
    card = FancyBboxPatch((0.012, 0.016), 0.976, 0.968, "round,pad=0,rounding_size=0.02", transform=figure.transFigure)
    card.set(facecolor=colours[PAGE], edgecolor=colours[PEER], linewidth=1, zorder=-1)
    figure.add_artist(card)
    draw_flow(figure.add_axes((0.03, 0.62, 0.94, 0.36), facecolor="none"), colours)
    draw_bars(figure.add_axes((0.31, 0.1, 0.64, 0.45), facecolor="none"), record, colours)
    described = ", ".join(f"{loader} {rate['median']:.1f}" for loader, rate in fastest_rows(record))
    metadata = {"Date": None, "Title": "voxelfeed", "Description": described}
    figure.savefig(path, transparent=True, metadata=metadata)


if __name__ == "__main__":
    mpl.rcParams["svg.hashsalt"] = "voxelfeed"  # the same file from the same figures
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for kind, palette in (("light", LIGHT), ("dark", DARK)):
        draw(newest_comparison(), palette, folder / f"voxelfeed-{kind}.svg")
