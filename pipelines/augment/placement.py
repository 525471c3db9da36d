"""Where a rotated or scaled patch lies in its volume: which box to read, and the matrix that maps into it.

A patch that is rotated and zoomed about its centre needs voxels outside its own box. nnU-Net reads a patch enlarged for
the worst case of every sample. Here only a sample that moves pays: it reads the bounding box of what it needs, cut off
at the volume's border, so never more than the volume.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.augment.parameters import Augmentation
from preprocessing.volumes.grid import Int3

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The box of the volume to read, and ``matrix`` [3,4]: output voxel index D,H,W,1 to voxel index in the box."""

    start_dhw: Int3
    shape_dhw: Int3
    matrix: Matrix


def place(
    augmentation: Augmentation, position_dhw: Int3, flips_dhw: tuple[bool, bool, bool], patch: Int3, volume_dhw: Int3
) -> Placement:
    """Place a patch that is flipped, zoomed and rotated (in this order, seen from the output) about its centre.

    ``position_dhw`` is its first voxel in a volume of ``volume_dhw`` voxels, ``flips_dhw`` the axes to reverse.

    Example: a patch of 5 voxels at position 10, zoomed by 1.4, reaches from 12 - 1.4 * 2 = 9.2 to 14.8; the box is
    voxels 9 to 15.
    """
    middle = (np.array(patch) - 1) / 2
    zooms = [1.0 if axis == augmentation.thick_axis else augmentation.zoom for axis in range(3)]
    signed = [-zoom if flip else zoom for zoom, flip in zip(zooms, flips_dhw, strict=True)]
    linear = rotation(augmentation) @ np.diag(signed)
    offset = np.array(position_dhw) + middle - linear @ middle
    corners = np.array(list(itertools.product(*((0, side - 1) for side in patch)))) @ linear.T + offset
    first = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, np.array(volume_dhw) - 1)
    last = np.clip(np.ceil(corners.max(axis=0)).astype(int), first, np.array(volume_dhw) - 1)
    return Placement(
        start_dhw=_int3(first),
        shape_dhw=_int3(last - first + 1),
        matrix=np.column_stack([linear, offset - first]),
    )


def rotation(augmentation: Augmentation) -> Matrix:
    """Multiply the rotations about W, H and D (nnU-Net's order, applied right to left)."""
    made = np.eye(3)
    for axis, angle in enumerate(augmentation.rotation_rad):
        one, other = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[other, one] = np.sin(angle)
        turn[one, other] = -turn[other, one]
        made = turn @ made
    return made


def _int3(values: npt.NDArray[np.int64]) -> Int3:
    depth, height, width = values.tolist()
    return depth, height, width
