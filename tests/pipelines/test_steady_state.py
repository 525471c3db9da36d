"""What must not grow: the plan's cost with the number of cases, memory and page faults with the number of batches."""

from __future__ import annotations

import itertools
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pipelines.batch import Loader
from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader
from pipelines.plan import Plan, PlanOptions
from tests.pipelines.test_plan import Volume, Volumes

FEW, MANY = 10, 48_884
LANES = 2
STEPS = 60
WARM, MEASURED = 60, 300  # batches
PATCH = (32, 32, 32)
PATCH_FAULTS = 2 * (4 * 4 + 1) * 32**3 // 4096  # what a loader takes that makes a batch of two in fresh memory


def cases(count: int) -> Volumes:
    """Make a store whose cases differ, so that nothing but the plan's own caches is warm."""
    made = {}
    for number in range(count):
        labelled = {1: [(70, 100, number % 240), (80, 90, 90)], 2: [(50, number % 200, 70)]}
        made[f"case_{number:05d}"] = Volume((155, 240, 200 + number % 41), labelled)
    return Volumes(made)


def step_seconds(store: Volumes, augment: str) -> float:
    """Measure the processor time that one step takes this thread once an epoch has begun; the median of many."""
    options = PlanOptions(seed=0, global_batch=8 * LANES, patch=(128, 128, 128), augment=augment)
    plan = Plan(store, list(store.cases), options, 4)
    lanes = plan.lanes_of(3, 8)
    plan.batch(0, 0, lanes)
    taken = []
    for number in range(STEPS):
        begin = time.thread_time()
        plan.batch(0, number % plan.steps_per_epoch, lanes)
        taken.append(time.thread_time() - begin)
    return statistics.median(taken)


@pytest.mark.parametrize("augment", ["basic", "full"])
def test_a_step_of_the_plan_costs_no_more_however_many_cases(augment: str) -> None:
    few, many = (min(step_seconds(store, augment) for _ in range(3)) for store in (cases(FEW), cases(MANY)))
    assert many < 2 * few  # there are 4,888 times as many; the rest is room for a busy machine
    assert many < 0.001


WAYS: dict[str, dict[str, Any]] = {
    "host": {"samples_per_case": 100},
    "all volumes": {"samples_per_case": 100, "crop": "device"},
    "rotating pool": {"samples_per_case": 20, "crop": "device", "window": 1, "batch_size": 1, "gpu_cache": "0.00018"},
}


def growth(config: LoaderConfig, count: int) -> tuple[float, int]:
    """Return minor page faults per batch, and the bytes that this process grew by, over ``count`` warm batches."""
    process = psutil.Process()
    with build_loader("dali", config) as loader:
        take(loader, WARM)
        resident, faults = process.memory_info().rss, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        take(loader, count)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return faults / count, process.memory_info().rss - resident


def take(loader: Loader, count: int) -> None:
    """Take ``count`` batches, epoch after epoch."""
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))
    for _ in itertools.islice(epochs, count):
        pass


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("augment", ["none", "basic"])
def test_a_warm_loader_takes_no_more_memory(coordinate_store: Path, augment: str, way: str) -> None:
    """Neither grows the process over hundreds of batches, nor does a batch touch fresh memory."""
    config = LoaderConfig(store=coordinate_store, patch=PATCH, augment=augment, reuse_buffers=True, **WAYS[way])
    faults, grown = growth(config, MEASURED)
    assert faults < 0.1 * PATCH_FAULTS
    assert grown < MEASURED * PATCH_FAULTS * 4096 / 100


@pytest.mark.parametrize("loader_name", ["dali", "torch"])
def test_eight_ranks_resume_on_four_two_and_one(coordinate_store: Path, loader_name: str) -> None:
    """The same global batches for every world size, to the voxel, before and after resuming on fewer ranks."""

    def ranks(world_size: int) -> list[Loader]:
        config = LoaderConfig(
            store=coordinate_store,
            patch=(8, 10, 12),
            batch_size=8 // world_size,
            samples_per_case=4,
            num_workers=0,
            num_threads=1,
        )
        return [build_loader(loader_name, config, rank, world_size) for rank in range(world_size)]

    def global_batches(loaders: list[Loader]) -> list[tuple[np.ndarray, np.ndarray]]:
        rows = zip(*loaders, strict=True)
        made = [[(batch.image.numpy().copy(), batch.label.numpy().copy()) for batch in row] for row in rows]
        return [(np.concatenate([i for i, _ in row]), np.concatenate([label for _, label in row])) for row in made]

    def same(left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))

    (alone,) = ranks(1)
    with alone:
        wanted = global_batches([alone])
    assert len(wanted) == 4
    eight = ranks(8)
    for stop in (1, 3):
        states = []
        for loader in eight:
            loader.set_epoch(0)
            for _ in itertools.islice(loader, stop):
                pass
            states.append(loader.state_dict())
        assert all(state == states[0] for state in states)
        for world_size in (8, 4, 2, 1):
            fewer = ranks(world_size)
            for loader in fewer:
                loader.load_state_dict(states[0])
            rest = global_batches(fewer)
            for loader in fewer:
                loader.close()
            assert len(rest) == len(wanted) - stop
            assert all(same(left, right) for left, right in zip(rest, wanted[stop:], strict=True))
    for loader in eight:
        loader.close()
