"""Verify a shard store down to every byte: ``python -m preprocessing.check --shards STORE``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError
from preprocessing.console.flags import DEFAULT_SHARDS, Flag, Place, main
from preprocessing.console.places import is_remote, location, read_chunks, read_file, sizes_in
from preprocessing.shards.commit import has_shard
from preprocessing.shards.entries import CaseEntry, FileRecord, ShardEntry
from preprocessing.shards.files import ERRORS, INDEX, MANIFEST, SOURCE, npy_header, read_sealed
from preprocessing.shards.store import Store, open_store, parse_index

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Verify a shard store; exit code 0 when it is whole, 1 when it is not, naming each case and file at fault."""

    shards: Place = DEFAULT_SHARDS
    """Store folder; s3://BUCKET/FOLDER works too."""
    fast: Flag = False
    """Compare sizes only, do not read the volumes."""


def check(options: Options) -> int:
    """Run the command; returns the exit code."""
    try:
        store = open_store(options.shards)
    except InputError as error:
        if is_remote(options.shards) or not options.shards.is_dir():
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
    if problems:
        log.info("to repair it, delete the shard folders named here and give the same to_shards command again")
    return EXIT_UNEXPECTED if problems else EXIT_DONE


def find_problems(store: Store, *, fast: bool) -> Iterator[str]:
    """Yield one line for everything in ``store`` that differs from what its manifest and indices say."""
    root = location(store.root)
    sizes = sizes_in(root)
    if store.manifest.errors is not None:
        size = sizes.get(store.manifest.errors.name)
        yield from _check_file(root, store.manifest.errors, size, "the list of refused cases", fast=fast)
    if SOURCE in sizes:
        yield from _check_source(root / SOURCE)
    for shard in store.manifest.shards:
        yield from check_shard(root / shard.name, shard, fast=fast)
    shards = {shard.name for shard in store.manifest.shards}
    expected = shards | {MANIFEST, SOURCE} | ({ERRORS} if store.manifest.errors else set())
    yield from (f"{root / name}: not part of the store" for name in sorted(sizes) if name not in expected)


def _check_source(path: Path) -> Iterator[str]:
    try:
        read_sealed(path)
    except InputError as error:
        yield str(error)


def check_shard(folder: Path, shard: ShardEntry, *, fast: bool) -> Iterator[str]:
    """Yield one line for everything in the folder of a shard that differs from what the manifest and its index say."""
    index = folder / INDEX
    names = ", ".join(shard.case_ids[:3]) + (", ..." if len(shard.case_ids) > 3 else "")
    if not has_shard(folder):
        yield f"{index}: missing (index of cases {names})"
        return
    raw = read_file(index)
    if xxhash.xxh3_64_hexdigest(raw) != shard.index_xxh3:
        yield f"{index}: checksum does not match the manifest (index of cases {names})"
        return
    try:
        cases = parse_index(index, raw).cases
    except InputError as error:
        yield str(error)
        return
    sizes = sizes_in(folder)
    expected = {INDEX}
    for case in cases:
        expected |= {record.name for record in case.files}
        for record in case.files:
            yield from _check_file(folder, record, sizes.get(record.name), f"case {case.case_id}", fast=fast)
        yield from _check_sizes(case)
        if not fast:
            yield from _check_header(folder, case)
    yield from (f"{folder / name}: not part of the store" for name in sorted(sizes) if name not in expected)


def _check_sizes(entry: CaseEntry) -> Iterator[str]:
    """Find a store made before sizes came from the affine, of files whose headers contradict themselves."""
    sizes = np.linalg.norm(np.asarray(entry.affine)[:3, :3], axis=0)[::-1]
    if not np.allclose(entry.spacing_mm, sizes, rtol=1e-3):
        said, meant = (" x ".join(f"{side:.4g}" for side in triple) for triple in (entry.spacing_mm, sizes))
        yield f"case {entry.case_id}: the index says voxels of {said} mm (D,H,W), its affine {meant}"


def _check_header(folder: Path, entry: CaseEntry) -> Iterator[str]:
    expected = npy_header((*entry.shape_dhw, len(entry.channels)), np.dtype(entry.image_dtype).newbyteorder("<"))
    image = folder / entry.image.name
    if image.is_file() and next(read_chunks(image, len(expected)), b"") != expected:
        wanted = f"{entry.image_dtype} {entry.shape_dhw}"
        yield f"case {entry.case_id}: {image}: header is not {wanted} as the index says"


def _check_file(folder: Path, record: FileRecord, size: int | None, owner: str, *, fast: bool) -> Iterator[str]:
    """Compare one file with its record; ``size`` is what the folder says, ``None`` or negative for no such file."""
    path = folder / record.name
    if size is None or size < 0:
        yield f"{owner}: {path}: missing"
    elif size != record.size_bytes:
        yield f"{owner}: {path}: {size} bytes, the index says {record.size_bytes}"
    elif not fast and (found := _checksum(path)) != record.xxh3:
        yield f"{owner}: {path}: checksum {found}, the index says {record.xxh3}"


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_64()
    for chunk in read_chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    main(check, Options)
