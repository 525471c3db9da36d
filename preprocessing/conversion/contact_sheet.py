"""Show a store to people: one HTML page with slices, outlines, histograms, shapes, and why cases were refused."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.shards.case import Case
from preprocessing.shards.store import Store, open_store
from preprocessing.volumes.grid import Array

FILE_NAME = "report.html"
MOST_CASES = 200  # pictures make a page heavy: about 25 kB a case
COLOURS = ("#35d07f", "#ff4fa3", "#ffd23f", "#4fc3ff", "#ff8c42", "#b388ff")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1280px;padding:0 1rem;color:#1a202c}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(390px,1fr));gap:1rem}
figure{margin:0;border:1px solid #cbd5e0;border-radius:6px;overflow:hidden}img{width:100%;display:block}
figcaption{padding:.4rem .7rem;font-size:13px}.refused{color:#c53030}
"""


def write_report(root: Path, refused: Sequence[dict[str, str]]) -> Path:
    """Write a contact sheet of the store at ``root`` beside its folder (a store holds nothing but itself).

    Shows at most 200 cases, evenly spread. Returns the page's path.
    """
    store = open_store(root)
    path = root.with_name(f"{root.name}_{FILE_NAME}")
    ids = store.case_ids
    chosen = [ids[number * len(ids) // MOST_CASES] for number in range(MOST_CASES)] if len(ids) > MOST_CASES else ids
    figures = "".join(_figure(store.case(case_id), store) for case_id in chosen)
    title = html.escape(f"{store.manifest.name}: {len(ids)} cases")
    some = "" if len(chosen) == len(ids) else f"<p>{len(chosen)} of {len(ids)} cases are shown.</p>"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>{_summary(store)}{_refused(refused)}{some}"
        f'<div class="cases">{figures}</div></html>\n'
    )
    path.write_text(page, encoding="utf-8")
    return path


def _summary(store: Store) -> str:
    manifest = store.manifest
    labels = ", ".join(f"{number} {name}" for number, name in manifest.label_names.items())
    regions = ", ".join(f"{name} = {'+'.join(map(str, ids))}" for name, ids in (manifest.regions or {}).items())
    rows = {
        "channels": ", ".join(manifest.channel_names),
        "labels": labels,
        "regions": regions or "none",
        "kind": f"{manifest.modality}, stored as {manifest.image_dtype}",
        "options": ", ".join(f"{name} {value}" for name, value in manifest.options.items()),
        "unlabelled": str(len(store.case_ids) - len(store.labelled_ids)),
    }
    cells = (f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in rows.items())
    return f"<table>{''.join(cells)}</table>"


def _refused(refused: Sequence[dict[str, str]]) -> str:
    if not refused:
        return "<p>No case was refused.</p>"
    rows = (
        f"<tr><td>{html.escape(entry['case_id'])}</td><td>{html.escape(entry['reason'])}</td></tr>" for entry in refused
    )
    return f'<h2 class="refused">{len(refused)} refused</h2><table class="refused">{"".join(rows)}</table>'


def _figure(case: Case, store: Store) -> str:
    entry = case.entry
    spacing = " x ".join(f"{side:.3g}" for side in entry.spacing_mm)
    stored, source = (" x ".join(map(str, sides)) for sides in (entry.shape_dhw, entry.geometry.file_shape_dhw))
    counts = ", ".join(
        f"{html.escape(store.manifest.label_names[number])} {found.voxels:,}"
        for number, found in entry.labels.items()
        if number
    )
    caption = (
        f"<b>{html.escape(case.case_id)}</b> {stored} of {source} voxels (D,H,W), {spacing} mm, {entry.image_dtype}"
    )
    caption += f"<br>{counts or 'no label'}" + (
        f"<br>{entry.nonfinite_voxels} voxels were not finite" if entry.nonfinite_voxels else ""
    )
    return (
        f'<figure><img alt="" src="data:image/png;base64,{_picture(case)}"><figcaption>{caption}</figcaption></figure>'
    )


def _picture(case: Case) -> str:
    """Draw the middle of the label in three planes and the histogram of every channel, as a PNG in base64."""
    from matplotlib.figure import Figure

    from preprocessing.volumes.planes import centre_of, show_plane, turn_volumes

    image, label = case.image(), case.label()
    figure = Figure(figsize=(8, 2.1), facecolor="black", layout="constrained")
    axes = figure.subplots(1, 4)
    outlined = np.zeros(case.shape_dhw, np.uint8) if label is None else label[..., 0]
    (volume, turned), spacing_mm = turn_volumes(case.affine, image[..., 0], outlined)
    low, high = case.entry.channels[0].percentile_00_5, case.entry.channels[0].percentile_99_5
    for axis, place in enumerate(centre_of(turned)):
        show_plane(axes[axis], axis, np.take(volume, place, axis), spacing_mm, (low, max(high, low + 1e-6)))
        _outline(axes[axis], np.take(turned, place, axis))
    for channel in range(image.shape[3]):
        values = image[::2, ::2, ::2, channel]
        axes[3].hist(values[values != 0].astype(np.float32), bins=48, histtype="step", color=COLOURS[channel % 6])
    axes[3].set_facecolor("black")
    axes[3].set_yticks([])
    axes[3].tick_params(colors="white", labelsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _outline(axes: Any, label: Array) -> None:
    for number in np.unique(label):
        if number and min(label.shape) > 1:
            axes.contour(label == number, levels=[0.5], colors=[COLOURS[(int(number) - 1) % 6]], linewidths=0.8)
