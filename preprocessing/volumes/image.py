"""One image or label as a shard stores it, for conversion and prediction alike: read, checked, turned, cropped."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocessing.console.errors import InputError, check_known
from preprocessing.volumes.geometry import ORIENTATIONS, Geometry
from preprocessing.volumes.grid import Array, Box, Float3
from preprocessing.volumes.nifti import Volume, read_nifti
from preprocessing.volumes.placement import TRUSTED
from preprocessing.volumes.statistics import (
    CT,
    DTYPES,
    NONZERO,
    ChannelStatistics,
    bounding_box,
    choose_dtype,
    count_labels,
    summarise_channel,
)

AFFINE_TOLERANCE = 1e-3
LABEL_TOLERANCE = 1e-3  # a label that went through float and back comes home within 1e-4
HIGHEST_ID = 2**24 - 1
ROUNDED = "rounded"  # a kind of note
TO_NAME_IT = (
    'add it to "labels" in dataset.json (BraTS folders: in one beside a table, --layout list), or correct the file'
)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What decides the bytes of a store; the manifest keeps it.

    ``orientation`` is ``"source"`` or an axis code such as ``"RAS"``; ``spacing`` is x,y,z in millimetres along those.
    ``dtype`` is one of ``DTYPES``; ``auto`` keeps the smallest lossless one. ``trust`` is one of ``TRUSTED``. Raises
    ``InputError`` for values that cannot be.
    """

    orientation: str = "source"
    spacing: Float3 | None = None
    crop_foreground: bool = True
    dtype: str = "auto"
    ignore_affine: bool = False
    max_volume_gib: float = 16.0
    trust: str = "auto"

    def __post_init__(self) -> None:
        check_known("dtype", self.dtype, DTYPES)
        check_known("trust", self.trust, TRUSTED)
        if self.orientation not in ("source", *ORIENTATIONS):
            raise InputError(f"--orientation {self.orientation}: unknown; source, or one of RAS, LPS, LAS ...")
        if not 0 < self.max_volume_gib < math.inf:  # which not-a-number is not either
            raise InputError(f"--max-volume-gib {self.max_volume_gib:g}: give a positive number of GiB")

    def to_json(self) -> dict[str, Any]:
        """Return what a store keeps of them; ``trust`` only where it was given, as stores had none before."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("trust", "auto")}


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image to store or to predict on: ``voxels`` [D,H,W,C] of the box at ``origin_dhw`` in the stored grid.

    ``geometry`` gives that grid, reoriented and resampled from the file's; ``source_shape_dhw`` is its whole shape.
    """

    voxels: Array
    geometry: Geometry
    origin_dhw: tuple[int, int, int]
    source_shape_dhw: tuple[int, int, int]
    channels: list[ChannelStatistics]
    max_abs_error: float
    nonfinite_voxels: int


def read_images(paths: Sequence[Path], channel_names: Sequence[str], options: ConvertOptions) -> list[Volume]:
    """Read an image: one file with every channel, or one file for each on the same grid.

    Raises ``InputError`` for a file that cannot be read, another number of channels than ``channel_names``, or grids
    that differ.
    """
    volumes = [read_nifti(path, options.max_volume_gib, options.trust) for path in paths]
    for other in volumes[1:]:
        check_grids(volumes[0], other, f"{paths[0].name} of the same case", options.ignore_affine)
    found = [len(volume.channels) for volume in volumes]
    if sum(found) != len(channel_names) or (len(found) > 1 and max(found) > 1):
        counts = " + ".join(map(str, found))
        many = f"{paths[0]} and the other {len(found) - 1} files of the case have {counts} channels"
        have = f"{paths[0]} has {counts} channels" if len(found) == 1 else many
        raise InputError(
            f"{have}, there should be {len(channel_names)} ({', '.join(channel_names)}); "
            "correct the file or the data set's description"
        )
    return volumes


def prepare_image(
    volumes: Sequence[Volume],
    geometry: Geometry,
    options: ConvertOptions,
    schemes: Sequence[str] = (),
    label: npt.NDArray[np.uint8] | None = None,
) -> Image:
    """Reorient, resample, crop, interleave and summarise an image: for conversion and prediction alike.

    ``volumes`` hold the channels in order, all on the file grid of ``geometry``; ``label`` lies on its stored grid. The
    box holds every nonzero voxel of every channel and of ``label`` [D,H,W], so nothing that differs from zero is lost.
    Statistics cover what each channel's scheme counts; without ``schemes`` the voxels that are not zero.
    """
    scaled = [_scaled(volume) for volume in volumes]
    channels = [geometry.apply_to_image(channel) for part, _ in scaled for channel in part]
    box = _crop_box(channels, label) if options.crop_foreground else _whole(geometry.grid_shape_dhw)
    cut = [channel[box] for channel in channels]
    dtype, error = choose_dtype(cut, options.dtype, volumes[0].path)
    voxels = np.empty((*cut[0].shape, len(cut)), dtype=dtype)
    for number, channel in enumerate(cut):
        voxels[..., number] = channel
    labelled = None if label is None or CT not in schemes else label[box] > 0
    by_channel = zip(cut, schemes or [NONZERO] * len(cut), strict=True)
    statistics = [summarise_channel(channel, scheme, labelled) for channel, scheme in by_channel]
    return Image(
        voxels=voxels,
        origin_dhw=(box[0].start, box[1].start, box[2].start),
        geometry=geometry,
        source_shape_dhw=geometry.grid_shape_dhw,
        channels=statistics,
        max_abs_error=error,
        nonfinite_voxels=sum(count for _, count in scaled),
    )


