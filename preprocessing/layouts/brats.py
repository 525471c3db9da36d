"""BraTS as it is handed out, 2018 to 2023: one folder per case, one file per modality, label ids 1, 2, 4 or 1, 2, 3."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from preprocessing.console.errors import InputError
from preprocessing.layouts.dataset import Dataset, Source, sorted_sources

# Channels and ids as in MSD's Task01_BrainTumour, which was made from BraTS: stores of both can be compared.
CHANNELS = {"FLAIR": ("flair", "t2f"), "T1w": ("t1", "t1n"), "t1gd": ("t1ce", "t1c", "t1gd"), "T2w": ("t2", "t2w")}
LABEL_NAMES = {0: "background", 1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"}
REMAP_2018 = {0: 0, 1: 2, 2: 1, 4: 3}
REMAP_2023 = {0: 0, 1: 2, 2: 1, 3: 3}
FILE_NAME = re.compile(r"(.+)[_-](flair|t1ce|t1gd|t1|t2|t1n|t1c|t2w|t2f|seg)\.nii(\.gz)?", re.IGNORECASE)
NEW_NAMES = {"t1n", "t1c", "t2w", "t2f"}


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """One case's folder: its files by what they hold (``flair`` ... ``seg``)."""

    path: Path
    files: dict[str, Path]
    twice: str


def read_brats(root: Path) -> Dataset:
    """Read case folders under ``root``, directly or one folder deeper (``HGG``, ``LGG``); ``root`` may be one itself.

    ``CASE_flair t1 t1ce t2 seg`` (2018 to 2021) or ``CASE-t2f t1n t1c t2w seg`` (2023). A case without ``seg`` is
    unlabelled where none of its neighbours has one, and refused where they do. Raises ``InputError`` where there is no
    such folder, or where both namings occur: their label ids differ.
    """
    folders = list(_case_folders(root))
    if not folders:
        raise InputError(f"{root}: no case folder in it with files such as CASE_flair.nii.gz or CASE-t2f.nii.gz")
    new = {folder.path for folder in folders if NEW_NAMES & set(folder.files)}
    if 0 < len(new) < len(folders):
        raise InputError(
            f"{root}: {len(new)} cases are named as BraTS 2023 and {len(folders) - len(new)} as BraTS 2018 to 2021; "
            "their label ids differ: convert them separately"
        )
    labelled = {folder.path.parent for folder in folders if "seg" in folder.files}
    sources = [_source(folder, has_label=folder.path.parent in labelled) for folder in folders]
    return Dataset(
        name=root.name,
        root=root,
        channel_names=list(CHANNELS),
        label_names=LABEL_NAMES,
        modality="mr",
        sources=sorted_sources(sources, root, "give the folder that holds the case folders"),
        label_remap=REMAP_2023 if new else REMAP_2018,
    )


def has_case_folders(root: Path) -> bool:
    """Tell whether ``root`` holds, or is, at least one case folder."""
    return any(True for _ in _case_folders(root))


def is_case_folder(path: Path) -> bool:
    """Tell whether ``path`` itself holds every modality of one case."""
    folder = _read_folder(path)
    return folder is not None and all(set(kinds) & set(folder.files) for kinds in CHANNELS.values())


def _case_folders(root: Path) -> Iterator[_Folder]:
    if made := _read_folder(root):
        yield made
        return
    for path in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if made := _read_folder(path):
            yield made
        else:
            yield from filter(None, map(_read_folder, sorted(p for p in path.iterdir() if p.is_dir())))


def _read_folder(path: Path) -> _Folder | None:
    files: dict[str, Path] = {}
    twice = ""
    for file in sorted(path.iterdir()):
        match = FILE_NAME.fullmatch(file.name)
        if match and not file.name.startswith("."):
            kind = match[2].lower()
            twice = twice or (f"{files[kind]} and {file} are both its {kind}; remove one" if kind in files else "")
            files.setdefault(kind, file)
    return _Folder(path=path, files=files, twice=twice) if set(files) - {"seg"} else None


def _source(folder: _Folder, *, has_label: bool) -> Source:
    images = []
    problem = folder.twice
    for channel, kinds in CHANNELS.items():
        found = [folder.files[kind] for kind in kinds if kind in folder.files]
        images += found[:1]
        if not found:
            problem = problem or f"{folder.path} has no {channel} file ({' or '.join(kinds)}); add it"
    label = folder.files.get("seg")
    if has_label and label is None:
        problem = problem or (
            f"{folder.path} has no seg file and its neighbours have; add it, or move the case to a folder of its own"
        )
    return Source(case_id=folder.path.resolve().name, images=tuple(images), label=label, problem=problem)
