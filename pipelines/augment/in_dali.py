"""The operations of ``--augment full`` in DALI; each has a twin of the same name in ``in_numpy.py``.

``image`` is float32 [d,h,w,C]; parameters are per-sample tensors. Channels that a parameter leaves alone, like samples
for which an operation does not fire, cost nothing: DALI's conditionals route them past it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from nvidia.dali import fn, math
from nvidia.dali.data_node import DataNode
from nvidia.dali.types import DALIInterpType

from pipelines.augment.parameters import OFF_TIE
from preprocessing.volumes.grid import Int3

SPACE = [0, 1, 2]
TINY = 1e-7


def to_xyz(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Turn a [3,4] map of indices D,H,W into ``warp_affine``'s, whose axes are W,H,D and whose voxel 0 lies at 0.5."""
    linear, offset = matrix[::-1, 2::-1], matrix[::-1, 3]
    return np.column_stack([linear, offset + 0.5 - linear @ np.full(3, 0.5)]).astype(np.float32)


def affine(volume: DataNode, matrix: DataNode, patch: Int3, outside: DataNode | None, num_channels: int) -> DataNode:
    """Sample ``volume`` where ``matrix`` (of ``to_xyz``) sends the voxels of ``patch``, linearly, else ``outside``.

    ``outside`` is [C], or ``None`` for zeros. ``warp_affine`` fills all channels with one number, so a volume that has
    other ones is moved as its distance from them.
    """
    if outside is None:
        return fn.warp_affine(volume, matrix=matrix, size=list(patch), fill_value=0.0)
    row = _row(outside, num_channels)
    one = row * 0.0 + 1.0
    distance = _standardize(volume, row, one)
    moved = fn.warp_affine(distance, matrix=matrix, size=list(patch), fill_value=0.0)
    return _standardize(moved, row * -1.0, one)


def affine_nearest(label: DataNode, matrix: DataNode, patch: Int3) -> DataNode:
    """Do the same for class ids, taking the nearest voxel."""
    nearest = DALIInterpType.INTERP_NN
    return fn.warp_affine(label, matrix=matrix, size=list(patch), fill_value=0.0, interp_type=nearest)


def gaussian_noise(image: DataNode, noise: DataNode) -> DataNode:
    """Add ``noise`` [d,h,w,1] to every channel."""
    return image + noise


def gaussian_blur(image: DataNode, sigma: DataNode, num_channels: int) -> DataNode:
    """Blur each channel by its own ``sigma`` [C,3] (voxels along D, H, W; zeros leave it alone)."""

    def blur(channel: DataNode, sigmas: DataNode) -> DataNode:
        return fn.gaussian_blur(channel, sigma=sigmas)

    return _by_channel(image, sigma, num_channels, blur)


def brightness(image: DataNode, factors: DataNode, num_channels: int) -> DataNode:
    """Multiply each channel by its entry of ``factors`` [C]."""
    row = _row(factors, num_channels)
    return _standardize(image, row * 0.0, 1.0 / row)


def contrast(image: DataNode, factors: DataNode, num_channels: int) -> DataNode:
    """Stretch each channel about its mean, kept within the range it had."""
    row = _row(factors, num_channels)
    mean = fn.reductions.mean(image, axes=SPACE, keep_dims=True)
    low = fn.reductions.min(image, axes=SPACE, keep_dims=True)
    high = fn.reductions.max(image, axes=SPACE, keep_dims=True)
    return math.clamp(_standardize(image, mean * (1.0 - 1.0 / row), 1.0 / row), low, high)


def low_resolution(image: DataNode, sizes: DataNode, patch: Int3, num_channels: int) -> DataNode:
    """Shrink each channel to its row of ``sizes`` [C,3] (nearest), enlarge it again (linear); zeros leave it alone."""

    def degrade(channel: DataNode, size: DataNode) -> DataNode:
        moved = [side + OFF_TIE for side in patch]
        nearest, linear = DALIInterpType.INTERP_NN, DALIInterpType.INTERP_LINEAR
        small = fn.resize(
            channel, size=size, interp_type=nearest, antialias=False, roi_start=[OFF_TIE] * 3, roi_end=moved
        )
        assert isinstance(small, DataNode)
        made = fn.resize(small, size=list(patch), interp_type=linear, antialias=False)
        assert isinstance(made, DataNode)
        return made

    return _by_channel(image, sizes, num_channels, degrade)


def gamma(image: DataNode, exponents: DataNode, num_channels: int, *, inverted: bool) -> DataNode:
    """Bend each channel's range by ``x ** exponent``, from the top if ``inverted``; mean and deviation are retained.

    The two linear maps before and after the power are one pass each: ``edge`` goes to 0 and the other end to 1, and
    the bent values get the mean and the deviation that there were.
    """
    sign = -1.0 if inverted else 1.0
    mean, std = _moments(image)
    low = fn.reductions.min(image, axes=SPACE, keep_dims=True)
    high = fn.reductions.max(image, axes=SPACE, keep_dims=True)
    edge = high if inverted else low
    bent = _standardize(image, edge, sign * math.max(high - low, TINY)) ** _row(exponents, num_channels)
    bent_mean, bent_std = _moments(bent)
    spread = sign * math.max(bent_std, TINY) / math.max(std, TINY)
    return _standardize(bent, bent_mean - mean * spread, spread)


def _moments(image: DataNode) -> tuple[DataNode, DataNode]:
    mean = fn.reductions.mean(image, axes=SPACE, keep_dims=True)
    return mean, fn.reductions.std_dev(image, mean, axes=SPACE, keep_dims=True)


def _row(values: DataNode, num_channels: int) -> DataNode:
    return fn.reshape(values, shape=[1, 1, 1, num_channels])


def _standardize(image: DataNode, mean: DataNode, std: DataNode) -> DataNode:
    """Subtract and divide channel by channel: the fast way to a linear map per channel (see ``dali_graph``).

    On a GPU moments lie in its memory, and ``fn.normalize`` takes them from the CPU only.
    """
    if image.device == "gpu":
        return (image - mean) / std
    return fn.normalize(image, mean=mean, stddev=std, axes=SPACE)


def _by_channel(
    image: DataNode, parameters: DataNode, num_channels: int, change: Callable[[DataNode, DataNode], DataNode]
) -> DataNode:
    """Apply ``change`` to the channels whose row of ``parameters`` [C,3] is not zero."""
    made = []
    for index in range(num_channels):
        channel = fn.slice(image, start=[index], shape=[1], axes=[3])
        row = parameters[index]
        if row[0] > 0:
            channel = change(channel, row)
        made.append(channel)
    return fn.cat(*made, axis=3) if len(made) > 1 else made[0]
