"""What a data set is in whatever layout it lies on disk: its cases, channels, labels and regions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocessing.console.errors import InputError
from preprocessing.console.places import is_file_name, is_remote
from preprocessing.layouts.regions import Regions


@dataclass(frozen=True, kw_only=True)
class Source:
    """One case as it lies on disk.

    ``images`` is one 4D (or one-channel 3D) file, or one 3D file per channel in channel order; ``label`` is ``None``
    for an unlabelled case. ``problem`` says why the layout already knows that the case cannot be used.
    """

    case_id: str
    images: tuple[Path, ...]
    label: Path | None
    problem: str = ""

    @property
    def files(self) -> list[Path]:
        """Every file of the case, images first."""
        return [*self.images, *([] if self.label is None else [self.label])]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a data set says of itself, with its cases sorted by id.

    ``modality`` is ``"ct"`` (calibrated intensities, normalised by the data set's statistics) or ``"mr"`` (each case by
    its own); arrays that are normalised already are ``"prepared"``. ``label_remap`` gives the stored id of each id in
    the files, empty where they are stored as they are; ``label_names`` names stored ids. ``regions`` are those that the
    data set itself declares. ``ignore_label`` is the id, not among the names, of voxels that nobody annotated.
    ``without_label`` says what to do in this layout with a case that has no label.
    """

    name: str
    root: Path
    channel_names: list[str]
    label_names: dict[int, str]
    modality: str
    sources: list[Source]
    label_remap: dict[int, int] = field(default_factory=dict)
    regions: Regions | None = None
    ignore_label: int | None = None
    without_label: str = "leave its image out"


def modality_of(channel_names: list[str]) -> str:
    """Return ``"ct"`` where every channel is called CT-something, else ``"mr"``."""
    return "ct" if channel_names and all(name.upper().startswith("CT") for name in channel_names) else "mr"


def sorted_sources(sources: Iterable[Source], described_in: Path, remedy: str) -> list[Source]:
    """Sort cases by id; raises ``InputError`` naming ``described_in`` for none at all or two of one name."""
    made = list(sources)
    if not made:
        raise InputError(f"{described_in}: lists no case; {remedy}")
    repeated = [name for name, count in Counter(source.case_id for source in made).items() if count > 1]
    if repeated:
        raise InputError(f"{described_in}: case {repeated[0]} is listed twice; case names must be unique")
    unfit = [source.case_id for source in made if not is_file_name(source.case_id)]
    if unfit:
        raise InputError(f"{described_in}: case name {unfit[0]!r} cannot name a file; give it another")
    return sorted(made, key=lambda source: source.case_id)


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ``InputError`` naming it when that fails."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; this layout needs it") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not readable JSON ({error})") from error


def read_description(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ``InputError`` naming the file when it is none."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def numbered_names(numbered: dict[str, Any]) -> list[str]:
    """Read ``{"0": "FLAIR", "1": "T1w"}`` as a list in the order of the numbers."""
    return [str(name) for _, name in sorted(numbered.items(), key=lambda item: int(item[0]))]


def path_inside(root: Path, relative: str, described_in: Path) -> Path:
    """Join a path that a description names; raises ``InputError`` where it leaves ``root``."""
    path = root / relative
    if is_remote(path):
        path = path.resolve()  # keys are text: ./imagesTr is not imagesTr
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{described_in}: {relative!r} leads out of the data set's folder")
    return path
