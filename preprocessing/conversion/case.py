"""Turn one case's NIfTI files into the arrays and facts that a shard stores."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt

from preprocessing.console.errors import CaseError, InputError
from preprocessing.layouts.dataset import Dataset, Source
from preprocessing.volumes.geometry import plan_geometry
from preprocessing.volumes.grid import Array, Box
from preprocessing.volumes.image import ConvertOptions, Image, check_grids, prepare_image, read_images, read_label
from preprocessing.volumes.nifti import Volume, read_nifti
from preprocessing.volumes.statistics import (
    LabelStatistics,
    label_statistics,
)

LOSSY, AXES = "lossy", "axes"  # kinds of notes, beside those of headers


@dataclass(frozen=True, kw_only=True)
class ConvertedCase:
    """Everything of one case: ``label`` is uint8 [D,H,W,1] or ``None``; ``foreground`` gives voxels [n,3] by label.

    ``notes`` say what about its files is odd, though it can be converted: by kind (``preprocessing.conversion.notes``).
    """

    source: Source
    image: Image
    image_volumes: list[Volume]
    label: npt.NDArray[np.uint8] | None
    label_volume: Volume | None
    labels: dict[int, LabelStatistics]
    foreground: dict[int, npt.NDArray[np.uint16]]
    notes: dict[str, str]


def convert_case(source: Source, dataset: Dataset, options: ConvertOptions) -> ConvertedCase:
    """Read, check, crop and summarise one case.

    Raises ``CaseError`` naming the case, the file and both values for anything that does not fit.
    """
    try:
        return _convert_case(source, dataset, options)
    except CaseError:
        raise
    except InputError as error:
        raise CaseError(source.case_id, str(error)) from error


def _convert_case(source: Source, dataset: Dataset, options: ConvertOptions) -> ConvertedCase:
    if source.problem:
        raise InputError(source.problem)
    if source.label is not None and not source.label.exists():
        raise InputError(f"no label at {source.label}; add it, or {dataset.without_label}")
    volumes = read_images(source.images, dataset.channel_names, options)
    label_volume = None if source.label is None else read_nifti(source.label, options.max_volume_gib, options.trust)
    full_label, notes = None, {}
    if label_volume is not None:
        check_grids(volumes[0], label_volume, "its image", options.ignore_affine)
        known = [*dataset.label_names, *([] if dataset.ignore_label is None else [dataset.ignore_label])]
        full_label = read_label(label_volume, known, dataset.label_remap)
        notes = label_volume.notes | _axes_note(volumes[0], label_volume, full_label)
    for volume in volumes[::-1]:
        notes |= volume.notes
    geometry = plan_geometry(volumes[0], options.orientation, options.spacing, options.max_volume_gib)
    if full_label is not None:
        full_label = geometry.apply_to_label(full_label)
    annotated = None if full_label is None else _annotated(full_label, dataset.ignore_label)
    image = prepare_image(volumes, geometry, options, dataset.schemes, annotated)
    if options.dtype == "auto" and image.max_abs_error and all(_holds_integers(volume) for volume in volumes):
        notes[LOSSY] = f"stored as {image.voxels.dtype}, values change by up to {image.max_abs_error:g}"
    label = None if full_label is None else full_label[_box_of(image)][..., None]
    labels, foreground = (
        ({}, {}) if label is None else label_statistics(_annotated(label[..., 0], dataset.ignore_label), source.case_id)
    )
    return ConvertedCase(
        source=source,
        image=image,
        image_volumes=volumes,
        label=label,
        label_volume=label_volume,
        labels=labels,
        foreground=foreground,
        notes=notes,
    )


def _holds_integers(volume: Volume) -> bool:
    return volume.channels[0].dtype.kind in "iu" and (volume.slope, volume.inter) == (1.0, 0.0)


def _axes_note(image: Volume, label: Volume, voxels: npt.NDArray[np.uint8]) -> dict[str, str]:
    """Say how a label lies on its image where their affines run the axes in other ways, which was to be ignored."""
    turn: Array = nib.io_orientation(np.linalg.solve(image.affine, label.affine))  # type: ignore[no-untyped-call]
    turned: Array = nib.orientations.apply_orientation(voxels.T, turn).T  # type: ignore[no-untyped-call]
    if (turn == [[0, 1], [1, 1], [2, 1]]).all() or turned.shape != voxels.shape or not voxels.any():
        return {}
    filled = image.channels[0] != 0
    as_stored, as_turned = (f"{100 * float(filled[one != 0].mean()):.0f} %" for one in (voxels, turned))
    return {
        AXES: f"{as_stored} of the label lies on image voxels that are not 0 as it is stored, {as_turned} if turned"
    }


def _annotated(label: npt.NDArray[np.uint8], ignore_label: int | None) -> npt.NDArray[np.uint8]:
    """Return ``label`` with background where nobody annotated: what boxes, statistics and samples are made of."""
    return label if ignore_label is None else np.where(label == ignore_label, np.uint8(0), label)


def _box_of(image: Image) -> Box:
    d, h, w = (slice(o, o + n) for o, n in zip(image.origin_dhw, image.voxels.shape[:3], strict=True))
    return d, h, w
