"""Pictures for people: a volume's three planes with the outlines of the true and the predicted label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from preprocessing.nifti import read_nifti
from training.inference import Labels

TRUE_COLOUR, PREDICTED_COLOUR = "#35d07f", "#ff4fa3"
PLANES = ("axial", "coronal", "sagittal")
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


def save_overlay(path: Path, image_path: Path, true: Labels, predicted: Labels) -> None:
    """Draw the first channel of ``image_path`` through the middle of the label, true outline green, predicted pink."""
    volume = read_nifti(image_path)
    background = Background.of(np.asarray(volume.channels[0]), volume.affine)
    save_figure(path, draw_overlay(background, true, predicted))


def save_figure(path: Path, figure: Figure) -> None:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


@dataclass(frozen=True, kw_only=True)
class Background:
    """One channel [D,H,W], and per axis the voxel size and the side (R, L, A, P, S, I) to which its index grows."""

    image: npt.NDArray[Any]
    spacing_mm: tuple[float, ...]
    sides: tuple[str, ...]

    @classmethod
    def of(cls, image: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> Background:
        """Take sizes and sides from the affine (voxel x,y,z to millimetres, R A S positive), as nibabel reads it."""
        sizes = nib.affines.voxel_sizes(affine)  # type: ignore[no-untyped-call]
        sides = nib.orientations.aff2axcodes(affine)  # type: ignore[no-untyped-call]
        return cls(image=image, spacing_mm=tuple(sizes[::-1].tolist()), sides=tuple(sides[::-1]))


def draw_overlay(background: Background, true: Labels, predicted: Labels) -> Figure:
    """Draw an image and the outlines of two label maps of the same shape; letters at the borders name the sides."""
    image, spacing_mm = background.image, background.spacing_mm
    centre = _centre(true if true.any() else predicted)
    figure = Figure(figsize=(9, 3.2), facecolor="black", layout="constrained")
    low, high = np.percentile(image[image != 0], (1, 99)) if image.any() else (0.0, 1.0)
    for axis, axes in enumerate(figure.subplots(1, 3)):
        cut = [np.flipud(np.take(array, centre[axis], axis=axis)) for array in (image, true, predicted)]
        rows, columns = (side for side in range(3) if side != axis)
        aspect = spacing_mm[rows] / spacing_mm[columns]
        axes.imshow(cut[0], cmap="gray", vmin=low, vmax=max(high, low + 1), aspect=aspect)
        _outline(axes, cut[1], TRUE_COLOUR, width=2.0)
        _outline(axes, cut[2], PREDICTED_COLOUR, width=0.9)
        axes.set_title(PLANES[axis], color="white", fontsize=9)
        axes.set_axis_off()
        _mark_sides(axes, upward=background.sides[rows], rightward=background.sides[columns])
    return figure


def _centre(label: Labels) -> tuple[int, int, int]:
    """Return the voxel D,H,W through which most of the label can be seen in each plane."""
    if not label.any():
        d, h, w = (side // 2 for side in label.shape)
    else:
        d, h, w = (int((label > 0).sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))
    return d, h, w


def _mark_sides(axes: Axes, upward: str, rightward: str) -> None:
    left, down = OPPOSITE[rightward], OPPOSITE[upward]
    for x, y, side in ((0.98, 0.5, rightward), (0.02, 0.5, left), (0.5, 0.97, upward), (0.5, 0.03, down)):
        axes.text(x, y, side, transform=axes.transAxes, color="white", fontsize=8, ha="center", va="center")


def _outline(axes: Axes, label: npt.NDArray[np.generic], colour: str, width: float) -> None:
    for number in np.unique(label):
        if number:
            axes.contour(label == number, levels=[0.5], colors=[colour], linewidths=width)
