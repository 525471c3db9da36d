"""The bytes on disk: the one place that writes a shard store and opens it.

STORE/
  manifest.json              what the store holds, one line per shard; written last; checks itself
  shard-00000/
    index.json               one entry per case; its checksum is in the manifest
    BRATS_001.image.npy      [D,H,W,C]; its checksum is in the index
    BRATS_001.label.npy      [D,H,W,1] uint8
    BRATS_001.foreground.npy [n,3] uint16, sampled voxels grouped by label
  errors.json                refused cases and why (only when there are any); its checksum is in the manifest
  source.json                folder that the data set was read from; checks itself; apart, so that all else is the same
                             wherever that folder lay
"""

from __future__ import annotations

import dataclasses
import functools
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from preprocessing.case import DATA_OFFSET, Case
from preprocessing.entries import CaseEntry, FileRecord, Index, Manifest, ShardEntry, find_case
from preprocessing.errors import InputError
from preprocessing.location import absolute, answering, is_remote, location, read_file, replace_file, write_file

__all__ = ["Case", "CaseEntry", "FileRecord", "Manifest", "ShardEntry", "Store", "open_store"]
Array = npt.NDArray[Any]
FORMAT_VERSION = 3
NPY_MAGIC = b"\x93NUMPY\x01\x00"
MANIFEST, INDEX, ERRORS, SOURCE = "manifest.json", "index.json", "errors.json", "source.json"
NO_CHECKSUM = "0" * 16
ENTRIES_KEPT, TEXTS_KEPT = 4096, 8  # of cases, of indices: 40 MB and 2 MB at most where a shard has 64 cases


# Writing ---------------------------------------------------------------------------------------------------------


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Make a .npy 1.0 header of exactly 4096 bytes: magic, version, length, a dict literal, spaces, newline."""
    literal = repr({"descr": dtype.str, "fortran_order": False, "shape": shape}).encode("latin1")
    length = DATA_OFFSET - len(NPY_MAGIC) - 2
    return NPY_MAGIC + struct.pack("<H", length) + literal.ljust(length - 1) + b"\n"


def write_npy(path: Path, array: Array) -> FileRecord:
    """Write ``array`` (made C-contiguous and little-endian) with its data at byte 4096, fsynced; return its record."""
    array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    header = npy_header(array.shape, array.dtype)
    checksum = xxhash.xxh3_64(header)
    content = array.reshape(-1).view(np.uint8)
    checksum.update(content.data)
    write_file(path, [header, content.data])
    return FileRecord(name=path.name, size_bytes=DATA_OFFSET + array.nbytes, xxh3=checksum.hexdigest())


def write_json(path: Path, content: dict[str, Any]) -> FileRecord:
    """Write ``content`` as JSON, so that ``path`` is whole at every instant; return its record."""
    text = (json.dumps(content, indent=1) + "\n").encode()
    replace_file(path, text)
    return FileRecord(name=path.name, size_bytes=len(text), xxh3=xxhash.xxh3_64_hexdigest(text))


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write the manifest, which checks itself."""
    write_sealed(root / MANIFEST, dataclasses.asdict(manifest))


