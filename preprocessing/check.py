"""Verify a shard store down to every byte: ``python -m preprocessing.check --shards STORE``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from preprocessing.cli import Flag, main
from preprocessing.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError
from preprocessing.shards import ERRORS, INDEX, MANIFEST, CaseEntry, FileRecord, Store, npy_header, open_store

log = logging.getLogger(__name__)
CHUNK_BYTES = 2**22


@dataclass(frozen=True, kw_only=True)
class Options:
    """Verify a shard store; exit code 0 when it is whole, 1 when it is not, naming each case and file at fault."""

    shards: Path = Path("data/shards")
    """Store folder."""
    fast: Flag = False
    """Compare sizes only, do not read the volumes."""


def check(options: Options) -> int:
    """Run the command; returns the exit code."""
    try:
        store = open_store(options.shards)
    except InputError as error:
        if not options.shards.is_dir():
            raise
        log.error("%s", error)
        return EXIT_UNEXPECTED
    problems = list(find_problems(store, fast=options.fast))
    for problem in problems:
        log.error("%s", problem)
    log.info(
        "%s: %d cases in %d shards: %s",
        options.shards,
        len(store.case_ids),
        len(store.manifest.shards),
        f"{len(problems)} problems" if problems else "sizes match" if options.fast else "every checksum matches",
    )
    return EXIT_UNEXPECTED if problems else EXIT_DONE


def find_problems(store: Store, *, fast: bool) -> Iterator[str]:
    """Yield one line for everything in a local ``store`` that differs from what its manifest and indices say."""
    root = Path(store.root)
    if store.manifest.errors is not None:
        yield from _check_file(root, store.manifest.errors, "the list of refused cases", fast=fast)
    for shard in store.manifest.shards:
        folder = root / shard.name
        names = ", ".join(shard.case_ids[:3]) + (", ..." if len(shard.case_ids) > 3 else "")
        index = folder / INDEX
        if not index.is_file():
            yield f"{index}: missing (index of cases {names})"
            continue
        if xxhash.xxh3_64_hexdigest(index.read_bytes()) != shard.index_xxh3:
            yield f"{index}: checksum does not match the manifest (index of cases {names})"
            continue
        entries = [store.case(case_id).entry for case_id in shard.case_ids]
        for entry in entries:
            yield from _check_case(folder, entry, fast=fast)
        expected = {INDEX} | {record.name for entry in entries for record in entry.files}
        yield from _find_strangers(folder, expected)
    shards = {shard.name for shard in store.manifest.shards}
    yield from _find_strangers(root, shards | {MANIFEST} | ({ERRORS} if store.manifest.errors else set()))


def _find_strangers(folder: Path, expected: set[str]) -> Iterator[str]:
    return (f"{path}: not part of the store" for path in sorted(folder.iterdir()) if path.name not in expected)


def _check_case(folder: Path, entry: CaseEntry, *, fast: bool) -> Iterator[str]:
    for record in entry.files:
        yield from _check_file(folder, record, f"case {entry.case_id}", fast=fast)
    expected = npy_header((*entry.shape_dhw, len(entry.channels)), np.dtype(entry.image_dtype).newbyteorder("<"))
    image = folder / entry.image.name
    if not fast and image.is_file():
        with image.open("rb") as file:
            if file.read(len(expected)) != expected:
                wanted = f"{entry.image_dtype} {entry.shape_dhw}"
                yield f"case {entry.case_id}: {image}: header is not {wanted} as the index says"


def _check_file(folder: Path, record: FileRecord, owner: str, *, fast: bool) -> Iterator[str]:
    path = folder / record.name
    if not path.is_file():
        yield f"{owner}: {path}: missing"
    elif path.stat().st_size != record.size_bytes:
        yield f"{owner}: {path}: {path.stat().st_size} bytes, the index says {record.size_bytes}"
    elif not fast and (found := _checksum(path)) != record.xxh3:
        yield f"{owner}: {path}: checksum {found}, the index says {record.xxh3}"


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    main(check, Options)
