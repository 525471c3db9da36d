"""What a data set is, whatever its layout on disk: its cases, channels, labels and regions."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from preprocessing.console.errors import InputError
from preprocessing.console.places import is_file_name, is_path, named_in
from preprocessing.layouts.regions import Regions
from preprocessing.volumes.nifti import case_id_of
from preprocessing.volumes.statistics import CT, NONZERO, PREPARED

log = logging.getLogger(__name__)
NNUNET_SCHEMES = {"zscore": "zscore", "nonorm": "none", "rescale_to_0_1": "rescale-0-1", "rgb_to_0_1": "rescale-0-1"}
LONGEST_NAME = 255 - len(".foreground.npy")  # of a file, in bytes, on every common file system


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

    ``modality`` is ``"ct"`` where every channel is one, else ``"mr"``; arrays that are normalised already are
    ``"prepared"``. ``label_remap`` gives the stored id of each id in the files, empty where they stay as they are;
    ``label_names`` names stored ids. ``regions`` are those that the data set itself declares, ``region_ids`` the label
    to write for each where it says so. ``ignore_label`` is the id, not among the names, of voxels that nobody
    annotated. ``without_label`` says what to do in this layout with a case that has no label. ``split`` lists the cases
    of each part that the data set itself names, such as ``"validation"``.
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
    split: dict[str, list[str]] = field(default_factory=dict)
    region_ids: dict[str, int] = field(default_factory=dict)

    @property
    def schemes(self) -> list[str]:
        """How each channel is normalised, one of ``SCHEMES``."""
        fixed = self.modality in (CT, PREPARED)
        return [self.modality if fixed else scheme_of(name) for name in self.channel_names]

    @property
    def own_schemes(self) -> list[str]:
        """Those, or nothing where ``modality`` says as much."""
        return [] if self.modality in (CT, PREPARED) or {*self.schemes} == {NONZERO} else self.schemes


def modality_of(channel_names: list[str]) -> str:
    """Return ``"ct"`` where every channel is called CT-something, else ``"mr"``."""
    return CT if channel_names and all(scheme_of(name) == CT for name in channel_names) else "mr"


def scheme_of(channel_name: str) -> str:
    """Tell by its name how a channel is normalised: CT-something, nnU-Net's words for its schemes, else as MR is."""
    name = channel_name.strip().lower()
    return CT if name.startswith("ct") else NNUNET_SCHEMES.get(name, NONZERO)


def sorted_sources(sources: Iterable[Source], described_in: Path, remedy: str) -> list[Source]:
    """Sort cases by id; raises ``InputError`` naming ``described_in`` for none at all or two of one name."""
    made = list(sources)
    if not made:
        raise InputError(f"{described_in}: lists no case; {remedy}")
    repeated = [name for name, count in Counter(source.case_id for source in made).items() if count > 1]
    if repeated:
        raise InputError(f"{described_in}: case {repeated[0]} is listed twice; case names must be unique")
    return sorted(map(_named, made), key=lambda source: source.case_id)


def _named(source: Source) -> Source:
    """Refuse the one case whose name cannot name the files of a store, or which no file can have."""
    name = source.case_id
    shown = name.encode("utf-8", "backslashreplace").decode()
    if not all(map(is_path, source.files)):
        problem = "the path of one of its files cannot be one; correct it"
        return dataclasses.replace(source, case_id=shown, images=(), label=None, problem=problem)
    if shown != name:
        problem = "its name is not UTF-8; rename its files"
    elif not is_file_name(name):
        problem = f"{name!r} cannot name a file; give it another name"
    elif len(name.encode()) > LONGEST_NAME:
        problem = f"its name has {len(name.encode())} bytes, {LONGEST_NAME} at most can name its files; shorten it"
    else:
        return source
    return dataclasses.replace(source, case_id=shown, problem=problem)


def named_after(image: Path) -> dict[str, str]:
    """Return the id of a case whose image is this file; what is no NIfTI file is the problem of this case alone."""
    try:
        return {"case_id": case_id_of(image)}
    except InputError as error:
        return {"case_id": image.name, "problem": str(error)}


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ``InputError`` naming it when that fails, or a key stands twice in an object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        check_once(path, [key for key, _ in pairs], "key")
        return dict(pairs)

    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; this layout needs it") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not readable JSON ({error})") from error


def check_once(path: Path, names: Iterable[str], what: str) -> None:
    """Raise ``InputError`` for a name that stands twice in ``path``: only one of the two would count."""
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{path}: {what} {name!r} stands {count} times; give each a name of its own")


def read_description(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ``InputError`` naming the file when it is none."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


@contextmanager
def understood(path: Path, what: str, needs: str) -> Iterator[None]:
    """Turn what goes wrong while a description is read into an ``InputError`` that says what it needs."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not {what} ({error!s} is missing or of the wrong kind); it needs {needs}") from error


def mention(paths: Sequence[object], what: str) -> None:
    """Warn of things that are left out: how many, what, and the first."""
    if paths:
        log.warning("%d %s, the first: %s", len(paths), what, paths[0])


def compare_count(described_in: Path, described: dict[str, Any], found: int) -> None:
    """Warn where a description promises another number of training cases than are there."""
    promised = described.get("numTraining", found)
    if promised != found:
        log.warning("%s: numTraining is %s, the training cases are %d", described_in, promised, found)


def numbered_names(numbered: Any) -> list[str]:
    """Read ``{"0": "FLAIR", "1": "T1w"}``, the other way round, a list or one text as names in their order.

    Raises ``TypeError`` or ``ValueError`` for anything else.
    """
    if isinstance(numbered, str | list):
        names = [numbered] if isinstance(numbered, str) else numbered
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"{names} instead of names")
        return names
    pairs = numbered.items() if all(map(_is_number, numbered)) else ((n, name) for name, n in numbered.items())
    return [str(name) for _, name in sorted(pairs, key=lambda item: int(item[0]))]


def label_ids(path: Path, labels: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Read ``{"0": "background"}`` or ``{"background": 0, "whole": [1, 2]}`` as ids by name.

    Raises ``InputError`` for two ids of one name or two names of one id; ``TypeError`` or ``ValueError`` for others.
    """
    pairs = list(labels.items())
    if all(_is_number(key) and isinstance(name, str) for key, name in pairs):
        pairs = [(name, number) for number, name in pairs]
    check_once(path, [name for name, _ in pairs], "label name")
    made = {name: tuple(map(int, ids if isinstance(ids, list) else [ids])) for name, ids in pairs}
    check_once(path, [str(made[name][0]) for name, ids in pairs if not isinstance(ids, list)], "label id")
    return made


def named_labels(path: Path, labels: dict[str, Any]) -> dict[int, str]:
    """Read labels as ``label_ids`` does, as names by id."""
    return {number: name for name, (number,) in label_ids(path, labels).items()}


def _is_number(text: object) -> bool:
    return isinstance(text, int) or (isinstance(text, str) and text.strip().lstrip("-").isdecimal())


def path_inside(root: Path, relative: str, described_in: Path) -> Path:
    """Join a path that a description names; raises ``InputError`` where its text leaves ``root``: links may."""
    written = PureWindowsPath(relative)  # which knows C: and both kinds of slashes
    if written.anchor or ".." in written.parts or "://" in relative:
        remedy = "name files in it, without .. (links may lead out of it)"
        raise InputError(f"{described_in}: {relative!r} leads out of the data set's folder; {remedy}")
    return named_in(root, relative)
