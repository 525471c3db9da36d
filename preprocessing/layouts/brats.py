"""BraTS as it is downloaded, 2018 to 2024: one folder per case, one file per modality, ids that differ by challenge."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from preprocessing.console.errors import InputError
from preprocessing.layouts.dataset import Dataset, Source, sorted_sources
from preprocessing.layouts.regions import Regions

# Channels and ids as in MSD's Task01_BrainTumour, which was made from BraTS: stores of both can be compared.
CHANNELS = {"FLAIR": ("flair", "t2f"), "T1w": ("t1", "t1n"), "t1gd": ("t1ce", "t1c", "t1gd"), "T2w": ("t2", "t2w")}
FILE_NAME = re.compile(r"(.+)[_-](flair|t1ce|t1gd|t1|t2|t1n|t1c|t2w|t2f|seg)\.nii(\.gz)?", re.IGNORECASE)
NEW_NAMES = {"t1n", "t1c", "t2w", "t2f"}


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What the ids in a challenge's label files mean: ``remap`` gives the stored id of each, ``names`` name those."""

    names: dict[int, str]
    remap: dict[int, int]
    regions: Regions | None = None


NESTED: Regions = {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}
GLIOMA_NAMES = {0: "background", 1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"}
FLAIR_NAMES = GLIOMA_NAMES | {1: "surrounding FLAIR hyperintensity"}
REMAP_2023 = {0: 0, 1: 2, 2: 1, 3: 3}
GLIOMA_2018 = Meaning(names=GLIOMA_NAMES, remap={0: 0, 1: 2, 2: 1, 4: 3})
GLIOMA_2023 = Meaning(names=GLIOMA_NAMES, remap=REMAP_2023)
AROUND_TUMOUR = Meaning(names=FLAIR_NAMES, remap=REMAP_2023, regions=NESTED)
AFTER_SURGERY = Meaning(
    names=FLAIR_NAMES | {4: "resection cavity"}, remap=REMAP_2023 | {4: 4}, regions=NESTED | {"RC": (4,)}
)
CHILDREN_2023 = Meaning(names=GLIOMA_NAMES | {2: "non-enhancing tumor or cyst"}, remap=REMAP_2023)
CHILDREN_2024 = Meaning(
    names={0: "background", 1: "enhancing tumour", 2: "non-enhancing tumor", 3: "cystic component", 4: "edema"},
    remap={number: number for number in range(5)},
    regions={"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,), "NET": (2,), "CC": (3,)},
)
CHALLENGES = {"GLI 2023": GLIOMA_2023, "GLI 2024": AFTER_SURGERY, "PED 2023": CHILDREN_2023, "PED 2024": CHILDREN_2024}
CHALLENGES |= dict.fromkeys(("GOAT", "SSA"), GLIOMA_2023) | dict.fromkeys(("MEN", "MET"), AROUND_TUMOUR)
"""Challenges of 2023 and later, by the middle of ``BraTS-SSA-00000-000``, and the year where the ids have changed."""
CASE_NAME = re.compile(r"BraTS-([A-Za-z]+)-\d.*?(?:-(\d+))?", re.IGNORECASE)
FIRST_AFTER_SURGERY = 100  # GLI 2024 counts its points in time from here on: BraTS-GLI-00005-100
YEAR = re.compile(r"(?<!\d)20(?:23|24)(?!\d)")


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """One case's folder: its files by what they hold (``flair`` ... ``seg``)."""

    path: Path
    files: dict[str, Path]
    twice: str


def read_brats(root: Path) -> Dataset:
    """Read case folders under ``root``, directly or one folder deeper (``HGG``, ``LGG``); ``root`` may be one itself.

    ``CASE_flair t1 t1ce t2 seg`` (2018 to 2021) or ``CASE-t2f t1n t1c t2w seg`` (2023 on). A case without ``seg`` is
    unlabelled where none of its neighbours has one, and refused where they do. Raises ``InputError`` where there is no
    such folder, or where labels cannot be told: both namings, several challenges, or one that is not known.
    """
    folders = _folders(root)
    labelled = [folder for folder in folders if "seg" in folder.files]
    meaning = _meaning(root, labelled) if labelled else GLIOMA_2023
    return Dataset(
        name=root.name,
        root=root,
        channel_names=list(CHANNELS),
        label_names=meaning.names,
        modality="mr",
        sources=_sources(root, folders),
        label_remap=meaning.remap,
        regions=meaning.regions,
    )


def brats_images(root: Path) -> list[Source]:
    """List the cases under ``root`` for their images' sake: nothing has to be known of their labels."""
    return _sources(root, _folders(root))


def _folders(root: Path) -> list[_Folder]:
    folders = list(_case_folders(root))
    if not folders:
        raise InputError(f"{root}: no case folder in it with files such as CASE_flair.nii.gz or CASE-t2f.nii.gz")
    return folders


def _meaning(root: Path, folders: list[_Folder]) -> Meaning:
    """Tell what the ids in the cases' labels mean: by what the cases are called, and the year in the folder's name."""
    new = {folder.path for folder in folders if NEW_NAMES & set(folder.files)}
    if 0 < len(new) < len(folders):
        raise InputError(
            f"{root}: {len(new)} cases are named as BraTS 2023 and {len(folders) - len(new)} as BraTS 2018 to 2021; "
            "their label ids differ: convert them separately"
        )
    if not new:
        return GLIOMA_2018
    kinds = {_challenge(folder.path): folder.path.name for folder in folders}
    if len(kinds) > 1:
        listed = ", ".join(f"{case} ({kind or 'not known'})" for kind, case in kinds.items())
        raise InputError(f"{root}: several challenges, whose label ids differ: {listed}; convert them separately")
    ((kind, case),) = kinds.items()
    if kind not in CHALLENGES:
        own = "list the cases in a table (--layout list) beside a dataset.json that names the labels"
        known = ", ".join(sorted({f"BraTS-{name.split()[0]}" for name in CHALLENGES}))
        remedy = f"known are {known}, and CASE_flair.nii.gz as of 2018 to 2021"
        if kind == "PED":
            both = {year: CHALLENGES[f"PED {year}"] for year in (2023, 2024)}
            tables = (
                f"{year}: " + ", ".join(f"{n} {m.names[to]}" for n, to in m.remap.items() if n)
                for year, m in both.items()
            )
            remedy = f"they changed from year to year ({'; '.join(tables)}): write the year into the name of its folder"
        raise InputError(f"{root / case}: it cannot be told what its label ids mean; {remedy}, or {own}")
    return CHALLENGES[kind]


def _challenge(path: Path) -> str:
    """Name the challenge of a case's folder as ``CHALLENGES`` does; one that is not there is not known."""
    match = CASE_NAME.fullmatch(path.resolve().name)
    if match is None:
        return ""
    name = match[1].upper()
    if name == "GLI":
        return f"GLI {2024 if int(match[2] or 0) >= FIRST_AFTER_SURGERY else 2023}"
    years = YEAR.findall("/".join(path.absolute().parts[-3:-1])) if name == "PED" else []
    return " ".join([name, *years[-1:]])


def _sources(root: Path, folders: list[_Folder]) -> list[Source]:
    labelled = {folder.path.parent for folder in folders if "seg" in folder.files}
    sources = [_source(folder, has_label=folder.path.parent in labelled) for folder in folders]
    return sorted_sources(sources, root, "give the folder that holds the case folders")


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
