"""Pictures for people: a volume's three planes with the outlines of the true and the predicted label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from preprocessing.volumes.grid import Array
from preprocessing.volumes.planes import PLANES, centre_of, outline, show_plane, turn_volumes
from training.model.spec import Labels

TRUE_COLOUR, PREDICTED_COLOUR = "#35d07f", "#ff4fa3"


def save_figure(path: Path, figure: Figure) -> None:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_overlay(image: Array, affine: npt.NDArray[np.float64], true: Labels, predicted: Labels) -> Figure:
    """Draw one channel [D,H,W] and the outlines of two label maps of the same shape, as radiologists look at them.

    ``affine`` takes voxels x,y,z to millimetres (R, A, S positive, as in nibabel). Whatever the order in the file,
    the patient's right is on the left of the picture, front or head are at its top; letters at the borders say so.
    """
    (image, true, predicted), spacing_mm = turn_volumes(affine, image, true, predicted)
    centre = centre_of(true if true.any() else predicted)
    figure = Figure(figsize=(9, 3.2), facecolor="black", layout="constrained")
    low, high = np.percentile(image[image != 0], (1, 99)) if image.any() else (0.0, 1.0)
    for axis, (axes, title) in enumerate(zip(figure.subplots(1, 3), PLANES, strict=True)):
        cut = [np.take(array, centre[axis], axis=axis) for array in (image, true, predicted)]
        show_plane(axes, axis, cut[0], spacing_mm, (low, max(high, low + 1)))
        outline(axes, cut[1], [TRUE_COLOUR], width=2.0)
        outline(axes, cut[2], [PREDICTED_COLOUR], width=0.9)
        axes.set_title(title, color="white", fontsize=9)
    return figure
