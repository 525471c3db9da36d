"""Copy a store from an object store to a folder, once, checked: ``python -m preprocessing.stage --shards s3://...``."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import xxhash
from rich.progress import DownloadColumn, TransferSpeedColumn

from preprocessing.check import check_shard
from preprocessing.console.errors import EXIT_DONE, InputError, RunError
from preprocessing.console.flags import DEFAULT_SHARDS, Place, main
from preprocessing.console.places import location, make_folder, read_chunks, read_file, replace_file, write_file
from preprocessing.console.progress import progress_bar
from preprocessing.conversion.single_writer import only_writer
from preprocessing.shards.commit import clear_unfinished, has_shard, new_shard
from preprocessing.shards.entries import FileRecord, ShardEntry
from preprocessing.shards.files import ERRORS, INDEX, MANIFEST, write_source
from preprocessing.shards.store import open_store, parse_index

log = logging.getLogger(__name__)
STREAMS = 16  # one S3 connection gives about 50 MB/s, a network card twenty times that


@dataclass(frozen=True, kw_only=True)
class Options:
    """Copy a shard store to a folder that training can memory-map, comparing every file with its checksum.

    If it is interrupted, run it again: shards that exist already are kept if their files have the right sizes. The
    copy has the same bytes.
    """

    shards: Place = DEFAULT_SHARDS
    """Store to copy, for example s3://BUCKET/FOLDER."""
    output: Path = Path("data/staged")
    """Folder to make, on a disk of this machine or one that all machines mount."""


def stage(options: Options) -> int:
    """Run the command; returns the exit code."""
    store = open_store(options.shards)
    source, root = location(store.root), options.output
    if source == root.absolute():
        raise InputError(f"--output {root} is the store itself; give another folder")
    make_folder(root)
    with only_writer(root):
        clear_unfinished(root, [])
        shards = store.manifest.shards
        todo = [shard for shard in shards if not _is_staged(root, shard)]
        kept, unread = len(shards) - len(todo), ""
        if kept:
            log.info("%d of %d shards are there already, their files of the right sizes", kept, len(shards))
            unread = f" of the {len(todo)} copied now; preprocessing.check reads the others too"
        columns = (DownloadColumn(), TransferSpeedColumn())
        with ThreadPoolExecutor(STREAMS) as pool, progress_bar("staging", *columns) as progress:
            bar = progress.add_task("bytes", total=sum(shard.size_bytes for shard in todo))
            advance = functools.partial(progress.advance, bar)
            for shard in todo:
                _copy_shard(source / shard.name, root / shard.name, shard, pool, advance)
        if store.manifest.errors is not None:
            replace_file(root / ERRORS, read_file(source / ERRORS))
        write_source(root, store.source_root)
        replace_file(root / MANIFEST, read_file(source / MANIFEST))
    log.info("%s: %d cases in %d shards, every checksum matches%s", root, len(store.case_ids), len(shards), unread)
    return EXIT_DONE


def _is_staged(root: Path, shard: ShardEntry) -> bool:
    """Tell whether a shard is there, by its index and sizes; raises ``InputError`` where it is another or damaged."""
    folder = root / shard.name
    if not has_shard(folder):
        return False
    for problem in check_shard(folder, shard, fast=True):
        raise InputError(f"{problem}; delete {folder} and run the same command again, or give another --output")
    return True


def _copy_shard(source: Path, target: Path, shard: ShardEntry, pool: Executor, advance: Callable[[int], None]) -> None:
    index = read_file(source / INDEX)
    if xxhash.xxh3_64_hexdigest(index) != shard.index_xxh3:
        raise _damaged(source / INDEX)
    records = [record for case in parse_index(source / INDEX, index).cases for record in case.files]
    with new_shard(target) as folder:
        list(pool.map(lambda record: _copy_file(source, folder, record, advance), records))
        replace_file(folder / INDEX, index)


def _copy_file(source: Path, folder: Path, record: FileRecord, advance: Callable[[int], None]) -> None:
    digest = xxhash.xxh3_64()

    def seen() -> Iterator[bytes]:
        for chunk in read_chunks(source / record.name):
            digest.update(chunk)
            advance(len(chunk))
            yield chunk

    write_file(folder / record.name, seen())
    if digest.hexdigest() != record.xxh3:
        raise _damaged(source / record.name)


def _damaged(path: Path) -> RunError:
    return RunError(f"{path}: its checksum is not the one in the store; run preprocessing.check there, then repair it")


if __name__ == "__main__":
    main(stage, Options)
