"""Show a store to people: one HTML page with slices, outlines, histograms, shapes, and why cases were refused."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preprocessing.console.page import picture, png_of, table, write_page
from preprocessing.shards.case import Case
from preprocessing.shards.store import Store, open_store

FILE_NAME = "report.html"
MOST_CASES = 200  # pictures make a page heavy: about 25 kB a case
COLOURS = ("#35d07f", "#ff4fa3", "#ffd23f", "#4fc3ff", "#ff8c42", "#b388ff")
STYLE = """
body { max-width: 1280px }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(390px, 1fr)); gap: 1rem }
figure { margin: 0; border: 1px solid #cbd5e0; border-radius: 6px; overflow: hidden }
img { width: 100%; display: block }
figcaption { padding: .4rem .7rem; font-size: 13px } .refused { color: #c53030 }
"""


def write_report(root: Path, refused: Sequence[dict[str, str]]) -> Path:
    """Write a contact sheet of the store at ``root`` beside its folder (a store holds nothing but itself).

    Shows at most 200 cases, evenly spread. Returns the page's path.
    """
    store = open_store(root)
    path = root.with_name(f"{root.name}_{FILE_NAME}")
    ids = store.case_ids
    chosen = [ids[number * len(ids) // MOST_CASES] for number in range(MOST_CASES)] if len(ids) > MOST_CASES else ids
    pictures = "".join(_picture_of(store.case(case_id), store) for case_id in chosen)
    some = "" if len(chosen) == len(ids) else f"<p>{len(chosen)} of {len(ids)} cases are shown.</p>"
    sections = [_summary(store), _refused(refused), some, f'<div class="cases">{pictures}</div>']
    write_page(path, f"{store.manifest.name}: {len(ids)} cases", sections, STYLE)
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
    return table(rows.items())


def _refused(refused: Sequence[dict[str, str]]) -> str:
    if not refused:
        return "<p>No case was refused.</p>"
    rows = [(entry["case_id"], entry["reason"]) for entry in refused]
    return f'<h2 class="refused">{len(refused)} refused</h2>{table(rows, css_class="refused")}'


def _picture_of(case: Case, store: Store) -> str:
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
    return picture(_draw(case), caption)


def _draw(case: Case) -> bytes:
    """Draw the middle of the label in three planes and the histogram of every channel, as a PNG."""
    from matplotlib.figure import Figure

    from preprocessing.volumes.planes import centre_of, outline, show_plane, turn_volumes

    image, label = case.image(), case.label()
    figure = Figure(figsize=(8, 2.1), facecolor="black", layout="constrained")
    axes = figure.subplots(1, 4)
    outlined = np.zeros(case.shape_dhw, np.uint8) if label is None else label[..., 0]
    (volume, turned), spacing_mm = turn_volumes(case.affine, image[..., 0], outlined)
    low, high = case.entry.channels[0].percentile_00_5, case.entry.channels[0].percentile_99_5
    for axis, place in enumerate(centre_of(turned)):
        show_plane(axes[axis], axis, np.take(volume, place, axis), spacing_mm, (low, max(high, low + 1e-6)))
        outline(axes[axis], np.take(turned, place, axis), COLOURS, width=0.8)
    for channel in range(image.shape[3]):
        values = image[::2, ::2, ::2, channel]
        axes[3].hist(values[values != 0].astype(np.float32), bins=48, histtype="step", color=COLOURS[channel % 6])
    axes[3].set_facecolor("black")
    axes[3].set_yticks([])
    axes[3].tick_params(colors="white", labelsize=7)
    return png_of(figure, dpi=90)
