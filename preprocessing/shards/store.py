"""Open a shard store: the manifest at once, a case's entry when it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from preprocessing.console.errors import InputError
from preprocessing.console.places import absolute, is_remote, location, remote_errors
from preprocessing.shards.case import Case
from preprocessing.shards.entries import CaseEntry, Index, Manifest, find_case
from preprocessing.shards.files import (
    FORMAT_VERSION,
    INDEX,
    MANIFEST,
    SOURCE,
    parse_json,
    read_or_refuse,
    read_sealed,
)

ENTRIES_KEPT, TEXTS_KEPT = 4096, 8  # of cases, of indices: 40 MB and 2 MB at most where a shard has 64 cases


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
        with remote_errors(path):
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
            return read_or_refuse(path).decode()


def open_store(path: str | Path) -> Store:
    """Open the store at ``path`` (local, or any URL that fsspec speaks).

    Raises ``InputError`` when there is no manifest, it fails its own checksum, or is of another format.
    """
    root = location(path)
    manifest_path = root / MANIFEST
    with remote_errors(root):
        if not manifest_path.exists():
            raise InputError(f"{path}: no {MANIFEST} there; make a store with python -m preprocessing.to_shards")
    content = read_sealed(manifest_path)
    if content["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{manifest_path}: store format {content['format_version']}, this version reads {FORMAT_VERSION}; "
            "use the voxelfeed that wrote it, or run its to_shards command again, without --partition: shards are kept"
        )
    with _undamaged(manifest_path):
        manifest = Manifest.from_json(content)
    return Store(root=str(absolute(root)), manifest=manifest, xxh3=content["checksum"])


def read_index(folder: Path) -> Index:
    """Read the index of a shard; raises ``InputError`` naming it where it cannot be one."""
    return parse_index(folder / INDEX, read_or_refuse(folder / INDEX))


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
