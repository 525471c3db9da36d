"""Find the images to predict on, in NIfTI files or in a shard store, and prepare each as the training set was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from preprocessing.console.errors import InputError
from preprocessing.layouts.dataset import Source
from preprocessing.layouts.images import find_cases
from preprocessing.shards.files import MANIFEST
from preprocessing.shards.store import Store, open_store
from preprocessing.volumes.geometry import plan_geometry
from preprocessing.volumes.image import ConvertOptions, Image, prepare_image, read_images
from preprocessing.volumes.nifti import Volume
from training.model.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Input:
    """An image to predict on.

    ``read`` returns it, prepared as the network's training set was, with the header of its file; raises ``InputError``
    for what cannot be used.
    """

    case_id: str
    read: Callable[[], tuple[Image, nib.Nifti1Header]]


def find_inputs(path: Path, spec: ModelSpec, max_volume_gib: float, like_training: bool = False) -> list[Input]:
    """List what can be predicted at ``path``: a shard store, or all that ``find_cases`` knows.

    ``like_training`` brings images to the grids that the network was trained on. Raises ``InputError`` where there is
    nothing, where a store was not converted as the training set was, or where those grids are asked for and not known.
    """
    if like_training and spec.seen is None:
        raise InputError(
            "--like-training true: this checkpoint does not say what its training set was like; convert the images "
            "with to_shards --orientation and --spacing, or train again"
        )
    if (path / MANIFEST).is_file():
        if like_training:
            raise InputError(f"--like-training true: {path} is a store, whose grids are fixed; give the NIfTI files")
        store = open_store(path)
        _check_store(store, spec)
        return [Input(case_id=name, read=partial(_read_case, store, name)) for name in store.case_ids]
    if spec.modality == "prepared":
        raise InputError(
            f"{path}: the checkpoint was trained on arrays that were prepared elsewhere, and files are not prepared "
            "that way here; give a store of arrays prepared as the training set was"
        )
    return [
        Input(case_id=source.case_id, read=partial(_read_files, source, spec, max_volume_gib, like_training))
        for source in find_cases(path, spec.channel_names)
    ]


def prepare(volumes: Sequence[Volume], spec: ModelSpec, max_volume_gib: float, like_training: bool = False) -> Image:
    """Bring an image, its channels in one file or in several, to the form in which the training set was stored.

    With ``like_training`` also to the orientation and the voxel size of its cases, where it has others.
    """
    options = dataclasses.replace(spec.convert_options, max_volume_gib=max_volume_gib)
    if like_training and spec.seen is not None:
        options = spec.seen.like_training(volumes[0], options)
    geometry = plan_geometry(volumes[0], options.orientation, options.spacing, max_volume_gib)
    return prepare_image(volumes, geometry, options, spec.channel_schemes)


def _read_files(
    source: Source, spec: ModelSpec, max_volume_gib: float, like_training: bool
) -> tuple[Image, nib.Nifti1Header]:
    if source.problem:
        raise InputError(source.problem)
    options = ConvertOptions(max_volume_gib=max_volume_gib, trust=spec.trust)
    volumes = read_images(source.images, spec.channel_names, options)
    return prepare(volumes, spec, max_volume_gib, like_training), volumes[0].header


def _check_store(store: Store, spec: ModelSpec) -> None:
    """Raise ``InputError`` that names the first thing in which a store differs from the training set."""
    options = store.manifest.options
    spacing = None if options["spacing"] is None else tuple(options["spacing"])
    for name, found, wanted in (
        ("channels", store.manifest.channel_names, spec.channel_names),
        ("normalisation", store.manifest.channel_schemes, spec.channel_schemes),
        ("--orientation", options["orientation"], spec.orientation),
        ("--spacing", spacing, spec.spacing),
        ("--crop-foreground", options["crop_foreground"], spec.crop_foreground),
    ):
        if found != wanted:
            raise InputError(
                f"{store.root} has {name} {found}, the checkpoint was trained on {wanted}; convert the images as its "
                "training set was, or give the NIfTI files"
            )


def _read_case(store: Store, case_id: str) -> tuple[Image, nib.Nifti1Header]:
    """Map a stored case; its file's header is not kept, so one is made of the shape and the affine."""
    case = store.case(case_id)
    entry = case.entry
    image = Image(
        voxels=case.image(),
        geometry=entry.geometry,
        origin_dhw=entry.origin_dhw,
        source_shape_dhw=entry.source_shape_dhw,
        channels=entry.channels,
        max_abs_error=entry.max_abs_error,
        nonfinite_voxels=entry.nonfinite_voxels,
    )
    return image, _header_of(image)


def _header_of(image: Image) -> nib.Nifti1Header:
    shape_xyz, affine = image.geometry.file_shape_dhw[::-1], np.asarray(image.geometry.file_affine)
    header = nib.Nifti2Header() if max(shape_xyz) >= 2**15 else nib.Nifti1Header()  # type: ignore[no-untyped-call]
    header.set_data_shape(shape_xyz)  # type: ignore[no-untyped-call]
    header.set_zooms(voxel_sizes(affine))  # type: ignore[no-untyped-call]
    header.set_sform(affine, code="scanner")  # type: ignore[no-untyped-call]
    header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    return header
