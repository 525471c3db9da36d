"""Bring two NIfTI files of one grid to the same order of axes, or say that their grids differ."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from preprocessing.console.errors import InputError
from preprocessing.volumes.grid import Array
from preprocessing.volumes.image import AFFINE_TOLERANCE
from preprocessing.volumes.nifti import Volume

AS_IT_IS = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])  # axes in order, none reversed


@np.errstate(over="ignore", invalid="ignore")  # of an affine that cannot be: refused below, where it matters
def on_grid_of(other: Volume, volume: Volume, voxels: Array, ignore_affine: bool = False) -> Array:
    """Return ``voxels`` [D,H,W] of ``volume`` with the axes of ``other``: as they are, reversed or exchanged.

    A tool that writes x from right to left and says so in the affine has moved nothing. Raises ``InputError`` where the
    voxels of the two lie elsewhere: another number of them, or affines further apart than the converter bears.
    ``ignore_affine`` takes the voxels as they are, whatever the affines say.
    """
    shape_xyz = volume.shape_dhw[::-1]
    turn = AS_IT_IS if ignore_affine else _turn(other, volume)
    affine = volume.affine @ inv_ornt_aff(turn, shape_xyz)  # type: ignore[no-untyped-call]
    turned: Array = apply_orientation(voxels.T, turn).T  # type: ignore[no-untyped-call]
    if turned.shape != other.shape_dhw:
        raise InputError(
            f"{volume.path} has {volume.shape_dhw} voxels (D,H,W), {other.path} has {other.shape_dhw}; give files of "
            "one grid, such as the prediction for the image of a label"
        )
    difference = float(np.abs(affine - other.affine).max())
    if difference > AFFINE_TOLERANCE and not ignore_affine:
        raise InputError(
            f"{volume.path} is in another place than {other.path}: their affines differ by up to {difference:.4g}, "
            f"up to {AFFINE_TOLERANCE:g} is accepted; resample one to the other, or give --ignore-affine true"
        )
    return turned


def _turn(other: Volume, volume: Volume) -> npt.NDArray[np.float64]:
    """Return, in nibabel's form, the order and direction of axes that brings ``volume`` closest to ``other``."""
    if not np.linalg.det(other.affine):
        return AS_IT_IS
    found: npt.NDArray[np.float64] = io_orientation(np.linalg.solve(other.affine, volume.affine))  # type: ignore[no-untyped-call]
    return found if np.isfinite(found).all() else AS_IT_IS
