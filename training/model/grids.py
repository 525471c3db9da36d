"""The grids that a network was trained on, and how an image is brought to one of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.affines import voxel_sizes

from preprocessing.volumes.geometry import Geometry, plan_geometry
from preprocessing.volumes.grid import Float3
from preprocessing.volumes.image import ConvertOptions
from preprocessing.volumes.nifti import Volume

Affine = npt.NDArray[np.float64]
BORNE = 1.25  # a voxel this much smaller or larger than any of the training set's is still like them
NO_CODE = "none"


@dataclass(frozen=True, kw_only=True)
class SeenGrids:
    """The grids of a training set's cases, as they are stored.

    ``orientations`` counts the cases of each axis code, such as ``"RAS"``; voxel sizes are along x,y,z in millimetres:
    the median and the range over the cases.
    """

    orientations: dict[str, int]
    spacing: Float3
    smallest: Float3
    largest: Float3

    @classmethod
    def of_cases(cls, affines: Iterable[list[list[float]]], spacings_dhw: npt.NDArray[np.float64]) -> SeenGrids:
        """Sum up the affines and the voxel sizes [n,3] in D,H,W order of stored cases."""
        codes: Counter[str] = Counter()
        axes = np.array([np.asarray(affine)[:3, :3] for affine in affines]).reshape(-1, 9)
        for turned, count in zip(*np.unique(axes.round(3), axis=0, return_counts=True), strict=True):  # 0.2 ms each
            codes[code_of(turned.reshape(3, 3))] += int(count)
        (spacing, smallest, largest) = (
            (float(x), float(y), float(z))
            for z, y, x in (function(spacings_dhw, axis=0) for function in (np.median, np.min, np.max))
        )
        return cls(orientations=dict(codes.most_common()), spacing=spacing, smallest=smallest, largest=largest)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> SeenGrids:
        """Rebuild what ``dataclasses.asdict`` made."""
        sizes: dict[str, Any] = {name: tuple(plain[name]) for name in ("spacing", "smallest", "largest")}
        return cls(orientations=plain["orientations"], **sizes)

    @property
    def orientation(self) -> str:
        """The commonest axis code."""
        return max(self.orientations, key=lambda code: self.orientations[code])

    def strange_sides(self, sizes_xyz: Iterable[float]) -> tuple[bool, bool, bool]:
        """Tell along which of x,y,z a voxel of this size is unlike those of the training set."""
        sides = zip(sizes_xyz, self.smallest, self.largest, strict=True)
        x, y, z = (not low / BORNE <= size <= high * BORNE for size, low, high in sides)
        return x, y, z

    def like_training(self, volume: Volume, options: ConvertOptions) -> ConvertOptions:
        """Add to ``options`` the orientation, and the voxel size, that makes ``volume`` like the training set.

        What is like it stays as it is: an axis code that some cases have, a size within their range. Raises what
        ``plan_geometry`` raises.
        """
        orientation, spacing = options.orientation, options.spacing
        if orientation == "source" and code_of(volume.affine) not in self.orientations:
            orientation = self.orientation
        turned = plan_geometry(volume, orientation, None, options.max_volume_gib)
        sizes = sizes_of(turned.affine)
        strange = self.strange_sides(sizes)
        if spacing is None and any(strange):
            x, y, z = (median if out else own for out, median, own in zip(strange, self.spacing, sizes, strict=True))
            spacing = x, y, z
        return dataclasses.replace(options, orientation=orientation, spacing=spacing)


class UnlikeTraining:
    """Counts the images that a network saw on grids unlike any that it was trained on."""

    def __init__(self, seen: SeenGrids | None) -> None:
        self.seen = seen
        self._orientations: Counter[str] = Counter()
        self._spacings: Counter[str] = Counter()
        self._num = self._num_unlike = 0

    def add(self, geometry: Geometry) -> None:
        """Count one image by the grid on which the network saw it."""
        if self.seen is None:
            return
        code, sizes = code_of(geometry.affine), sizes_of(geometry.affine)
        is_turned, is_strange = code not in self.seen.orientations, any(self.seen.strange_sides(sizes))
        self._num += 1
        self._num_unlike += is_turned or is_strange
        self._orientations.update([code] * is_turned)
        self._spacings.update([f"of {in_millimetres(sizes)} mm"] * is_strange)

    def __str__(self) -> str:
        """Say in one line how many differ and in what; empty where none does."""
        if self.seen is None or not self._num_unlike:
            return ""
        parts = []
        if self._orientations:
            parts.append(f"orientation {tallied(self._orientations)} (trained on {tallied(self.seen.orientations)})")
        if self._spacings:
            low, high = in_millimetres(self.seen.smallest), in_millimetres(self.seen.largest)
            trained = low if low == high else f"{low} to {high}"
            parts.append(f"voxels {tallied(self._spacings)} (trained on {trained} mm, x,y,z)")
        return f"{self._num_unlike} of {self._num} images are unlike the training set: {'; '.join(parts)}"


@np.errstate(over="ignore", invalid="ignore")  # of an affine that cannot be
def code_of(affine: Affine) -> str:
    """Return the axis code of [3,3] or [4,4], such as ``"RAS"``; ``NO_CODE`` where an axis has no direction."""
    whole = np.eye(4)
    whole[:3, :3] = affine[:3, :3]
    codes = nib.aff2axcodes(whole)  # type: ignore[no-untyped-call]
    return NO_CODE if None in codes else "".join(codes)


def sizes_of(affine: Affine) -> Float3:
    """Return the voxel size along x,y,z."""
    x, y, z = voxel_sizes(affine).tolist()  # type: ignore[no-untyped-call]
    return x, y, z


def in_millimetres(sizes: Float3) -> str:
    """Write three sizes as flags take them: ``1.5,1.5,2``."""
    return ",".join(f"{size:.3g}" for size in sizes)


def tallied(found: dict[str, int], most: int = 3) -> str:
    """Write what was found how often, the commonest first: ``12 LPS, 3 RAS``."""
    common = Counter(found).most_common()
    parts = [f"{count} {name}" for name, count in common[:most]]
    rest = sum(count for _, count in common[most:])
    return ", ".join(parts + [f"{rest} others"] * bool(rest))
