"""Bring a volume to another grid: images and scores linearly, labels by the share that each has in a voxel.

Voxel j of the new grid covers the old voxels from ``j * zoom`` to ``(j + 1) * zoom``: both grids begin at one edge.
What was measured before choosing linear without a low-pass filter is in docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from preprocessing.volumes.grid import Array, Float3, Int3


def resample(volume: Array, shape_dhw: Int3, zoom_dhw: Float3, nearest_axes: Collection[int] = ()) -> Array:
    """Interpolate ``volume`` [D,H,W] linearly on a grid of ``shape_dhw`` voxels, each ``zoom_dhw`` times as large.

    Along ``nearest_axes`` the voxel that holds the centre is taken instead. Returns float32, or float64 where that
    could not hold every value.
    """
    from scipy import ndimage  # 0.2 s of every worker's start, for those who resample

    picked = _pick(volume, shape_dhw, zoom_dhw, nearest_axes)
    factors = np.array([1.0 if axis in nearest_axes else zoom for axis, zoom in enumerate(zoom_dhw)])
    made: Array = ndimage.affine_transform(
        picked.astype(np.result_type(volume.dtype, np.float32)),
        factors,
        offset=(factors - 1) / 2,
        output_shape=shape_dhw,
        order=1,
        mode="nearest",
    )
    return made


def resample_label(label: Array, shape_dhw: Int3, zoom_dhw: Float3, nearest_axes: Collection[int] = ()) -> Array:
    """Give each voxel of the new grid the label with the largest share in it, of equal shares the smallest number.

    Shares are masks interpolated linearly. Along ``nearest_axes`` the label at the voxel's centre is taken instead.
    """
    picked = _pick(label, shape_dhw, zoom_dhw, nearest_axes)
    if len(nearest_axes) == 3:
        return picked
    d, h, w = (1.0 if axis in nearest_axes else zoom for axis, zoom in enumerate(zoom_dhw))
    winner = np.zeros(shape_dhw, label.dtype)
    largest = np.zeros(shape_dhw, np.float32)
    for number in np.unique(picked):
        share = resample(picked == number, shape_dhw, (d, h, w))
        winner[share > largest] = number
        np.maximum(largest, share, out=largest)
    return winner


def _pick(volume: Array, shape_dhw: Int3, zoom_dhw: Float3, axes: Collection[int]) -> Array:
    """Take along ``axes`` the voxel that holds the centre of each new voxel."""
    for axis in axes:
        centres = (np.arange(shape_dhw[axis]) + 0.5) * zoom_dhw[axis]
        volume = np.take(volume, np.minimum(centres.astype(np.intp), volume.shape[axis] - 1), axis=axis)
    return volume