def read_label(volume: Volume, known_ids: Collection[int] | None, remap: Mapping[int, int] | None = None) -> Array:
    """Return a label volume as uint8 [D,H,W]; ``remap`` gives the id to return for each id in the file.

    Without ``known_ids`` any are right, and wider numbers may be returned. Values at most 0.001 off whole numbers are
    rounded, which ``volume.notes`` then says. Raises ``InputError`` with the value for more than one channel, NaN,
    values further off or below 0, and for one that is not known.
    """
    if len(volume.channels) != 1:
        raise InputError(f"{volume.path} has {len(volume.channels)} channels, a label has 1")
    channels, nonfinite = _scaled(volume)
    if nonfinite:
        raise InputError(f"{volume.path} holds NaN or infinity in {nonfinite} voxels; labels are whole numbers")
    values = _rounded(volume, channels[0]) if channels[0].dtype.kind == "f" else channels[0]
    lowest, highest = values.min(), values.max()
    known = None if known_ids is None else sorted(remap or known_ids)
    limit = HIGHEST_ID if known is None else max(255, *known)
    if lowest < 0 or highest > limit:
        raise InputError(f"{volume.path} holds values {lowest:g} to {highest:g}; labels are 0 to {limit}")
    label: Array = np.ascontiguousarray(values, dtype=np.uint8 if highest <= 255 else np.int32)
    if known is not None and (unknown := sorted(set(count_labels(label)) - set(known))):
        raise InputError(f"{volume.path} holds label {unknown[0]}, the data set names {known}; {TO_NAME_IT}")
    if remap:
        table = np.zeros(limit + 1, np.uint8)
        table[list(remap)] = list(remap.values())
        label = table[label]
    return label


def _rounded(volume: Volume, values: Array) -> Array:
    whole = np.rint(values)
    off = np.abs(values - whole)
    broken = values[off > LABEL_TOLERANCE]
    if broken.size:
        is_scaled = (volume.slope, volume.inter) != (1.0, 0.0)
        why = f" (scl_slope {volume.slope:.9g}, scl_inter {volume.inter:.9g})" if is_scaled else ""
        raise InputError(
            f"{volume.path}{why} holds {float(broken[0]):.9g} in {broken.size} voxels; labels are whole numbers, or at "
            f"most {LABEL_TOLERANCE:g} away from them"
        )
    if off.any():
        volume.notes[ROUNDED] = f"{np.count_nonzero(off)} voxels of {volume.path.name}"
    return whole


def check_grids(first: Volume, other: Volume, first_is: str, ignore_affine: bool) -> None:
    """Raise ``InputError`` where two volumes of a case have other shapes, or affines that differ by more than 1e-3."""
    if first.shape_dhw != other.shape_dhw:
        raise InputError(
            f"{other.path} has {other.shape_dhw} voxels (D,H,W), {first_is} {first.shape_dhw}; "
            "resample one to the other"
        )
    difference = float(np.abs(first.affine - other.affine).max())
    if difference > AFFINE_TOLERANCE and not ignore_affine:
        raise InputError(
            f"{other.path} has another affine than {first_is} (they differ by up to {difference:.4g}); correct "
            "the header, or pass --ignore-affine true if the voxels do match"
        )


def _scaled(volume: Volume) -> tuple[list[Array], int]:
    """Apply scl_slope and scl_inter where there are any; replace and count what is not finite."""
    channels: list[Array] = list(volume.channels)
    if (volume.slope, volume.inter) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is infinite, and counted below
            channels = [channel * np.float64(volume.slope) + np.float64(volume.inter) for channel in channels]
    if channels[0].dtype.kind != "f":
        return channels, 0
    broken = [~np.isfinite(channel) for channel in channels]
    count = int(sum(mask.sum() for mask in broken))
    if count:
        channels = [
            np.where(mask, channel.dtype.type(0), channel) for mask, channel in zip(broken, channels, strict=True)
        ]
    return channels, count


def _whole(shape_dhw: tuple[int, int, int]) -> Box:
    return slice(0, shape_dhw[0]), slice(0, shape_dhw[1]), slice(0, shape_dhw[2])


def _crop_box(channels: list[Array], label: npt.NDArray[np.uint8] | None) -> Box:
    mask = channels[0] != 0
    for other in [*channels[1:], *([] if label is None else [label])]:
        mask |= other != 0
    return bounding_box(mask)
