"""One case whose arrays are normalised already: what it must be, and how it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocessing.console.errors import CaseError
from preprocessing.conversion.shard_job import name_from
from preprocessing.layouts.dataset import Dataset
from preprocessing.shards.entries import CaseEntry, FileRecord, check_names
from preprocessing.shards.files import write_npy
from preprocessing.volumes.geometry import Geometry
from preprocessing.volumes.grid import Array, Float3
from preprocessing.volumes.nifti import checksum_of, file_size
from preprocessing.volumes.statistics import LabelStatistics, label_statistics, summarise

STORED_UNIT = {"float32": 1.0, "float16": 1.0, "int16": 2.0**-10}  # what one stored unit is worth; int16 reaches +-32
SPACING_TOLERANCE = 1e-3

Foreground = Mapping[int, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """One case: ``image`` [D,H,W,C] floats, normalised; ``label`` [D,H,W,1] whole numbers 0 to 255, or ``None``.

    ``spacing_mm`` is along D,H,W; ``affine`` maps voxels x,y,z,1 to millimetres (a diagonal of the spacing where it is
    not known). ``foreground`` gives voxels [n,3] (D,H,W) to centre patches on, by label id; key 0 lists annotated
    voxels of any label, and -1, -2, ... those of the first, second, ... region. They are drawn from the label where
    it is ``None``. ``sources`` are the files the arrays came from: their sizes and checksums are kept.
    """

    case_id: str
    image: Array
    label: Array | None
    spacing_mm: Float3 = (1.0, 1.0, 1.0)
    affine: npt.NDArray[np.float64] | None = None
    foreground: Foreground | None = None
    sources: Sequence[Path] = ()


def write_prepared_case(folder: Path, case: PreparedCase, dataset: Dataset, dtype: str) -> CaseEntry:
    """Write the files of a case into a shard's folder and return its entry.

    Raises ``CaseError`` for arrays that do not fit each other or ``dataset``; nothing has been written then.
    """
    check_names(case.case_id)
    image, error = _stored(case, len(dataset.channel_names), dtype)
    label = None if case.label is None else _checked_label(case, dataset)
    labels, foreground = ({}, {}) if label is None else _foreground(case, label, dataset)
    affine = _affine(case)
    geometry = Geometry(file_shape_dhw=image.shape[:3], file_affine=affine.tolist())
    name, rows = case.case_id, list(foreground.values())
    return CaseEntry(
        case_id=name,
        shape_dhw=image.shape[:3],
        image_dtype=dtype,
        max_abs_error=error,
        nonfinite_voxels=0,
        spacing_mm=case.spacing_mm,
        affine=affine.tolist(),
        geometry=geometry,
        source_shape_dhw=image.shape[:3],
        origin_dhw=(0, 0, 0),
        channels=[summarise(channel[channel != 0]) for channel in np.moveaxis(case.image, -1, 0)],
        labels=labels,
        foreground_counts={number: len(voxels) for number, voxels in foreground.items()},
        image=write_npy(folder / f"{name}.image.npy", image),
        label=None if label is None else write_npy(folder / f"{name}.label.npy", label),
        foreground=None
        if label is None
        else write_npy(
            folder / f"{name}.foreground.npy", np.concatenate(rows) if rows else np.empty((0, 3), np.uint16)
        ),
        sources=[
            FileRecord(name=name_from(dataset.root, path), size_bytes=file_size(path) or 0, xxh3=checksum_of(path))
            for path in case.sources
        ],
    )


def _stored(case: PreparedCase, num_channels: int, dtype: str) -> tuple[Array, float]:
    """Return the image as it is stored, and the largest error that this makes."""
    image = case.image
    if image.ndim != 4 or image.shape[3] != num_channels or min(image.shape) < 1 or image.dtype.kind not in "fiu":
        raise CaseError(
            case.case_id,
            f"image is {image.dtype} {image.shape}; it must be numbers [D,H,W,{num_channels}], channels last",
        )
    broken = image.size - int(np.isfinite(image).sum())
    if broken:
        raise CaseError(case.case_id, f"image holds NaN or infinity in {broken} places; correct the preparation")
    unit = STORED_UNIT[dtype]
    values = image.astype(np.float32)
    scaled = np.rint(values / unit) if dtype == "int16" else values
    limits = np.iinfo(np.int16) if dtype == "int16" else np.finfo(dtype)
    highest = float(np.abs(values).max())
    if highest / unit > float(limits.max):
        raise CaseError(
            case.case_id, f"image reaches {highest:g}, {dtype} ends at {float(limits.max) * unit:g}; use float32"
        )
    stored = scaled.astype(dtype)
    error = float(np.abs(stored.astype(np.float64) * unit - image).max())
    return stored, error


def _checked_label(case: PreparedCase, dataset: Dataset) -> npt.NDArray[np.uint8]:
    label, image = case.label, case.image
    assert label is not None
    if label.shape != (*image.shape[:3], 1):
        raise CaseError(case.case_id, f"label is {label.shape}, its image {image.shape}; it must be [D,H,W,1]")
    known = {*dataset.label_names, *([] if dataset.ignore_label is None else [dataset.ignore_label])}
    unknown = sorted(set(np.unique(label).tolist()) - known)
    if unknown:
        raise CaseError(
            case.case_id, f"label holds {unknown[0]:g}, the description names {sorted(known)}; add it there"
        )
    return label.astype(np.uint8)


def _foreground(
    case: PreparedCase, label: npt.NDArray[np.uint8], dataset: Dataset
) -> tuple[dict[int, LabelStatistics], dict[int, npt.NDArray[np.uint16]]]:
    ignored = dataset.ignore_label
    annotated = label[..., 0] if ignored is None else np.where(label[..., 0] == ignored, np.uint8(0), label[..., 0])
    labels, drawn = label_statistics(annotated, case.case_id)
    if case.foreground is None:
        return labels, drawn
    given = {number: np.asarray(voxels).reshape(-1, 3) for number, voxels in case.foreground.items()}
    for number, voxels in given.items():
        if len(voxels) and ((voxels < 0).any() or (voxels >= label.shape[:3]).any()):
            raise CaseError(
                case.case_id, f"foreground of label {number} lies outside the volume of {label.shape[:3]} voxels"
            )
    return labels, {number: voxels.astype(np.uint16) for number, voxels in given.items()}


def _affine(case: PreparedCase) -> npt.NDArray[np.float64]:
    """Return the affine, whose voxel size must be the spacing."""
    if case.affine is None:
        return np.diag([*case.spacing_mm[::-1], 1.0])
    sizes = np.linalg.norm(np.asarray(case.affine)[:3, :3], axis=0)[::-1]
    if np.abs(sizes - case.spacing_mm).max() > SPACING_TOLERANCE:
        raise CaseError(
            case.case_id,
            f"the affine's voxels are {tuple(sizes.round(4).tolist())} mm (D,H,W), spacing_mm says {case.spacing_mm}; "
            "give one that fits",
        )
    return np.asarray(case.affine, np.float64)
