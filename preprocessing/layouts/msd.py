"""The Medical Segmentation Decathlon layout: ``dataset.json`` lists every file, one 4D image a case."""

from __future__ import annotations

import logging
from pathlib import Path

from preprocessing.console.errors import InputError
from preprocessing.layouts.dataset import (
    Dataset,
    Source,
    modality_of,
    numbered_names,
    path_inside,
    read_description,
    sorted_sources,
)
from preprocessing.volumes.nifti import case_id_of

log = logging.getLogger(__name__)


def read_msd(root: Path) -> Dataset:
    """Read ``dataset.json`` beside ``imagesTr labelsTr imagesTs``.

    Raises ``InputError`` for a missing or malformed ``dataset.json``, a path that leaves ``root``, or two cases of one
    name. Whether the listed files exist is found out case by case, so that one missing file does not stop the rest.
    """
    path = root / "dataset.json"
    described = read_description(path)
    try:
        sources = [_labelled(root, entry["image"], entry["label"]) for entry in described["training"]]
        for entry in described.get("test", []):
            image = path_inside(root, entry["image"] if isinstance(entry, dict) else entry, path)
            sources.append(Source(case_id=case_id_of(image), images=(image,), label=None))
        label_names = {int(number): str(name) for number, name in described["labels"].items()}
        channel_names = numbered_names(described["modality"])
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: not an MSD dataset.json ({error!s} is missing or of the wrong kind); "
            'it needs "modality", "labels" and "training" with "image" and "label" in each entry'
        ) from error
    sources = sorted_sources(sources, path, 'add entries under "training" or "test"')
    _mention_unlisted(root, sources)
    return Dataset(
        name=str(described.get("name", root.name)),
        root=root,
        channel_names=channel_names,
        label_names=label_names,
        modality=modality_of(channel_names),
        sources=sources,
        without_label='list the image under "test" in dataset.json',
    )


def _labelled(root: Path, image: str, label: str) -> Source:
    described_in = root / "dataset.json"
    path = path_inside(root, image, described_in)
    return Source(case_id=case_id_of(path), images=(path,), label=path_inside(root, label, described_in))


def _mention_unlisted(root: Path, sources: list[Source]) -> None:
    listed = {image for source in sources for image in source.images}
    found = [path for folder in ("imagesTr", "imagesTs") for path in sorted((root / folder).glob("*.nii*"))]
    unlisted = [path for path in found if path not in listed and not path.name.startswith(".")]
    if unlisted:  # unless a link or .. leads to it: resolving every path of a large set takes seconds
        resolved = {path.resolve() for path in listed}
        unlisted = [path for path in unlisted if path.resolve() not in resolved]
    if unlisted:
        log.warning(
            "%d images are not listed in dataset.json and are left out, the first: %s",
            len(unlisted),
            unlisted[0],
        )
