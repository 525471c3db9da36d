"""Reorient and resample volumes, record it, and undo it: a label map returns to the grid of its file exactly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from preprocessing.console.errors import InputError
from preprocessing.volumes.grid import Array, Float3, Int3
from preprocessing.volumes.nifti import GIB, Volume
from preprocessing.volumes.resample import resample, resample_label

ORIENTATIONS = ["".join(axes) for order in permutations(("RL", "AP", "SI")) for axes in product(*order)]
ANISOTROPY = 3.0  # nnU-Net's threshold: from here on, slices are too far apart to interpolate between them


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The steps from a file's grid to the whole stored grid, which cropping then cuts; everything D,H,W.

    Axis i of the stored grid is axis ``axes[i]`` of the file, reversed where ``flips[i]``. Then it is resampled: voxel
    j covers the file's voxels from ``j * zoom`` to ``(j + 1) * zoom``, so both grids begin at one edge. ``zoom_dhw`` is
    1 where nothing is resampled. Along ``nearest_axis`` images take the nearest slice instead of blending two.
    ``file_affine`` maps the file's voxels x,y,z to millimetres.
    """

    file_shape_dhw: Int3
    file_affine: list[list[float]]
    axes: Int3 = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)
    zoom_dhw: Float3 = (1.0, 1.0, 1.0)
    nearest_axis: int | None = None

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Geometry:
        """Rebuild a geometry from its JSON form."""
        triples = {name: tuple(entry[name]) for name in ("file_shape_dhw", "axes", "flips", "zoom_dhw")}
        return cls(**entry | triples)

    @property
    def reoriented_shape_dhw(self) -> Int3:
        """Shape after reordering the axes, before resampling."""
        d, h, w = (self.file_shape_dhw[axis] for axis in self.axes)
        return d, h, w

    @property
    def grid_shape_dhw(self) -> Int3:
        """Shape of the whole stored grid."""
        d, h, w = (max(round(n / z), 1) for n, z in zip(self.reoriented_shape_dhw, self.zoom_dhw, strict=True))
        return d, h, w

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """Map voxels x,y,z of the stored grid to millimetres."""
        step = np.zeros((4, 4))
        step[3, 3] = 1.0
        for axis in range(3):
            zoom, sign = self.zoom_dhw[axis], -1.0 if self.flips[axis] else 1.0
            row, column = 2 - self.axes[axis], 2 - axis
            step[row, column] = sign * zoom
            first = (zoom - 1) / 2
            step[row, 3] = self.reoriented_shape_dhw[axis] - 1 - first if self.flips[axis] else first
        return np.asarray(self.file_affine) @ step

    @property
    def _is_resampled(self) -> bool:
        return self.zoom_dhw != (1.0, 1.0, 1.0)

    def apply_to_image(self, channel: Array) -> Array:
        """Bring one channel [D,H,W] to the stored grid: linear, integers rounded back to integers."""
        turned = self._reorient(channel)
        if not self._is_resampled:
            return turned
        made = resample(turned, self.grid_shape_dhw, self.zoom_dhw, self._nearest)
        return np.rint(made).astype(channel.dtype) if channel.dtype.kind in "iu" else made.astype(channel.dtype)

    def apply_to_label(self, label: Array) -> Array:
        """Bring a label map [D,H,W] to the stored grid: each voxel takes the label with the largest share in it."""
        turned = self._reorient(label)
        if not self._is_resampled:
            return np.ascontiguousarray(turned)
        return resample_label(turned, self.grid_shape_dhw, self.zoom_dhw, self._label_nearest)

    def undo(self, label: Array) -> Array:
        """Bring a label map from the whole stored grid back to the file's [D,H,W]: the largest share again."""
        if self._is_resampled:
            label = resample_label(label, self.reoriented_shape_dhw, self._unzoom_dhw, self._label_nearest)
        return self._turn_back(label)

    def undo_scores(self, scores: Array) -> Array:
        """Bring float scores, such as the probability of one label, back from the whole stored grid: linear."""
        if self._is_resampled:
            scores = resample(scores, self.reoriented_shape_dhw, self._unzoom_dhw, self._nearest)
        return self._turn_back(scores)

    @property
    def _nearest(self) -> list[int]:
        return [] if self.nearest_axis is None else [self.nearest_axis]

    @property
    def _label_nearest(self) -> list[int]:
        """Along these axes labels are not weighed: to a grid that is finer there and back is then exact."""
        return [axis for axis, zoom in enumerate(self.zoom_dhw) if zoom <= 1 or axis == self.nearest_axis]

    @property
    def _unzoom_dhw(self) -> Float3:
        d, h, w = self.zoom_dhw
        return 1 / d, 1 / h, 1 / w

    def _turn_back(self, array: Array) -> Array:
        turned = array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return turned.transpose(np.argsort(self.axes))

    def _reorient(self, array: Array) -> Array:
        return array.transpose(self.axes)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]


