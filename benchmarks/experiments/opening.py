"""What opening a store of many cases costs, in a fresh process: seconds and memory."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.measuring.origin import REPOSITORY
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
    command = [sys.executable, "-m", "benchmarks.experiments.opening", str(store.resolve())]
    done = [subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True) for _ in range(runs)]
    measured = [json.loads(one.stdout) for one in done]
    return {name: [one[name] for one in measured] for name in ("open_ms", "memory_mb")}


def _open(arguments: Sequence[str]) -> dict[str, float]:
    import time

    import psutil

    before, begin = psutil.Process().memory_info().rss, time.perf_counter()
    store = open_store(arguments[0])
    count = len(store.labelled_ids)
    open_ms = 1e3 * (time.perf_counter() - begin)
    assert count == len(store.case_ids)
    return {"open_ms": open_ms, "memory_mb": (psutil.Process().memory_info().rss - before) / 1e6}


if __name__ == "__main__":
    print(json.dumps(_open(sys.argv[1:])))
