"""The nnU-Net v2 raw layout: one file per channel, ``imagesTr/CASE_0000.nii.gz``, ids and regions by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from preprocessing.console.errors import InputError
from preprocessing.layouts.dataset import (
    Dataset,
    Source,
    compare_count,
    label_ids,
    mention,
    modality_of,
    numbered_names,
    path_inside,
    read_description,
    sorted_sources,
    understood,
)
from preprocessing.layouts.regions import Regions, label_of_regions
from preprocessing.volumes.nifti import SUFFIXES

IGNORE = "ignore"


def read_nnunet(root: Path) -> Dataset:
    """Read ``dataset.json`` beside ``imagesTr labelsTr imagesTs``, and ``imagesVa labelsVa`` where there are such.

    Cases are found by their file names, or as ``"dataset"`` in ``dataset.json`` lists them. A label written as a list
    of ids is a region, the one called ``ignore`` marks voxels that nobody annotated. Raises ``InputError`` for a
    missing or malformed description, a file ending that is not NIfTI, or a path that leaves ``root``; a missing channel
    or label is found out case by case.
    """
    path = root / "dataset.json"
    described = read_description(path)
    needs = '"channel_names", "labels" (name to id, or to a list of ids) and "file_ending"'
    with understood(path, "an nnU-Net dataset.json", needs):
        channel_names = numbered_names(described["channel_names"])
        labels = label_ids(path, described["labels"])
        if isinstance(described["labels"].get(IGNORE), list):
            raise InputError(f'{path}: "ignore" is {described["labels"][IGNORE]}; it must be one id')
        (ignore_label,) = labels.pop(IGNORE, (None,))
        declared = any(isinstance(ids, list) for ids in described["labels"].values())
        label_names, regions = read_labels(labels, declared)
        painted = _painted(path, regions, labels, described.get("regions_class_order"))
        ending = str(described.get("file_ending", ".nii.gz"))
        listed = described.get("dataset")
        sources = _found(root, ending, len(channel_names)) if listed is None else list(_listed(root, listed))
    highest = max(label_names, default=-1)
    if ignore_label is not None and not highest < ignore_label:
        raise InputError(f'{path}: "ignore" is {ignore_label}; it must be above the other labels, {highest + 1}')
    validation = sorted(source.case_id for source in sources if source.images[0].parent.name == "imagesVa")
    labelled = [source for source in sources if source.label is not None and source.case_id not in validation]
    compare_count(path, described, len(labelled))
    return Dataset(
        name=str(described.get("name", root.name)),
        root=root,
        channel_names=channel_names,
        label_names=label_names,
        modality=modality_of(channel_names),
        sources=sorted_sources(sources, path, f"put images such as CASE_0000{ending} into imagesTr"),
        regions={name: regions[name] for name in painted} if regions and painted else regions,
        region_ids=painted or {},
        split={"validation": validation} if validation else {},
        ignore_label=ignore_label,
        without_label="move its images to imagesTs"
        if listed is None
        else 'take "label" out of its entry in dataset.json',
    )


def group_channels(names: Iterable[str], ending: str) -> dict[str, dict[int, str]]:
    """Group file names by case and channel, others left out: ``["a_0000.nii"]`` gives ``{"a": {0: "a_0000.nii"}}``."""
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}", re.IGNORECASE)
    found: dict[str, dict[int, str]] = {}
    for match in filter(None, map(pattern.fullmatch, names)):
        if not match[1].startswith("."):
            found.setdefault(match[1], {})[int(match[2])] = match[0]
    return found


def channel_files(case: Path, ending: str, num_channels: int, found: Mapping[int, str]) -> tuple[Path, ...]:
    """Name the files that a case should have: those ``found``, and what the others should be called."""
    names = (found.get(channel, f"{case.name}_{channel:04d}{ending}") for channel in range(num_channels))
    return tuple(map(case.with_name, names))


def _found(root: Path, ending: str, num_channels: int) -> list[Source]:
    if ending.lower() not in SUFFIXES:
        raise InputError(f'{root / "dataset.json"}: "file_ending" {ending!r}; NIfTI files end in {", ".join(SUFFIXES)}')
    sources = []
    for part in ("Tr", "Va", "Ts"):
        folder, labels = root / f"images{part}", root / f"labels{part}"
        names = _names_in(folder)
        known = (name for name in _names_in(labels) if name.lower().endswith(ending.lower()))
        truths = {name[: -len(ending)]: labels / name for name in known}
        if part == "Ts":
            mention(list(truths), f"labels in {labels} are not used: cases in {folder.name} are converted without")
            truths = {}
        cases = group_channels(names, ending)
        sources += [
            Source(
                case_id=case_id,
                images=channel_files(folder / case_id, ending, num_channels, cases.get(case_id, {})),
                label=truths.get(case_id, labels / f"{case_id}{ending}") if truths or part == "Tr" else None,
                problem=_problem(folder / case_id, ending, cases.get(case_id, {}), num_channels),
            )
            for case_id in sorted({*cases, *truths})
        ]
        others = [folder / name for name in names if not group_channels([name], ending)]
        mention(others, f"files in {folder} are not named CASE_0000{ending} and are left out")
    return sources


def _names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []


def _problem(case: Path, ending: str, found: Mapping[int, str], num_channels: int) -> str:
    """Say what is wrong with the files of a case, given those ``found`` by their channels."""
    if not found:
        plain = case.with_name(f"{case.name}{ending}")
        remedy = f"there is {plain}: give it that name" if plain.exists() else "add the image, or remove the label"
        return f"it has a label and no image at {case}_0000{ending}; {remedy}"
    if surplus := sorted(number for number in found if number >= num_channels):
        return (
            f"{case}_{surplus[0]:04d}{ending} is a channel that dataset.json does not name (it names {num_channels}); "
            'add it to "channel_names" or remove the file'
        )
    return ""


def _painted(path: Path, regions: Regions | None, labels: Mapping[str, Any], order: Any) -> dict[str, int] | None:
    """Read "regions_class_order": the label to write for each region; ``None`` where it changes nothing."""
    if regions is None or order is None:
        return None
    names = [str(name) for name in labels if str(name) in regions]
    if len(order) != len(names):
        listed = ", ".join(names)
        raise InputError(f'{path}: "regions_class_order" has {len(order)} labels for {len(names)} regions ({listed})')
    painted = dict(zip(names, map(int, order), strict=True))
    return None if list(painted.items()) == list(label_of_regions(regions).items()) else painted


def _listed(root: Path, listed: Mapping[str, Any]) -> Iterable[Source]:
    described_in = root / "dataset.json"
    for case_id, entry in listed.items():
        label = entry.get("label")
        yield Source(
            case_id=str(case_id),
            images=tuple(path_inside(root, image, described_in) for image in entry["images"]),
            label=None if label is None else path_inside(root, label, described_in),
        )


def read_labels(ids: Mapping[str, tuple[int, ...]], declared: bool) -> tuple[dict[int, str], Regions | None]:
    """Read ``{"background": 0, "whole": [1, 2], "core": 2}``; an id without a name is called after its region."""
    names = {numbers[0]: name for name, numbers in ids.items() if len(numbers) == 1}
    by_size = sorted(ids.items(), key=lambda item: len(item[1]))
    for name, numbers in by_size:
        for number in numbers:
            names.setdefault(number, f"{name} (label {number})")
    if not declared:
        return dict(sorted(names.items())), None
    regions = {name: tuple(sorted(n)) for name, n in sorted(ids.items(), key=lambda item: -len(item[1])) if n != (0,)}
    return dict(sorted(names.items())), regions
