"""The nnU-Net v2 raw layout: one file per channel, ``imagesTr/CASE_0000.nii.gz``, ids and regions by name."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
from preprocessing.layouts.regions import Regions
from preprocessing.volumes.nifti import SUFFIXES

log = logging.getLogger(__name__)
IGNORE = "ignore"


def read_nnunet(root: Path) -> Dataset:
    """Read ``dataset.json`` beside ``imagesTr labelsTr imagesTs``.

    Cases are found by their file names, or as ``"dataset"`` in ``dataset.json`` lists them. A label written as a list
    of ids is a region, the one called ``ignore`` marks voxels that nobody annotated. Raises ``InputError`` for a
    missing or malformed description, a file ending that is not NIfTI, or a path that leaves ``root``; a missing channel
    or label is found out case by case.
    """
    path = root / "dataset.json"
    described = read_description(path)
    try:
        channel_names = numbered_names(described["channel_names"])
        labels = dict(described["labels"])
        ignore_label = None if IGNORE not in labels else int(labels.pop(IGNORE))
        label_names, regions = read_labels(labels)
        ending = str(described.get("file_ending", ".nii.gz"))
        listed = described.get("dataset")
        sources = _found(root, ending, len(channel_names)) if listed is None else list(_listed(root, listed))
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: not an nnU-Net dataset.json ({error!s} is missing or of the wrong kind); "
            'it needs "channel_names", "labels" (name to id, or to a list of ids) and "file_ending"'
        ) from error
    if ignore_label is not None and not max(label_names) < ignore_label <= 255:
        raise InputError(
            f'{path}: "ignore" is {ignore_label}; it must be above the other labels, {max(label_names) + 1}'
        )
    return Dataset(
        name=str(described.get("name", root.name)),
        root=root,
        channel_names=channel_names,
        label_names=label_names,
        modality=modality_of(channel_names),
        sources=sorted_sources(sources, path, f"put images such as CASE_0000{ending} into imagesTr"),
        regions=regions,
        ignore_label=ignore_label,
        without_label="move its images to imagesTs"
        if listed is None
        else 'take "label" out of its entry in dataset.json',
    )


def group_channels(names: Iterable[str], ending: str) -> dict[str, set[int]]:
    """Group file names by case: ``["a_0000.nii", "a_0001.nii"]`` gives ``{"a": {0, 1}}``; other names are left out."""
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}")
    found: dict[str, set[int]] = {}
    for match in filter(None, map(pattern.fullmatch, names)):
        if not match[1].startswith("."):
            found.setdefault(match[1], set()).add(int(match[2]))
    return found


def channel_files(folder: Path, case_id: str, ending: str, num_channels: int) -> tuple[Path, ...]:
    """Name the files that a case should have, whether or not they exist."""
    return tuple(folder / f"{case_id}_{channel:04d}{ending}" for channel in range(num_channels))


def _found(root: Path, ending: str, num_channels: int) -> list[Source]:
    if ending not in SUFFIXES:
        raise InputError(f'{root / "dataset.json"}: "file_ending" {ending!r}; NIfTI files end in {", ".join(SUFFIXES)}')
    sources = []
    for folder, labels in ((root / "imagesTr", root / "labelsTr"), (root / "imagesTs", None)):
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        cases = group_channels(names, ending)
        for case_id, numbers in cases.items():
            surplus = sorted(number for number in numbers if number >= num_channels)
            sources.append(
                Source(
                    case_id=case_id,
                    images=channel_files(folder, case_id, ending, num_channels),
                    label=None if labels is None else labels / f"{case_id}{ending}",
                    problem=f"{folder / case_id}_{surplus[0]:04d}{ending} is a channel that dataset.json does not "
                    f'name (it names {num_channels}); add it to "channel_names" or remove the file'
                    if surplus
                    else "",
                )
            )
        _mention_others(folder, names, ending)
    return sources


def _listed(root: Path, listed: Mapping[str, Any]) -> Iterable[Source]:
    described_in = root / "dataset.json"
    for case_id, entry in listed.items():
        label = entry.get("label")
        yield Source(
            case_id=str(case_id),
            images=tuple(path_inside(root, image, described_in) for image in entry["images"]),
            label=None if label is None else path_inside(root, label, described_in),
        )


def read_labels(labels: Mapping[str, Any]) -> tuple[dict[int, str], Regions | None]:
    """Read ``{"background": 0, "whole": [1, 2], "core": 2}``; an id without a name is called after its region."""
    ids = {str(name): tuple(map(int, n)) if isinstance(n, list) else (int(n),) for name, n in labels.items()}
    declared = any(isinstance(numbers, list) for numbers in labels.values())
    names = {numbers[0]: name for name, numbers in ids.items() if len(numbers) == 1}
    by_size = sorted(ids.items(), key=lambda item: len(item[1]))
    for name, numbers in by_size:
        for number in numbers:
            names.setdefault(number, f"{name} (label {number})")
    if not declared:
        return dict(sorted(names.items())), None
    regions = {name: tuple(sorted(n)) for name, n in sorted(ids.items(), key=lambda item: -len(item[1])) if n != (0,)}
    return dict(sorted(names.items())), regions


def _mention_others(folder: Path, names: list[str], ending: str) -> None:
    pattern = re.compile(rf".+_\d{{4}}{re.escape(ending)}")
    others = [name for name in names if not name.startswith(".") and not pattern.fullmatch(name)]
    if others:
        log.warning(
            "%d files in %s are not named CASE_0000%s and are left out, the first: %s",
            len(others),
            folder,
            ending,
            others[0],
        )
