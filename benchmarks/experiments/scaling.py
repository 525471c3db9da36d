"""What grows with the cases of a store and the ranks of a run: opening the store, and the plan's time per sample."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks.measuring.processes import call_fresh
from pipelines.plan import Coordinates, Plan, PlanOptions
from preprocessing.shards.entries import ShardEntry
from preprocessing.shards.files import write_manifest
from preprocessing.shards.store import Store, open_store
from preprocessing.volumes.grid import Int3

CASES_PER_SHARD = 64
LATE_STEPS = 8  # steps timed at the far end of an epoch: the plan goes there without replaying the others


def plan_store(origin: Store, num_cases: int, folder: Path) -> Path:
    """Write a manifest of ``num_cases`` into ``folder``, without indices and voxels: opening needs none."""
    names = itertools.islice(itertools.cycle(origin.labelled_ids), num_cases)
    ids = [f"{name}_{number:06d}" for number, name in enumerate(names)]
    mean_bytes = sum(shard.size_bytes for shard in origin.manifest.shards) // len(origin.case_ids)
    shards = []
    for first in range(0, num_cases, CASES_PER_SHARD):
        own, name = ids[first : first + CASES_PER_SHARD], f"shard-{first // CASES_PER_SHARD:05d}"
        size_bytes = mean_bytes * len(own)
        shards.append(ShardEntry(name=name, case_ids=own, unlabelled=[], size_bytes=size_bytes, index_xxh3="0" * 16))
    folder.mkdir(parents=True)
    write_manifest(folder, replace(origin.manifest, shards=shards, errors=None))
    return folder


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


@dataclass(frozen=True, kw_only=True)
class PlannedStore:
    """A store without files, and each case of it: all have one shape, cubes of voxels and no foreground."""

    shape_dhw: Int3
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def case(self, case_id: str) -> PlannedStore:  # noqa: ARG002  # all alike
        """Return the case of any id."""
        return self

    def foreground(self) -> dict[int, Coordinates]:
        """Return nothing: patches are drawn uniformly."""
        return {}


def make_plan(num_cases: int, global_batch: int, patch: Int3, shape_dhw: Int3) -> Plan:
    """Plan ``num_cases`` cases, one patch of each to an epoch, four channels."""
    options = PlanOptions(seed=0, global_batch=global_batch, patch=patch, samples_per_case=1)
    return Plan(PlannedStore(shape_dhw=shape_dhw), [f"case_{n:06d}" for n in range(num_cases)], options, 4)


def time_samples(plan: Plan, world_size: int, runs: int) -> dict[str, list[float]]:
    """Measure the processor time of the last rank at the far end of epochs new to it; a value per run of each metric.

    ``plan_epoch_ms`` is the first sample of an epoch, which shuffles all cases; ``plan_us_per_sample`` the others.
    """
    lanes = plan.lanes_of(world_size - 1, world_size)
    steps = range(max(plan.steps_per_epoch - LATE_STEPS, 0), plan.steps_per_epoch)
    first_ms, others_us = [], []
    for epoch in range(1, runs + 1):
        begin = time.process_time()
        plan.sample(epoch, steps[0], lanes[0])
        between = time.process_time()
        for step in steps:
            plan.batch(epoch, step, lanes)
        first_ms.append(1e3 * (between - begin))
        others_us.append(1e6 * (time.process_time() - between) / (len(steps) * len(lanes)))
    return {"plan_epoch_ms": first_ms, "plan_us_per_sample": others_us}