def write_source(root: Path, place: str | None) -> None:
    """Keep the folder that the data set was read from; nothing where it is not known."""
    if place is not None:
        write_sealed(root / SOURCE, {"root": place})


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with a checksum over its own bytes (taken with zeros in the checksum's place)."""
    unsealed = content | {"checksum": NO_CHECKSUM}
    text = json.dumps(unsealed, indent=1) + "\n"
    write_json(path, unsealed | {"checksum": xxhash.xxh3_64_hexdigest(text.encode())})


# Reading ---------------------------------------------------------------------------------------------------------


@dataclass
class Store:
    """An opened store: the manifest is in memory, a case's entry is read when it is asked for.

    ``xxh3`` is the manifest's own checksum. The manifest holds those of the indices and they those of the files, so
    stores of the same checksum hold the same, wherever they lie.
    """

    root: str
    manifest: Manifest
    xxh3: str
    _position: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for number, shard in enumerate(self.manifest.shards):
            self._position.update(dict.fromkeys(shard.case_ids, number))
        self._entry = functools.lru_cache(maxsize=ENTRIES_KEPT)(self._read_entry)
        self._text = functools.lru_cache(maxsize=TEXTS_KEPT)(self._read_text)

    @property
    def case_ids(self) -> list[str]:
        """Every case, in store order."""
        return list(self._position)

    @property
    def labelled_ids(self) -> list[str]:
        """The cases that can be trained on, in store order."""
        unlabelled = {case_id for shard in self.manifest.shards for case_id in shard.unlabelled}
        return [case_id for case_id in self._position if case_id not in unlabelled]

    @functools.cached_property
    def source_root(self) -> str | None:
        """Folder, or URL, that the sources in the indices are relative to; ``None`` where it is not said."""
        path = location(self.root) / SOURCE
        with answering(path):
            return read_sealed(path)["root"] if path.is_file() else None

    @property
    def is_local(self) -> bool:
        """Whether volumes can be memory-mapped; a remote store has to be copied first."""
        return not is_remote(location(self.root))

    def case(self, case_id: str) -> Case:
        """Return a case by id; raises ``InputError`` naming the store when it has none of that name."""
        if case_id not in self._position:
            raise InputError(f"{self.root}: no case {case_id!r} among its {len(self._position)} cases")
        shard = self.manifest.shards[self._position[case_id]]
        return Case(folder=f"{self.root}/{shard.name}", entry=self._entry(shard.name, case_id))

    def entries(self) -> Iterator[tuple[str, CaseEntry]]:
        """Yield (shard name, entry) for every case, shard by shard."""
        for shard in self.manifest.shards:
            for entry in read_index(location(self.root) / shard.name).cases:
                yield shard.name, entry

    def _read_entry(self, shard: str, case_id: str) -> CaseEntry:
        text, path = self._text(shard), location(self.root) / shard / INDEX
        with _undamaged(path):
            found = find_case(text, case_id)
            if found is not None:
                return CaseEntry.from_json(found)
        entries = {entry.case_id: entry for entry in parse_index(path, text.encode()).cases}
        if case_id not in entries:
            raise InputError(f"{path}: has no case {case_id}, which the manifest lists; run preprocessing.check")
        return entries[case_id]

    def _read_text(self, shard: str) -> str:
        path = location(self.root) / shard / INDEX
        with _undamaged(path):
            return _read(path).decode()


def open_store(path: str | Path) -> Store:
    """Open the store at ``path`` (local, or any URL that fsspec speaks).

    Raises ``InputError`` when there is no manifest, it fails its own checksum, or is of another format.
    """
    root = location(path)
    manifest_path = root / MANIFEST
    with answering(root):
        if not manifest_path.exists():
            raise InputError(f"{path}: no {MANIFEST} there; make a store with python -m preprocessing.to_shards")
    content = read_sealed(manifest_path)
    if content["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{manifest_path}: store format {content['format_version']}, this version reads {FORMAT_VERSION}; "
            "use the voxelfeed that wrote it, or give its to_shards command again, without --partition: shards are kept"
        )
    with _undamaged(manifest_path):
        manifest = Manifest.from_json(content)
    return Store(root=str(absolute(root)), manifest=manifest, xxh3=content["checksum"])


def read_index(folder: Path) -> Index:
    """Read the index of a shard; raises ``InputError`` naming it where it cannot be one."""
    return parse_index(folder / INDEX, _read(folder / INDEX))


def parse_index(path: Path, raw: bytes) -> Index:
    """Parse the content of an index; raises ``InputError`` naming it where it cannot be one."""
    content = parse_json(str(path), raw)
    with _undamaged(path):
        return Index.from_json(content, xxhash.xxh3_64_hexdigest(raw))


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error!r}); run preprocessing.check, then convert again") from error


def read_sealed(path: Path) -> dict[str, Any]:
    """Read the manifest or source.json; raises ``InputError`` naming the file where it fails its own checksum."""
    raw = _read(path)
    content = parse_json(str(path), raw)
    claimed = str(content.get("checksum", ""))
    zeroed = raw.replace(f'"checksum": "{claimed}"'.encode(), f'"checksum": "{NO_CHECKSUM}"'.encode())
    if xxhash.xxh3_64_hexdigest(zeroed) != claimed:
        raise InputError(f"{path}: checksum does not match its content; restore it or convert again")
    return content


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def parse_json(path: str, raw: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises ``InputError`` naming the file when it is not one."""
    try:
        content = json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: damaged JSON ({error}); run preprocessing.check, then convert again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