def plan_geometry(volume: Volume, orientation: str, spacing_xyz: Float3 | None, max_volume_gib: float) -> Geometry:
    """Decide the steps for one file: axes into ``orientation`` (such as ``"RAS"``, or ``"source"``), then resampling.

    ``spacing_xyz`` in millimetres is meant for the axes after reorienting; ``None`` keeps the file's. A volume whose
    slices are more than three times as thick as its pixels is not blended across slices (nnU-Net's rule). Raises
    ``InputError`` for a grid of more than ``max_volume_gib``.
    """
    plain = Geometry(file_shape_dhw=volume.shape_dhw, file_affine=volume.affine.tolist())
    if orientation == "source" and spacing_xyz is None:
        return plain
    sizes = np.linalg.norm(volume.affine[:3, :3], axis=0)[::-1]
    axes, flips = plain.axes, plain.flips
    if orientation != "source":
        axes, flips = _turn(volume, orientation)
    zoom: Float3 = (1.0, 1.0, 1.0)
    nearest_axis = None
    if spacing_xyz is not None:
        found = sizes[list(axes)]
        wanted = np.array(spacing_xyz[::-1])
        ratio = np.where(np.isclose(wanted, found, rtol=1e-4), 1.0, wanted / found)
        zoom = (float(ratio[0]), float(ratio[1]), float(ratio[2]))
        coarse = found if found.max() / found.min() > ANISOTROPY else wanted
        nearest_axis = int(coarse.argmax()) if coarse.max() / coarse.min() > ANISOTROPY else None
    made = Geometry(
        file_shape_dhw=volume.shape_dhw,
        file_affine=plain.file_affine,
        axes=axes,
        flips=flips,
        zoom_dhw=zoom,
        nearest_axis=nearest_axis if zoom != (1.0, 1.0, 1.0) else None,
    )
    size_gib = float(np.prod([float(side) for side in made.grid_shape_dhw])) * 4 / GIB
    if size_gib > max_volume_gib:
        raise InputError(
            f"{volume.path}: resampled to {made.grid_shape_dhw} voxels (D,H,W) it needs {size_gib:.1f} GiB a channel, "
            f"the limit is {max_volume_gib:g} GiB; choose a coarser --spacing or raise --max-volume-gib"
        )
    return made


def stored_spacing(file_spacing_mm: Float3, geometry: Geometry) -> Float3:
    """Return the voxel size D,H,W of the stored grid, from that of the file."""
    d, h, w = (
        round(file_spacing_mm[a] * z, 6) if z != 1 else file_spacing_mm[a]
        for a, z in zip(geometry.axes, geometry.zoom_dhw, strict=True)
    )
    return d, h, w


def _turn(volume: Volume, orientation: str) -> tuple[Int3, tuple[bool, bool, bool]]:
    """Find the file axis behind each axis of ``orientation`` and whether it runs the other way, both D,H,W."""
    found = nib.io_orientation(volume.affine)  # type: ignore[no-untyped-call]
    wanted = nib.orientations.axcodes2ornt(tuple(orientation))  # type: ignore[no-untyped-call]
    steps = nib.orientations.ornt_transform(found, wanted)  # type: ignore[no-untyped-call]
    behind = {int(out): (axis, bool(sign < 0)) for axis, (out, sign) in enumerate(steps)}  # axes x,y,z
    (d, flip_d), (h, flip_h), (w, flip_w) = (behind[axis] for axis in (2, 1, 0))
    return (2 - d, 2 - h, 2 - w), (flip_d, flip_h, flip_w)


def restore_to_source(
    stored: Array, origin_dhw: Int3, grid_shape_dhw: Int3, geometry: Geometry | None = None, outside: float = 0
) -> Array:
    """Undo crop, resampling and axis order: a box [D,H,W] becomes the file's grid [x,y,z].

    ``stored`` holds labels, or scores if its numbers are floats; beyond the box they are ``outside``.
    """
    whole = np.full(grid_shape_dhw, outside, dtype=stored.dtype)
    whole[tuple(slice(o, o + n) for o, n in zip(origin_dhw, stored.shape, strict=True))] = stored
    if geometry is not None:
        whole = geometry.undo_scores(whole) if stored.dtype.kind == "f" else geometry.undo(whole)
    return whole.transpose(2, 1, 0)
