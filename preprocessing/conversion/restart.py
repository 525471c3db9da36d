"""Go on with a conversion: earlier shards are kept only if the same would be made again, else it is said why not."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from preprocessing.console.errors import InputError
from preprocessing.console.places import read_file, remote_errors
from preprocessing.conversion.shard_job import ShardJob, made_from
from preprocessing.shards.commit import clear_unfinished
from preprocessing.shards.files import INDEX, parse_json
from preprocessing.shards.store import open_store
from preprocessing.volumes.image import ConvertOptions
from preprocessing.volumes.nifti import checksum_of, parts_of

log = logging.getLogger(__name__)
CLOCK_SKEW_S = 60.0  # sources can be on a file server with a clock of its own


def check_earlier_shards(root: Path, jobs: list[ShardJob], others: list[str]) -> None:
    """Refuse to mix shards of other options, other cases or changed files into a store; clear half-made ones.

    ``jobs`` are this run's; ``others`` names shards that belong to runs beside it. A source file of another size has
    changed; one that was touched since the shard was written is compared by its checksum. Raises ``InputError`` that
    names the shard and the first difference.
    """
    expected = {job.name: job for job in jobs}
    clear_unfinished(root, list(expected))
    checksums = _checksums_of_finished_store(root)
    with remote_errors(root):
        found_folders = sorted(folder for folder in root.glob("shard-*") if folder.name not in others)
    for folder in found_folders:
        raw = read_file(folder / INDEX)
        found = xxhash.xxh3_64_hexdigest(raw)
        if checksums.get(folder.name, found) != found:
            raise InputError(f"{folder / INDEX} was damaged after it was written; delete {folder} and convert again")
        index = parse_json(str(folder / INDEX), raw)
        difference = _difference(folder, index, expected.get(folder.name))
        if difference:
            raise InputError(
                f"{folder} was made {difference}; delete the shard folders in {root}, or give another --output"
            )


def _checksums_of_finished_store(root: Path) -> dict[str, str]:
    try:
        return {shard.name: shard.index_xxh3 for shard in open_store(root).manifest.shards}
    except InputError:
        return {}  # not finished yet, or a manifest that this run replaces


def _difference(folder: Path, index: Mapping[str, Any], job: ShardJob | None) -> str | None:
    """Say in what a shard differs from what ``job`` would make, or ``None``."""
    if job is None:
        return "of cases that are not in the data set as it is now"
    before, now = index.get("made_from"), json.loads(json.dumps(made_from(job)))
    if not isinstance(before, dict) or set(before) != set(now):
        return "by another version of voxelfeed"
    return (
        _other_options(before["options"], now["options"])
        or _other_description(before, now)
        or _other_sources(before["sources"], now["sources"], job)
        or _other_content(folder, index, job)
    )


def _other_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    before, now = ({"trust": ConvertOptions.trust} | options for options in (dict(before), dict(now)))
    for name in dict.fromkeys((*now, *before)):
        if before.get(name) != now.get(name):
            return f"with other options: --{name.replace('_', '-')} {before.get(name)}, now {now.get(name)}"
    return None


def _other_description(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    for name in ("channel_names", "label_names", "label_remap", "ignore_label", "modality"):
        if before[name] != now[name]:
            return f"for another {name.replace('_', ' ')}: {before[name]}, now {now[name]}"
    return None


def _other_sources(before: list[list[Any]], now: list[list[Any]], job: ShardJob) -> str | None:
    if [row[0] for row in before] != [row[0] for row in now]:
        return (
            f"from other cases: {before[0][0]} to {before[-1][0]} ({len(before)}), "
            f"now {now[0][0]} to {now[-1][0]} ({len(now)})"
        )
    for old, new, source in zip(before, now, job.sources, strict=True):
        if len(old) != len(new):
            return f"from {len(old) - 1} files of case {source.case_id}, now it has {len(new) - 1}"
        for had, has, path in zip(old[1:], new[1:], source.files, strict=True):
            if had != has:
                return f"before case {source.case_id} changed: {path} had {_bytes(had)}, now {_bytes(has)}"
    return None


def _bytes(size: int | None) -> str:
    return "no file" if size is None else f"{size} bytes"


def _other_content(folder: Path, index: Mapping[str, Any], job: ShardJob) -> str | None:
    """Compare the checksums of source files that may have changed after the shard was written."""
    written = (folder / INDEX).stat().st_mtime
    recorded = {case["case_id"]: case["sources"] for case in index["cases"]}
    for source in job.sources:
        touched = [path for path in source.files if path.is_file() and _changed_at(path) > written - CLOCK_SKEW_S]
        records = dict(zip(source.files, recorded.get(source.case_id, []), strict=False))
        for path in touched:
            if path in records and checksum_of(path) != records[path]["xxh3"]:
                return f"before case {source.case_id} changed: {path} has the same size and other content"
        if source.case_id not in recorded and any(_changed_at(path) > written for path in touched):
            log.warning(
                "case %s was refused and its files have changed since; delete %s to try it again",
                source.case_id,
                folder,
            )
    return None


def _changed_at(path: Path) -> float:
    """Return when a file last changed: its inode's time, which unlike mtime cannot be set back by copying.

    An object store has no inodes, and its modification times are its own.
    """
    return max(max(found.st_ctime, found.st_mtime) for found in (part.stat() for part in parts_of(path)))
