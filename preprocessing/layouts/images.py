"""Find images to predict on: single files, folders of them, and the layouts with one file per channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from preprocessing.console.errors import InputError
from preprocessing.layouts.brats import CHANNELS, brats_images, has_case_folders, is_case_folder
from preprocessing.layouts.dataset import Source
from preprocessing.layouts.nnunet import channel_files, group_channels
from preprocessing.layouts.table import SUFFIXES as LISTS
from preprocessing.layouts.table import read_rows
from preprocessing.volumes.nifti import SUFFIXES, case_id_of


def find_cases(path: Path, channel_names: Sequence[str]) -> list[Source]:
    """List the cases at ``path``, unlabelled, with the files of each in the order of ``channel_names``.

    ``path`` is one file, a folder of files, a folder of nnU-Net's ``CASE_0000 CASE_0001 ...`` (numbers count in the
    order of ``channel_names``), of BraTS case folders or one such folder, or a CSV or JSON list (columns are taken by
    name). Raises ``InputError`` when there is none, or when a layout has other channels.
    """
    if path.suffix in LISTS and path.is_file():
        table = read_rows(path)
        names = channel_names if len(table.columns) == 1 else table.columns
        return _in_order(path, table.sources, names, channel_names)
    if path.is_dir() and _is_brats(path, channel_names):
        return _in_order(path, brats_images(path), list(CHANNELS), channel_names)
    found = find_images(path)
    channels = group_channels([image.name for image in found], _ending(found[0]))
    if len(channels) < len(found) and sum(map(len, channels.values())) == len(found):
        return [
            Source(
                case_id=name,
                images=channel_files(path / name, _ending(found[0]), len(channel_names), files),
                label=None,
            )
            for name, files in channels.items()
        ]
    if (
        len(channel_names) == 1
        and all(set(files) == {0} for files in channels.values())
        and len(channels) == len(found)
    ):
        return [Source(case_id=name, images=(image,), label=None) for name, image in zip(channels, found, strict=True)]
    return [Source(case_id=case_id_of(image), images=(image,), label=None) for image in found]


def find_images(path: Path) -> list[Path]:
    """List the NIfTI files of a folder in order, or the one file given; raises ``InputError`` when there is none."""
    if path.is_file():
        case_id_of(path)
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    found = sorted(p for p in path.iterdir() if p.name.lower().endswith(SUFFIXES) and not p.name.startswith("."))
    if not found:
        inner = [str(p) for p in sorted(path.iterdir(), reverse=True) if p.is_dir() and p.name.startswith("images")]
        hint = f"; did you mean {' or '.join(inner)}?" if inner else ""
        raise InputError(f"{path}: no .nii.gz or .nii file in it{hint}")
    twice = [a.name for a, b in pairwise(found) if case_id_of(a) == case_id_of(b)]
    if twice:
        raise InputError(f"{path}: {twice[0]} is there as .nii and as .nii.gz; both would be written to one file")
    return found


def _is_brats(path: Path, channel_names: Sequence[str]) -> bool:
    """Tell BraTS folders from a folder of images that happen to be called ``..._t1.nii.gz``."""
    if any(p.name.lower().endswith(SUFFIXES) for p in path.iterdir()):
        return len(channel_names) == len(CHANNELS) and is_case_folder(path)
    return has_case_folders(path)


def _ending(path: Path) -> str:
    return next(suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix))


def _in_order(path: Path, sources: list[Source], names: Sequence[str], wanted: Sequence[str]) -> list[Source]:
    """Put the files of each case, which lie in the order of ``names``, into the order of ``wanted``."""
    have, want = [_plain(name) for name in names], [_plain(name) for name in wanted]
    if sorted(have) != sorted(want):
        raise InputError(
            f"{path} has the channels {', '.join(names)}, the checkpoint was trained on {', '.join(wanted)}; "
            "give files of these channels"
        )
    order = [have.index(name) for name in want]
    made = []
    for source in sources:
        is_whole = not source.problem and len(source.images) == len(order)
        images = tuple(source.images[place] for place in order) if is_whole else source.images
        made.append(dataclasses.replace(source, images=images, label=None))
    return made


def _plain(name: str) -> str:
    """Call a channel by one name: BraTS', MSD's and nnU-Net's spellings of a modality are the same."""
    lower = name.lower()
    return next((main for main, kinds in CHANNELS.items() if lower in (main.lower(), *kinds)), lower)
