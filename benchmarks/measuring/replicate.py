"""Make a large store or data set out of a small one, by hard links where the file system allows them."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import xxhash

from preprocessing.console.errors import InputError
from preprocessing.console.progress import shown
from preprocessing.layouts.dataset import read_description
from preprocessing.layouts.msd import read_msd
from preprocessing.shards.entries import CaseEntry, FileRecord, ShardEntry
from preprocessing.shards.files import INDEX, MANIFEST, write_manifest, write_source
from preprocessing.shards.store import open_store

CASES_PER_SHARD = 64


def replicate(source: Path, target: Path, num_cases: int, cases_per_shard: int = CASES_PER_SHARD) -> None:
    """Repeat the labelled cases of a store, or of an MSD folder, in ``target`` until there are ``num_cases``.

    Raises ``InputError`` where ``source`` is neither, holds no labelled case, or ``target`` exists.
    """
    if target.exists():
        raise InputError(f"{target} exists; give another folder")
    if (source / MANIFEST).is_file():
        _replicate_store(source, target, num_cases, cases_per_shard)
    elif (source / "dataset.json").is_file():
        _replicate_msd(source, target, num_cases)
    else:
        raise InputError(f"{source}: neither a store nor a data set in MSD layout")


def _replicate_store(source: Path, target: Path, num_cases: int, cases_per_shard: int) -> None:
    store = open_store(source)
    originals = [(shard, entry) for shard, entry in store.entries() if entry.label is not None]
    if not originals:
        raise InputError(f"{source}: holds no labelled case to repeat")
    shards = []
    for number, first in enumerate(shown(range(0, num_cases, cases_per_shard), "replicating")):
        folder = target / f"shard-{number:05d}"
        folder.mkdir(parents=True)
        cases = []
        for position in range(first, min(first + cases_per_shard, num_cases)):
            shard, entry = originals[position % len(originals)]
            cases.append(_renamed(entry, f"{entry.case_id}_{position:06d}"))
            for old, new in zip(entry.files, cases[-1].files, strict=True):
                _link(source / shard / old.name, folder / new.name)
        shards.append(_write_shard(folder, cases))
    write_source(target, store.source_root)
    write_manifest(target, dataclasses.replace(store.manifest, shards=shards, errors=None))


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


def _replicate_msd(source: Path, target: Path, num_cases: int) -> None:
    dataset = read_msd(source)
    labelled = [case for case in dataset.sources if case.label is not None]
    if not labelled:
        raise InputError(f"{source}: holds no labelled case to repeat")
    entries = []
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True)
    for position in range(num_cases):
        case = labelled[position % len(labelled)]
        entry = {}
        for kind, path in zip(("image", "label"), case.files, strict=True):
            name = f"{case.case_id}_{position:06d}{path.name.removeprefix(case.case_id)}"
            _link(path, target / f"{kind}sTr" / name)
            entry[kind] = f"./{kind}sTr/{name}"
        entries.append(entry)
    described = read_description(source / "dataset.json") | {"training": entries, "test": []}
    described |= {"numTraining": len(entries), "numTest": 0}
    (target / "dataset.json").write_text(json.dumps(described, indent=1), encoding="utf-8")


def _link(original: Path, link: Path) -> None:
    """Link to ``original``; copy where the file system cannot link, or has linked the file often enough."""
    try:
        os.link(original.resolve(), link)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP):
            raise
        shutil.copy(original, link)
