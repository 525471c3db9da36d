"""Pictures for people: a volume's three planes with the outlines of the true and the predicted label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from training.inference import Labels

TRUE_COLOUR, PREDICTED_COLOUR = "#35d07f", "#ff4fa3"
PLANES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # what is left, right, at the top, at the bottom
Voxels = npt.NDArray[Any]


def save_figure(path: Path, figure: Figure) -> None:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_overlay(image: Voxels, affine: npt.NDArray[np.float64], true: Labels, predicted: Labels) -> Figure:
    """Draw one channel [D,H,W] and the outlines of two label maps of the same shape, as radiologists look at them.

    ``affine`` takes voxels x,y,z to millimetres (R, A, S positive, as in nibabel). Whatever the order in the file,
    the patient's right is on the left of the picture, front or head are at its top; letters at the borders say so.
    """
    turn = ornt_transform(io_orientation(affine), axcodes2ornt("LPI"))  # type: ignore[no-untyped-call]
    image, true, predicted = (apply_orientation(array.T, turn).T for array in (image, true, predicted))  # type: ignore[no-untyped-call]
    spacing_mm = np.empty(3)
    spacing_mm[2 - turn[:, 0].astype(int)] = voxel_sizes(affine)  # type: ignore[no-untyped-call]
    centre = _centre(true if true.any() else predicted)
    figure = Figure(figsize=(9, 3.2), facecolor="black", layout="constrained")
    low, high = np.percentile(image[image != 0], (1, 99)) if image.any() else (0.0, 1.0)
    for axis, (axes, (title, borders)) in enumerate(zip(figure.subplots(1, 3), PLANES.items(), strict=True)):
        rows, columns = (side for side in range(3) if side != axis)
        aspect = spacing_mm[rows] / spacing_mm[columns]
        cut = [np.take(array, centre[axis], axis=axis) for array in (image, true, predicted)]
        axes.imshow(cut[0], cmap="gray", vmin=low, vmax=max(high, low + 1), aspect=aspect)
        _outline(axes, cut[1], TRUE_COLOUR, width=2.0)
        _outline(axes, cut[2], PREDICTED_COLOUR, width=0.9)
        axes.set_title(title, color="white", fontsize=9)
        axes.set_axis_off()
        for place, side in zip(((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03)), borders, strict=True):
            axes.text(*place, side, transform=axes.transAxes, color="white", fontsize=8, ha="center", va="center")
    return figure


def _centre(label: Labels) -> tuple[int, int, int]:
    """Return the voxel D,H,W through which most of the label can be seen in each plane."""
    if not label.any():
        d, h, w = (side // 2 for side in label.shape)
    else:
        d, h, w = (int((label > 0).sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))
    return d, h, w


def _outline(axes: Axes, label: npt.NDArray[np.generic], colour: str, width: float) -> None:
    for number in np.unique(label):
        if number:
            axes.contour(label == number, levels=[0.5], colors=[colour], linewidths=width)
