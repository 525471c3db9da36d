"""Make a large store or data set out of a small one: ``python -m benchmarks.measuring.replicate``."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import xxhash

from benchmarks.measuring.progress import progress
from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.console.flags import DEFAULT_SHARDS, main
from preprocessing.layouts.dataset import read_description
from preprocessing.layouts.msd import read_msd
from preprocessing.shards.entries import CaseEntry, FileRecord, ShardEntry
from preprocessing.shards.files import INDEX, MANIFEST, write_manifest, write_source
from preprocessing.shards.store import open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Repeat the labelled cases of a shard store, or of an MSD folder, until there are --cases of them.

    Files are hard links where the file system allows it, so a thousandfold copy takes hardly any disk.
    """

    input: Path = DEFAULT_SHARDS
    """Store, or data set folder in MSD layout."""
    output: Path = Path("data/replica")
    """Folder to make; of the same kind as --input."""
    cases: int = 1000
    """Cases to make."""
    cases_per_shard: int = 64
    """Cases in one shard of a replicated store."""


def replicate(options: Options) -> int:
    """Run the command; returns the exit code."""
    if options.cases < 1 or options.cases_per_shard < 1:
        raise InputError(f"--cases {options.cases} and --cases-per-shard {options.cases_per_shard}: both at least 1")
    if options.output.exists():
        raise InputError(f"--output {options.output} exists; give another one")
    if (options.input / MANIFEST).is_file():
        _replicate_store(options)
    elif (options.input / "dataset.json").is_file():
        _replicate_msd(options)
    else:
        raise InputError(f"{options.input}: neither a store nor a data set in MSD layout; give one with --input")
    log.info("%s: %d cases", options.output, options.cases)
    return EXIT_DONE


def _replicate_store(options: Options) -> None:
    store = open_store(options.input)
    originals = [(shard, entry) for shard, entry in store.entries() if entry.label is not None]
    if not originals:
        raise InputError(f"{options.input}: holds no labelled case to repeat")
    shards: list[ShardEntry] = []
    with progress(options.cases, "replicating") as done:
        for first in range(0, options.cases, options.cases_per_shard):
            folder = options.output / f"shard-{len(shards):05d}"
            folder.mkdir(parents=True)
            cases = []
            for position in range(first, min(first + options.cases_per_shard, options.cases)):
                shard, entry = originals[position % len(originals)]
                cases.append(_renamed(entry, f"{entry.case_id}_{position:06d}"))
                for old, new in zip(entry.files, cases[-1].files, strict=True):
                    _link(options.input / shard / old.name, folder / new.name)
                done(folder.name)
            shards.append(_write_shard(folder, cases))
    write_source(options.output, store.source_root)
    write_manifest(options.output, dataclasses.replace(store.manifest, shards=shards, errors=None))


def _write_shard(folder: Path, cases: list[CaseEntry]) -> ShardEntry:
    content = {"made_from": None, "cases": [dataclasses.asdict(case) for case in cases], "refused": []}
    raw = (json.dumps(content, indent=1) + "\n").encode()
    (folder / INDEX).write_bytes(raw)  # not synced: what a scale test needs can be made again
    return ShardEntry.of_cases(folder.name, cases, xxhash.xxh3_64_hexdigest(raw))


def _renamed(entry: CaseEntry, case_id: str) -> CaseEntry:
    def renamed(record: FileRecord) -> FileRecord:
        return dataclasses.replace(record, name=case_id + record.name.removeprefix(entry.case_id))

    label, foreground = (record and renamed(record) for record in (entry.label, entry.foreground))
    image = renamed(entry.image)
    return dataclasses.replace(entry, case_id=case_id, image=image, label=label, foreground=foreground)


def _replicate_msd(options: Options) -> None:
    dataset = read_msd(options.input)
    labelled = [source for source in dataset.sources if source.label is not None]
    if not labelled:
        raise InputError(f"{options.input}: holds no labelled case to repeat")
    entries = []
    for folder in ("imagesTr", "labelsTr"):
        (options.output / folder).mkdir(parents=True)
    for position in range(options.cases):
        source = labelled[position % len(labelled)]
        assert source.label is not None
        entry = {}
        for kind, path in (("image", source.images[0]), ("label", source.label)):
            name = f"{source.case_id}_{position:06d}{path.name.removeprefix(source.case_id)}"
            _link(path, options.output / f"{kind}sTr" / name)
            entry[kind] = f"./{kind}sTr/{name}"
        entries.append(entry)
    described = read_description(options.input / "dataset.json") | {"training": entries, "test": []}
    described |= {"numTraining": len(entries), "numTest": 0}
    (options.output / "dataset.json").write_text(json.dumps(described, indent=1), encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    """Link ``target`` to ``source``; copy where the file system cannot link, or has linked the file often enough."""
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP):
            raise
        shutil.copy(source, target)


if __name__ == "__main__":
    main(replicate, Options)
