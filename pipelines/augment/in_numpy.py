"""The operations of ``--augment full`` in numpy and scipy; each has a twin of the same name in ``in_dali.py``.

Volumes are float32 [D,H,W,C], already standardised; per-channel parameters have C entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipelines.augment.parameters import OFF_TIE, Augmentation
from preprocessing.volumes.grid import Float3, Int3

Float = npt.NDArray[np.float32]
ScalarT = TypeVar("ScalarT", bound=np.generic)
SPACE = (0, 1, 2)
TINY = np.float32(1e-7)  # a channel without contrast has no range to stretch: gamma leaves it as it is


def affine(volume: Float, matrix: npt.NDArray[np.float64], patch: Int3, outside: Float) -> Float:
    """Sample ``volume`` where ``matrix`` [3,4] sends the voxels of ``patch``, linearly; ``outside`` [C] elsewhere."""
    return _warp(volume, matrix, patch, 1, outside)


def affine_nearest(label: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], patch: Int3) -> npt.NDArray[np.uint8]:
    """Do the same for class ids, taking the nearest voxel; background outside."""
    return _warp(label, matrix, patch, 0, np.zeros(label.shape[3], np.float32))


def _warp(
    volume: npt.NDArray[ScalarT], matrix: npt.NDArray[np.float64], patch: Int3, order: int, outside: Float
) -> npt.NDArray[ScalarT]:
    made = np.empty((*patch, volume.shape[3]), volume.dtype)
    for channel in range(volume.shape[3]):
        made[..., channel] = ndimage.affine_transform(
            volume[..., channel],
            matrix[:, :3],
            matrix[:, 3],
            output_shape=patch,
            order=order,
            mode="grid-constant",
            cval=float(outside[channel]),
        )
    return made


def noise_volume(augmentation: Augmentation, patch: Int3) -> Float:
    """Draw the noise [D,H,W,1] of a sample from its own seed: Philox, the same in any process, batch or order.

    DALI's random operators have one seed per pipeline and keep a state, so they could be neither resumed nor compared;
    both sides therefore take this volume. (30 ms for 128^3 on one of 2 cores, for one sample in ten, 2026-11-24.)
    """
    generator = np.random.Generator(np.random.Philox(key=augmentation.noise_seed))
    made = generator.standard_normal((*patch, 1), dtype=np.float32)
    made *= np.float32(augmentation.noise_std)
    return made


def gaussian_noise(image: Float, noise: Float) -> Float:
    """Add ``noise`` [D,H,W,1] to every channel."""
    return image + noise


def gaussian_blur(image: Float, sigma: Sequence[Float3]) -> Float:
    """Blur each channel by its own ``sigma`` (voxels along D, H, W; zeros leave it alone).

    The kernel reaches ceil(3 sigma) voxels and the border is mirrored without repeating the edge voxel.
    """
    made = image.copy()
    for channel, sigmas in enumerate(sigma):
        if sigmas[0] > 0:
            radius = [math.ceil(3 * value) for value in sigmas]
            made[..., channel] = ndimage.gaussian_filter(image[..., channel], sigmas, radius=radius, mode="mirror")
    return made


def brightness(image: Float, factors: Sequence[float]) -> Float:
    """Multiply each channel."""
    return image * _row(factors)


def contrast(image: Float, factors: Sequence[float]) -> Float:
    """Stretch each channel about its mean, kept within the range it had."""
    mean, _ = _moments(image)
    low, high = image.min(axis=SPACE), image.max(axis=SPACE)
    stretched: Float = np.clip((image - mean) * _row(factors) + mean, low, high)
    return stretched


def low_resolution(image: Float, kept: Sequence[float], thick: int | None = None) -> Float:
    """Shrink each channel to the share ``kept`` of its sides but ``thick`` (nearest), and enlarge it again (linear)."""
    made = image.copy()
    for channel, share in enumerate(kept):
        if share < 1:
            size = low_resolution_size(image.shape[:3], share, thick)
            made[..., channel] = _enlarge(_shrink(image[..., channel], size), image.shape[:3])
    return made


def low_resolution_size(patch: Sequence[int], share: float, thick: int | None = None) -> Int3:
    """Round the shrunken sides, at least one voxel; the axis ``thick`` keeps its own."""
    kept = (1.0 if axis == thick else share for axis in range(3))
    depth, height, width = (max(round(side * part), 1) for side, part in zip(patch, kept, strict=True))
    return depth, height, width


def _shrink(volume: Float, size: Int3) -> Float:
    """Take the voxel under each new centre."""
    chosen = [
        np.floor((np.arange(new) + 0.5) * old / new + OFF_TIE).astype(int)
        for new, old in zip(size, volume.shape, strict=True)
    ]
    depth, height, width = chosen
    small: Float = volume[depth[:, None, None], height[:, None], width]
    return small


def _enlarge(volume: Float, size: Sequence[int]) -> Float:
    """Interpolate linearly with pixel centres at one half (torch's ``align_corners=False``), one axis at a time."""
    for axis, (new, old) in enumerate(zip(size, volume.shape, strict=True)):
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        before = np.minimum(place.astype(int), max(old - 2, 0))
        after = np.minimum(before + 1, old - 1)
        share = (place - before).astype(np.float32).reshape([-1 if other == axis else 1 for other in range(3)])
        volume = volume.take(before, axis) * (1 - share) + volume.take(after, axis) * share
    return volume


def gamma(image: Float, exponents: Sequence[float], *, inverted: bool) -> Float:
    """Bend each channel's range by ``x ** exponent``, from the top if ``inverted``; mean and deviation are retained."""
    sign = np.float32(-1 if inverted else 1)
    values = image * sign
    mean, std = _moments(values)
    low, high = values.min(axis=SPACE), values.max(axis=SPACE)
    bent: Float = ((values - low) / np.maximum(high - low, TINY)) ** _row(exponents)
    bent_mean, bent_std = _moments(bent)
    gain = np.maximum(std, TINY) / np.maximum(bent_std, TINY)
    retained: Float = (((bent - bent_mean) * gain + mean) * sign).astype(np.float32)
    return retained


def _moments(image: Float) -> tuple[Float, Float]:
    """Take mean and deviation of each channel; in double precision, because numpy adds up float32 one by one here."""
    mean, std = image.mean(axis=SPACE, dtype=np.float64), image.std(axis=SPACE, dtype=np.float64)
    return mean.astype(np.float32), std.astype(np.float32)


def _row(values: Sequence[float]) -> Float:
    return np.array(values, np.float32)


def augment(image: Float, augmentation: Augmentation) -> Float:
    """Apply everything but the spatial part, in nnU-Net's order."""
    if augmentation.noise_std > 0:
        image = gaussian_noise(image, noise_volume(augmentation, image.shape[:3]))
    if augmentation.blur_sigma:
        image = gaussian_blur(image, augmentation.blur_sigma)
    if augmentation.brightness:
        image = brightness(image, augmentation.brightness)
    if augmentation.contrast:
        image = contrast(image, augmentation.contrast)
    if augmentation.low_resolution:
        image = low_resolution(image, augmentation.low_resolution, augmentation.thick_axis)
    if augmentation.gamma_inverted:
        image = gamma(image, augmentation.gamma_inverted, inverted=True)
    if augmentation.gamma:
        image = gamma(image, augmentation.gamma, inverted=False)
    return image
