"""Find where in a volume a patch was cut, and how it was flipped and rescaled, from its voxels alone.

Loaders that draw for themselves cannot be compared with the plan. But a patch of the right work lies somewhere in the
standardised volume of the case it claims to be from, under one of eight flips, up to one factor and one offset for all
channels; and its label lies in the same place under the same flips. Whatever does not is wrong.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.plan import Int3
from pipelines.reference import Float, flip

Label = npt.NDArray[np.uint8]
Flips = tuple[bool, bool, bool]
PROBES = 24  # voxels that every place of the volume is compared in
SHORT_LIST = 16  # places that are compared in every voxel


@dataclass(frozen=True, kw_only=True)
class Found:
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
    offsets, channels = _probes(image)
    values = image[(*offsets.T, channels)].astype(np.float64)
    if not values.std() > 0:
        return None
    patch = image.shape[0], image.shape[1], image.shape[2]
    short: list[tuple[float, Int3, Flips]] = []
    for axes in itertools.product((False, True), repeat=3):
        turned = np.where(axes, np.array(patch) - 1 - offsets, offsets)
        alike = _correlate(volume, turned, channels, values, patch)
        best = np.argpartition(alike, -min(SHORT_LIST, alike.size), axis=None)[-SHORT_LIST:]
        places = np.stack(np.unravel_index(best, alike.shape), axis=-1).tolist()
        short += [(float(alike[tuple(at)]), (at[0], at[1], at[2]), (axes[0], axes[1], axes[2])) for at in places]
    short.sort(reverse=True)
    compared = (_compare(image, label, volume, labels, at, axes) for _, at, axes in short[:SHORT_LIST])
    return max(compared, key=lambda found: (found.alike, -found.wrong_labels))


def _probes(image: Float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Choose ``count`` voxels [n,4] (place, channel), not of the commonest value (background) if that can be."""
    generator = np.random.default_rng(0)
    size = 50 * PROBES
    drawn = np.stack([generator.integers(0, side, size) for side in image.shape], axis=1)
    values = image[tuple(drawn.T)]
    known, counts = np.unique(values, return_counts=True)
    telling = drawn[values != known[counts.argmax()]]
    chosen = telling[:PROBES] if len(telling) >= PROBES else drawn[:PROBES]
    return chosen[:, :3], chosen[:, 3]


def _correlate(
    volume: Float, offsets: npt.NDArray[np.intp], channels: npt.NDArray[np.intp], values: Float, patch: Int3
) -> Float:
    """Correlate the probes' ``values`` with the volume's at every place; 0 where the volume has no contrast there."""
    places = [size - side + 1 for size, side in zip(volume.shape, patch, strict=False)]
    total, square, product = (np.zeros(places, np.float64) for _ in range(3))
    for (depth, height, width), channel, value in zip(offsets, channels, values - values.mean(), strict=True):
        seen = volume[depth : depth + places[0], height : height + places[1], width : width + places[2], channel]
        total += seen
        square += np.square(seen, dtype=np.float64)
        product += seen * value
    spread = np.sqrt(np.maximum(square - total**2 / len(values), 0)) * math.sqrt(len(values)) * values.std()
    alike: Float = np.divide(product, spread, out=np.zeros_like(product), where=spread > 0)
    return alike


def _compare(image: Float, label: Label, volume: Float, labels: Label, position: Int3, flips: Flips) -> Found:
    """Fit factor and offset at one place, and compare every voxel."""
    box = tuple(slice(start, start + side) for start, side in zip(position, image.shape, strict=False))
    wanted = flip(volume[box], flips).astype(np.float64)
    centred = wanted - wanted.mean()
    deviation = image - image.mean(dtype=np.float64)
    variance = float((centred**2).sum())
    product = float((centred * deviation).sum())
    scale = product / variance if variance else 0.0
    shift = float(image.mean(dtype=np.float64) - scale * wanted.mean())
    expected = wanted * scale + shift
    error = np.abs(image - expected) / np.maximum(np.abs(expected), 1)
    spread = math.sqrt(variance * float((deviation**2).sum()))
    return Found(
        position_dhw=position,
        flips_dhw=flips,
        scale=scale,
        shift=shift,
        error=float(error.max()),
        alike=product / spread if spread else 0.0,
        wrong_labels=int((flip(labels[box], flips) != label).sum()),
    )
