"""What opening a store of many cases costs, in a fresh process: seconds and memory."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.measuring.fresh import call_fresh
from preprocessing.shards.entries import ShardEntry
from preprocessing.shards.files import write_manifest
from preprocessing.shards.store import Store, open_store

CASES_PER_SHARD = 64


def plan_store(origin: Store, num_cases: int, folder: Path) -> Path:
    """Write a manifest of ``num_cases`` into ``folder``, without indices and voxels: opening needs none."""
    names = itertools.islice(itertools.cycle(origin.labelled_ids), num_cases)
    ids = [f"{name}_{number:06d}" for number, name in enumerate(names)]
    mean_bytes = sum(shard.size_bytes for shard in origin.manifest.shards) // len(origin.case_ids)
    shards = [
        _shard(first // CASES_PER_SHARD, ids[first : first + CASES_PER_SHARD], mean_bytes)
        for first in range(0, num_cases, CASES_PER_SHARD)
    ]
    folder.mkdir(parents=True)
    write_manifest(folder, replace(origin.manifest, shards=shards, errors=None))
    return folder


def _shard(number: int, case_ids: list[str], mean_bytes: int) -> ShardEntry:
    return ShardEntry(
        name=f"shard-{number:05d}",
        case_ids=case_ids,
        unlabelled=[],
        size_bytes=mean_bytes * len(case_ids),
        index_xxh3="0" * 16,
    )


def measure_opening(store: Path, runs: int) -> dict[str, list[float]]:
    """Open ``store`` in ``runs`` fresh processes; returns the values of ``open_ms`` and ``memory_mb``."""
    measured = [call_fresh(time_opening, store) for _ in range(runs)]
    return {name: [one[name] for one in measured] for name in ("open_ms", "memory_mb")}


def time_opening(path: Path) -> dict[str, float]:
    """Open a store and list its labelled cases, in this process."""
    before, begin = psutil.Process().memory_info().rss, time.perf_counter()
    store = open_store(path)
    count = len(store.labelled_ids)
    open_ms = 1e3 * (time.perf_counter() - begin)
    assert count == len(store.case_ids)
    return {"open_ms": open_ms, "memory_mb": max(psutil.Process().memory_info().rss - before, 0) / 1e6}
