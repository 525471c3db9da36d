"""What ``--augment full`` does to one sample, as numbers: nnU-Net v2's default list, drawn from random words.

Probabilities and ranges are those of ``nnUNetTrainer.get_training_transforms`` (nnunetv2, batchgeneratorsv2), in its
order, with its "dummy 2D" rule: where voxels are more than three times as long along one axis, patches turn and zoom in
the plane across it only. (nnU-Net asks the patch for that ratio, which it made inverse to the spacing.) Left out: the
mask that sets the background to zero again at the end (for data sets whose crop removed more than a quarter).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocessing.volumes.grid import Float3

ROTATION_P, ROTATION_RAD = 0.2, math.radians(30)  # each axis its own angle in -30 to 30 degrees
THICK, THICK_ROTATION_RAD = 3.0, math.pi  # from this ratio of spacings on, the angle about the thick axis is any
ZOOM_P, ZOOM = 0.2, (0.7, 1.4)  # one factor for all axes; above 1 objects get smaller
NOISE_P, NOISE_STD = 0.1, (0.0, 0.1)  # one noise volume for all channels
BLUR_P, BLUR_CHANNEL_P, BLUR_SIGMA = 0.2, 0.5, (0.5, 1.0)  # each channel and axis its own, in voxels
BRIGHTNESS_P, BRIGHTNESS = 0.15, (0.75, 1.25)
CONTRAST_P, CONTRAST = 0.15, (0.75, 1.25)
LOW_RESOLUTION_P, LOW_RESOLUTION_CHANNEL_P, LOW_RESOLUTION = 0.25, 0.5, (0.5, 1.0)
GAMMA_INVERTED_P, GAMMA_P, GAMMA = 0.1, 0.3, (0.7, 1.5)
OFF_TIE = 2.0**-10  # voxels by which the nearest voxel is sought off the centre, so that no rounding decides a tie

COMMON_WORDS, CHANNEL_WORDS = 24, 16  # reserved for a sample and for each channel; new parameters take unused ones


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Parameters of one sample. What does not fire is empty, or says so by its value.

    ``rotation_rad`` about D, H, W and ``zoom`` (above 1: smaller objects) are 0 and 1 where they do not fire;
    ``noise_std`` 0 is no noise. The rest has one entry per channel: ``blur_sigma`` in voxels along D, H, W (zeros leave
    the channel alone), factors for brightness and contrast, ``low_resolution`` the share of voxels kept along each axis
    (1 leaves the channel alone), and exponents for gamma. ``thick_axis`` is neither zoomed, shrunk nor tilted.
    """

    rotation_rad: Float3
    zoom: float
    noise_std: float
    noise_seed: int
    blur_sigma: tuple[Float3, ...]
    brightness: tuple[float, ...]
    contrast: tuple[float, ...]
    low_resolution: tuple[float, ...]
    gamma_inverted: tuple[float, ...]
    gamma: tuple[float, ...]
    thick_axis: int | None = None

    @property
    def is_spatial(self) -> bool:
        """Whether voxels move, so that the patch has to be interpolated."""
        return self.zoom != 1.0 or any(self.rotation_rad)


def thick_axis(spacing_mm: Float3) -> int | None:
    """Return the axis along which voxels are much longer than along the finest one, if there is one."""
    return spacing_mm.index(max(spacing_mm)) if max(spacing_mm) > THICK * min(spacing_mm) else None


def num_words(num_channels: int) -> int:
    """Count the random words that ``draw_augmentation`` takes."""
    return COMMON_WORDS + CHANNEL_WORDS * num_channels


def draw_augmentation(draws: npt.NDArray[np.float64], noise_seed: int, thick: int | None = None) -> Augmentation:
    """Turn ``num_words`` uniform numbers in [0, 1) into parameters; ``thick`` is the case's thick axis.

    The first ``COMMON_WORDS`` belong to the sample, the following rows of ``CHANNEL_WORDS`` to its channels.
    """
    common, channels = draws[:COMMON_WORDS], draws[COMMON_WORDS:].reshape(-1, CHANNEL_WORDS)
    return Augmentation(
        rotation_rad=_rotation(common[1:4], thick) if common[0] < ROTATION_P else (0.0, 0.0, 0.0),
        zoom=_between(ZOOM, common[5]) if common[4] < ZOOM_P else 1.0,
        noise_std=_between(NOISE_STD, common[7]) if common[6] < NOISE_P else 0.0,
        noise_seed=noise_seed,
        blur_sigma=tuple(_sigma(row) for row in channels) if common[9] < BLUR_P else (),
        brightness=_factors(BRIGHTNESS, channels[:, 4]) if common[10] < BRIGHTNESS_P else (),
        contrast=_factors(CONTRAST, channels[:, 5]) if common[11] < CONTRAST_P else (),
        low_resolution=tuple(_kept(row) for row in channels) if common[12] < LOW_RESOLUTION_P else (),
        gamma_inverted=_factors(GAMMA, channels[:, 8]) if common[13] < GAMMA_INVERTED_P else (),
        gamma=_factors(GAMMA, channels[:, 9]) if common[14] < GAMMA_P else (),
        thick_axis=thick,
    )


def _between(limits: tuple[float, float], draw: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * float(draw)


def _rotation(draws: npt.NDArray[np.float64], thick: int | None) -> Float3:
    limits = [ROTATION_RAD] * 3 if thick is None else [THICK_ROTATION_RAD * (axis == thick) for axis in range(3)]
    depth, height, width = (limit * (2 * float(draw) - 1) for limit, draw in zip(limits, draws, strict=True))
    return depth, height, width


def _sigma(row: npt.NDArray[np.float64]) -> Float3:
    if row[0] >= BLUR_CHANNEL_P:
        return 0.0, 0.0, 0.0
    return _between(BLUR_SIGMA, row[1]), _between(BLUR_SIGMA, row[2]), _between(BLUR_SIGMA, row[3])


def _kept(row: npt.NDArray[np.float64]) -> float:
    return _between(LOW_RESOLUTION, row[7]) if row[6] < LOW_RESOLUTION_CHANNEL_P else 1.0


def _factors(limits: tuple[float, float], draws: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Draw below 1 as often as above 1 (batchgenerators' rule), uniformly on either side."""
    return tuple(
        _between((limits[0], 1.0), 2 * draw) if draw < 0.5 else _between((1.0, limits[1]), 2 * draw - 1)
        for draw in draws.tolist()
    )
