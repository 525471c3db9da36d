"""Draw volumes as radiologists look at them: right on the left, front or head at the top, letters at the borders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from preprocessing.volumes.grid import Array, Int3

PLANES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # what is left, right, at the top, at the bottom
PLACES = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03))


def turn_volumes(affine: npt.NDArray[np.float64], *volumes: Array) -> tuple[list[Array], npt.NDArray[np.float64]]:
    """View volumes [D,H,W] of one grid with D from head to foot, H from front to back and W from right to left.

    ``affine`` takes voxels x,y,z to millimetres (R, A, S positive, as in nibabel). Returns the views and the size of
    their voxels along D, H, W in millimetres. An affine that leaves out a direction is taken for none at all.
    """
    if not voxel_sizes(affine).all():  # type: ignore[no-untyped-call]
        affine = np.eye(4)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt("LPI"))  # type: ignore[no-untyped-call]
    spacing_mm = np.empty(3)
    spacing_mm[2 - turn[:, 0].astype(int)] = voxel_sizes(affine)  # type: ignore[no-untyped-call]
    return [apply_orientation(volume.T, turn).T for volume in volumes], spacing_mm  # type: ignore[no-untyped-call]


def centre_of(label: Array) -> Int3:
    """Return the voxel D,H,W through which most of a label [D,H,W] is seen in each plane; the middle without one."""
    filled = label > 0
    if not filled.any():
        d, h, w = (side // 2 for side in label.shape)
    else:
        d, h, w = (int(filled.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))
    return d, h, w


def show_plane(
    axes: Axes, axis: int, cut: Array, spacing_mm: npt.NDArray[np.float64], window: tuple[float, float]
) -> None:
    """Show the ``cut`` of a turned volume across ``axis`` (one of ``PLANES``), black to white over ``window``."""
    rows, columns = (side for side in range(3) if side != axis)
    low, high = window
    axes.imshow(cut, cmap="gray", vmin=low, vmax=high, aspect=spacing_mm[rows] / spacing_mm[columns])
    axes.set_axis_off()
    for place, side in zip(PLACES, list(PLANES.values())[axis], strict=True):
        axes.text(*place, side, transform=axes.transAxes, color="white", fontsize=8, ha="center", va="center")


def outline(axes: Axes, cut: Array, colours: Sequence[str], width: float) -> None:
    """Outline every label of a ``cut``, each in the next of ``colours``; a cut one voxel wide has no outline."""
    for number in np.unique(cut):
        if number and min(cut.shape) > 1:
            colour = colours[(int(number) - 1) % len(colours)]
            axes.contour(cut == number, levels=[0.5], colors=[colour], linewidths=width)
