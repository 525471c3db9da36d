"""Find the cases of a data set on disk: one function per folder layout, listed in ``LAYOUTS``."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.errors import InputError
from preprocessing.nifti import case_id_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One case as it lies on disk; ``label`` is ``None`` for an unlabelled case."""

    case_id: str
    image: Path
    label: Path | None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a data set says of itself, with its cases sorted by id.

    ``modality`` is ``"ct"`` (calibrated intensities, normalised by the data set's statistics) or ``"mr"`` (each case by
    its own).
    """

    name: str
    root: Path
    channel_names: list[str]
    label_names: dict[int, str]
    modality: str
    sources: list[Source]


def read_msd(root: Path) -> Dataset:
    """Read the Medical Segmentation Decathlon layout: ``dataset.json`` beside ``imagesTr labelsTr imagesTs``.

    Raises ``InputError`` for a missing or malformed ``dataset.json``, a path that leaves ``root``, or two cases of one
    name. Whether the listed files exist is found out case by case, so that one missing file does not stop the rest.
    """
    path = root / "dataset.json"
    described = _read_json(path)
    try:
        sources = [
            Source(
                case_id=case_id_of(_inside(root, entry["image"])),
                image=_inside(root, entry["image"]),
                label=_inside(root, entry["label"]),
            )
            for entry in described["training"]
        ]
        for entry in described.get("test", []):
            image = _inside(root, entry["image"] if isinstance(entry, dict) else entry)
            sources.append(Source(case_id=case_id_of(image), image=image, label=None))
        label_names = {int(number): str(name) for number, name in described["labels"].items()}
        channels = sorted(described["modality"].items(), key=lambda item: int(item[0]))
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: not an MSD dataset.json ({error!s} is missing or of the wrong kind); "
            'it needs "modality", "labels" and "training" with "image" and "label" in each entry'
        ) from error
    channel_names = [str(name) for _, name in channels]
    if not sources:
        raise InputError(f'{path}: lists no case; add entries under "training" or "test"')
    repeated = [name for name, count in Counter(source.case_id for source in sources).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: case {repeated[0]} is listed twice; case names must be unique")
    _mention_unlisted(root, sources)
    return Dataset(
        name=str(described.get("name", root.name)),
        root=root,
        channel_names=channel_names,
        label_names=label_names,
        modality="ct" if all(name.upper().startswith("CT") for name in channel_names) else "mr",
        sources=sorted(sources, key=lambda source: source.case_id),
    )


LAYOUTS: dict[str, Callable[[Path], Dataset]] = {"msd": read_msd}


def read_dataset(root: Path, layout: str = "auto") -> Dataset:
    """Read the data set under ``root`` in ``layout`` (a key of ``LAYOUTS``, or ``auto``).

    Raises ``InputError`` when the folder is missing, the layout unknown, or none fits.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the data set's folder with --input")
    if layout == "auto":
        if not (root / "dataset.json").is_file():
            raise InputError(f"{root}: no dataset.json in it; known layouts: {', '.join(LAYOUTS)}")
        layout = "msd"
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}; known: auto, {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](root)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; the msd layout needs it") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _inside(root: Path, relative: str) -> Path:
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{root / 'dataset.json'}: {relative!r} leads out of the data set's folder")
    return path


def _mention_unlisted(root: Path, sources: list[Source]) -> None:
    listed = {source.image.resolve() for source in sources}
    found = [path for folder in ("imagesTr", "imagesTs") for path in sorted((root / folder).glob("*.nii*"))]
    unlisted = [path for path in found if path.resolve() not in listed and not path.name.startswith(".")]
    if unlisted:
        log.warning(
            "%d images are not listed in dataset.json and are left out, the first: %s",
            len(unlisted),
            unlisted[0],
        )
