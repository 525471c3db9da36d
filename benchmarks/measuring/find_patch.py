"""Find where in a volume a patch was cut, and how it was flipped and rescaled, from its voxels alone.

Loaders that draw for themselves cannot be compared with the plan. But a patch of the right work lies somewhere in the
standardised volume of the case it claims to be from, under one of eight flips, up to one factor and one offset for all
channels; and its label lies in the same place under the same flips. Whatever does not is wrong.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.reference import Float, flip
from preprocessing.volumes.grid import Int3

Label = npt.NDArray[np.uint8]
Flips = tuple[bool, bool, bool]
Voxels = npt.NDArray[np.intp]
PROBES = 12  # voxels in which every place of the volume is compared
SHORT_LIST = 16  # places under each flip that are compared in more voxels, the best of them in all
MORE_PROBES = 4096


class Found(NamedTuple):
    """The place whose voxels, times ``scale`` plus ``shift``, come closest to the patch.

    ``error`` is the largest difference of a voxel, in units of the larger of 1 and its value; ``alike`` the correlation
    of patch and place, 1 for equal ones; ``wrong_labels`` counts voxels of the label that differ there.
    """

    position_dhw: Int3
    flips_dhw: Flips
    scale: float
    shift: float
    error: float
    alike: float
    wrong_labels: int


def find_patch(image: Float, label: Label, volume: Float, labels: Label) -> Found | None:
    """Look for the patch ``image`` [d,h,w,C] in ``volume`` [D,H,W,C], and compare ``label`` with ``labels`` there.

    ``label`` and ``labels`` are [d,h,w,1] and [D,H,W,1]. Returns ``None`` for a patch without contrast, which could lie
    anywhere. The cost grows with the number of places, (D-d+1)(H-h+1)(W-w+1): about 1 s for a million.
    """
    probes = _probes(image, PROBES)
    values = image[tuple(probes.T)]
    if not values.std() > 0:
        return None
    patch = image.shape[0], image.shape[1], image.shape[2]
    more = _probes(image, MORE_PROBES)
    short: list[tuple[float, Int3, Flips]] = []
    for depth, height, width in itertools.product((False, True), repeat=3):
        flips = (depth, height, width)
        alike = _correlate(volume, _turned(probes, flips, patch), values, patch)
        best = np.argpartition(alike, -min(SHORT_LIST, alike.size), axis=None)[-SHORT_LIST:]
        offsets = _turned(more, flips, patch)
        for at in np.stack(np.unravel_index(best, alike.shape), axis=-1).tolist():
            seen = volume[tuple((offsets + np.array([*at, 0])).T)]
            short.append((_correlation(seen, image[tuple(more.T)]), (at[0], at[1], at[2]), flips))
    _, position, flips = max(short)
    return _compare(image, label, volume, labels, position, flips)


def _probes(image: Float, count: int) -> Voxels:
    """Choose ``count`` voxels [n,4] (place, channel), not of the commonest value (the background) if it can be."""
    generator = np.random.default_rng(0)
    drawn = np.stack([generator.integers(0, side, 50 * count) for side in image.shape], axis=1)
    values = image[tuple(drawn.T)]
    known, counts = np.unique(values, return_counts=True)
    telling = drawn[values != known[counts.argmax()]]
    return telling[:count] if len(telling) >= count else drawn[:count]


def _turned(probes: Voxels, flips: Flips, patch: Int3) -> Voxels:
    """Say where the voxels of a patch lay before it was flipped."""
    turned = probes.copy()
    for axis, is_flipped in enumerate(flips):
        if is_flipped:
            turned[:, axis] = patch[axis] - 1 - probes[:, axis]
    return turned


def _correlate(volume: Float, probes: Voxels, values: Float, patch: Int3) -> Float:
    """Correlate ``values`` with the volume's probes at every place; 0 where the volume has no contrast there."""
    places = [size - side + 1 for size, side in zip(volume.shape, patch, strict=False)]
    total, square, product = (np.zeros(places, np.float32) for _ in range(3))
    for (depth, height, width, channel), value in zip(probes, values - values.mean(), strict=True):
        seen = volume[depth : depth + places[0], height : height + places[1], width : width + places[2], channel]
        total += seen
        square += np.square(seen)
        product += seen * value
    spread = np.sqrt(np.maximum(square - total**2 / len(values), 0)) * math.sqrt(len(values)) * values.std()
    alike: Float = np.divide(product, spread, out=np.zeros_like(product), where=spread > 0)
    return alike


def _correlation(left: Float, right: Float) -> float:
    deviations = left.std(dtype=np.float64) * right.std(dtype=np.float64)
    mean = (left.mean(dtype=np.float64), right.mean(dtype=np.float64))
    return float(((left - mean[0]) * (right - mean[1])).mean() / deviations) if deviations else 0.0


def _compare(image: Float, label: Label, volume: Float, labels: Label, position: Int3, flips: Flips) -> Found:
    """Fit factor and offset at one place, and compare every voxel."""
    box = tuple(slice(start, start + side) for start, side in zip(position, image.shape, strict=False))
    wanted = flip(volume[box], flips)
    alike = _correlation(wanted, image)
    spread = float(wanted.std(dtype=np.float64))
    scale = alike * float(image.std(dtype=np.float64)) / spread if spread else 0.0
    shift = float(image.mean(dtype=np.float64) - scale * wanted.mean(dtype=np.float64))
    expected = wanted * np.float32(scale) + np.float32(shift)
    error = np.abs(image - expected) / np.maximum(np.abs(expected), 1)
    wrong_labels = int((flip(labels[box], flips) != label).sum())
    return Found(position, flips, scale, shift, float(error.max()), alike, wrong_labels)
