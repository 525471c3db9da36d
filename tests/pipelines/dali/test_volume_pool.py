"""The pool of volumes: bounded in bytes, one upload per window or for ever, nothing overwritten while it is read."""

from __future__ import annotations

import itertools
import math
import shutil
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.batch import Batch
from pipelines.config import LoaderConfig
from pipelines.dali.device_copy import DeviceCopies, crop_tensor
from pipelines.dali.pool_budget import AUTO_SHARE, Budget, choose_budget, measure_need, volume_bytes
from pipelines.dali.volume_pool import ByteRing, PooledVolume, VolumePool
from pipelines.loaders import build_loader
from pipelines.plan import Plan, PlanOptions
from pipelines.reference import crop
from preprocessing.console.errors import InputError
from preprocessing.shards.store import open_store
from preprocessing.volumes.grid import Int3
from tests.pipelines.test_plan import Volume as PlannedVolume
from tests.pipelines.test_plan import plan_of

DEVICES = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]
GIB = 2**30


# The ring ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 20), max_size=60), st.integers(20, 60), st.data())
def test_stretches_lie_apart_within_the_buffer_and_fit_when_promised(
    sizes: list[int], capacity: int, data: st.DataObject
) -> None:
    """What is out, the new stretch and the largest one more: when the buffer holds these, there is room."""
    ring, out = ByteRing(capacity), deque[tuple[int, int]]()
    for size in sizes:
        for _ in range(data.draw(st.integers(0, len(out)))):
            ring.give_back_oldest()
            out.popleft()
        first = ring.take(size)
        if first is None:
            assert sum(end - start for start, end in out) + size + max(sizes) > capacity
            continue
        assert 0 <= first <= capacity - size
        assert all(first + size <= start or end <= first for start, end in out)
        out.append((first, first + size))


def test_the_example_of_the_ring_is_true() -> None:
    ring = ByteRing(10)
    assert [ring.take(4), ring.take(4), ring.take(3)] == [0, 4, None]
    ring.give_back_oldest()
    assert ring.take(3) == 0


# The budget -------------------------------------------------------------------------------------------------------

SHAPES: list[Int3] = [(64, 64, 64), (32, 64, 64), (64, 64, 16), (64, 64, 32)]
SIZES = sorted((volume_bytes(shape, 1, 2) for shape in SHAPES), reverse=True)


def budget_of(limit: int | None, free: int = 10**9, **options: Any) -> Budget:
    plan = plan_of([PlannedVolume(shape) for shape in SHAPES], **({"window": 1, "global_batch": 2} | options))
    lanes = plan.lanes_of(0, 2)
    return choose_budget(measure_need(plan, lanes, 2), None if limit is None else limit / GIB, free)


def test_all_volumes_stay_where_they_fit() -> None:
    everything = Budget(size_bytes=sum(SIZES), largest_voxels=64**3, is_resident=True)
    assert budget_of(10**8) == budget_of(sum(SIZES)) == budget_of(None) == everything
    assert budget_of(None, free=math.ceil(sum(SIZES) / AUTO_SHARE)) == everything


def test_else_a_window_and_the_next_as_far_as_there_is_room() -> None:
    window, wrapped = SIZES[0], SIZES[0]
    assert not budget_of(sum(SIZES) - 1).is_resident
    assert budget_of(None, free=int(2.1 * (window + wrapped))).size_bytes == int(AUTO_SHARE * 2.1 * (window + wrapped))
    small = [PlannedVolume((8, 8, 8))] * 20
    plan = plan_of(small, window=2, global_batch=1)
    each = volume_bytes((8, 8, 8), 1, 2)
    assert (
        choose_budget(measure_need(plan, [0], 2), 10 * each / GIB, 10**9).size_bytes == 5 * each
    )  # two windows, and the wrap


def test_sticky_ranks_need_room_for_their_own_volumes_only() -> None:
    assert budget_of(sum(SIZES) // 2 + SIZES[0] // 2, sticky=True).size_bytes < sum(SIZES)
    plan = plan_of([PlannedVolume(shape) for shape in SHAPES], global_batch=2, sticky=True)
    shares = [choose_budget(measure_need(plan, plan.lanes_of(rank, 2), 2), None, 10**9) for rank in range(2)]
    assert all(share.is_resident for share in shares)
    assert sum(share.size_bytes for share in shares) == sum(SIZES)


@pytest.mark.parametrize(("limit", "free"), [(2 * SIZES[0] - 1, 10**9), (None, 3 * SIZES[0]), (sum(SIZES), SIZES[0])])
def test_too_little_for_a_window_is_one_line_with_both_numbers(limit: int | None, free: int) -> None:
    with pytest.raises(InputError, match=r"a window of 1 volumes needs .* GiB, .* GiB may be used; raise --gpu-cache"):
        budget_of(limit, free)


def test_a_loader_says_so_too(coordinate_store: Path) -> None:
    config = LoaderConfig(store=coordinate_store, patch=(8, 8, 8), window=1, crop="device", gpu_cache="0.0001")
    with pytest.raises(InputError, match=r"gpu_cache 0.0001: a window of 2 volumes needs 0.000187 GiB, 0.0001 GiB may"):
        build_loader("dali", config)


# The pool ---------------------------------------------------------------------------------------------------------


class RecordedCopies(DeviceCopies):
    """Copies that keep the names of the images they brought."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.images: list[str] = []

    def upload(self, source: Any, target: torch.Tensor) -> None:
        """Copy, and remember the case."""
        super().upload(source, target)
        if ".image." in Path(source.filename).name:
            self.images.append(Path(source.filename).name.split(".")[0])


@contextmanager
def pool_of(root: Path, *, resident: bool, rank: int = 0, world_size: int = 1, **options: Any) -> Iterator[VolumePool]:
    """Make the smallest pool that has room for a window, or for all volumes."""
    store = open_store(root)
    settings: dict[str, Any] = {"seed": 0, "patch": (4, 4, 4)} | options
    plan = Plan(store, store.labelled_ids, PlanOptions(**settings), 4)
    lanes = plan.lanes_of(rank, world_size)
    shapes = sorted((store.case(case_id).shape_dhw for case_id in plan.cases_of(lanes)), key=math.prod, reverse=True)
    sizes = [volume_bytes(shape, 4, 1) for shape in shapes]
    size = sum(sizes) if resident else sizes[0] + sum(sizes[: plan.options.window * len(lanes)])
    budget = Budget(size_bytes=size, largest_voxels=math.prod(shapes[0]), is_resident=resident)
    pool = VolumePool(store, plan, lanes, budget, RecordedCopies())
    try:
        yield pool
    finally:
        pool.close()


def walk(pool: VolumePool, num_epochs: int) -> Counter[str]:
    """Take every step in turn and check what is there; returns the uploads of each case, those ahead included."""
    steps = [(epoch, step) for epoch in range(num_epochs) for step in range(pool.plan.steps_per_epoch)]
    pool.begin(0, 0)
    for epoch, step in steps:
        samples = pool.plan.batch(epoch, step, pool.lanes)
        for sample, volume in zip(samples, pool.volumes(samples), strict=True):
            volume.uploaded.result(10)
            case = pool.store.case(sample.case_id)
            assert np.array_equal(volume.image.numpy(), case.image())
            assert np.array_equal(volume.label.numpy(), np.asarray(case.label()))
    wait([volume.uploaded for volume in pool._held.values()])
    assert isinstance(pool.copies, RecordedCopies)
    return Counter(pool.copies.images)


OPTIONS = {
    "global_batch": st.sampled_from([1, 2, 4]),
    "samples_per_case": st.integers(1, 3),
    "window": st.integers(1, 3),
    "sticky": st.booleans(),
}


@given(st.fixed_dictionaries(OPTIONS))
def test_a_rotating_pool_brings_each_volume_once_per_window(coordinate_store: Path, options: dict[str, Any]) -> None:
    """Even in the least memory that holds a window."""
    with pool_of(coordinate_store, resident=False, **options) as pool:
        brought = walk(pool, 2)
        windows = -(-pool.plan.steps_per_epoch // (pool.plan.options.window * pool.plan.options.samples_per_case))
        needed: Counter[str] = Counter()
        for epoch, number in itertools.product(range(2), range(windows)):
            needed.update(list(pool.plan.cases_in_window(epoch, number, pool.lanes)))
        ahead = Counter(list(pool.plan.cases_in_window(2, 0, pool.lanes)))
        assert needed <= brought <= needed + ahead


@given(st.fixed_dictionaries(OPTIONS), st.sampled_from([1, 2]))
def test_a_resident_pool_brings_each_volume_once_for_ever(
    coordinate_store: Path, options: dict[str, Any], world_size: int
) -> None:
    options["global_batch"] *= world_size
    with pool_of(coordinate_store, resident=True, rank=world_size - 1, world_size=world_size, **options) as pool:
        brought = walk(pool, 3)
        assert set(brought.values()) == {1}
        assert set(brought) <= set(pool.plan.cases_of(pool.lanes))
        if pool.plan.options.sticky or world_size == 1:
            assert set(brought) == set(pool.plan.cases_of(pool.lanes))
        pool.begin(1, 0)  # also after going back
        pool.volumes(pool.plan.batch(1, 0, pool.lanes))
        assert isinstance(pool.copies, RecordedCopies)
        assert Counter(pool.copies.images) == brought


def test_memory_that_is_being_read_is_not_overwritten(coordinate_store: Path) -> None:
    with pool_of(coordinate_store, resident=False, window=1, samples_per_case=1, global_batch=1) as pool:
        pool.begin(0, 0)
        steps = [pool.plan.batch(0, step, pool.lanes) for step in range(5)]
        (first,) = pool.volumes(steps[0])
        first.uploaded.result(10)
        reader: Future[None] = Future()
        reader.set_running_or_notify_cancel()
        first.add_reader(reader)
        volumes = [pool.volumes(samples)[0] for samples in steps[1:4]]
        held = first.image.clone()
        start, size = first.image.data_ptr(), first.image.nbytes
        over = [v for v in volumes if v.image.data_ptr() < start + size and start < v.image.data_ptr() + v.image.nbytes]
        assert over
        assert not wait([volume.uploaded for volume in over], timeout=0.2).done
        assert torch.equal(first.image, held)
        reader.set_result(None)
        for volume, samples in zip(volumes[-1:], steps[3:4], strict=True):
            volume.uploaded.result(10)
            assert np.array_equal(volume.image.numpy(), pool.store.case(samples[0].case_id).image())


@given(st.tuples(*[st.integers(-4, 8)] * 3), st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_tensors_are_cropped_as_arrays_are(position: Int3, shape: Int3, patch: Int3) -> None:
    position = tuple(min(p, side - 1) for p, side in zip(position, shape, strict=True))  # type: ignore[assignment]
    position = tuple(max(p, 1 - side) for p, side in zip(position, patch, strict=True))  # type: ignore[assignment]
    volume = np.arange(math.prod(shape) * 2, dtype=np.int16).reshape(*shape, 2) + np.int16(1)
    made = torch.full((*patch, 2), -1, dtype=torch.int16)
    crop_tensor(torch.from_numpy(volume), position, made)
    assert np.array_equal(made.numpy(), crop(volume, position, np.empty((*patch, 2), np.int16)))


# The loader -------------------------------------------------------------------------------------------------------


def config_of(store: Path, **changes: Any) -> LoaderConfig:
    """Ask for batches from a pool that has to rotate: two of five volumes fit."""
    settings: dict[str, Any] = {"patch": (12, 14, 16), "samples_per_case": 3, "window": 1, "batch_size": 1}
    return LoaderConfig(store=store, **(settings | {"crop": "device", "gpu_cache": "0.00018"} | changes))


def assert_same(left: Batch, right: Batch, tolerance: float, labels: float = 0.0) -> None:
    """Compare images, and labels but for a share ``labels`` of the voxels."""
    assert list(left.samples) == list(right.samples)
    torch.testing.assert_close(left.image.cpu(), right.image.cpu(), rtol=0, atol=tolerance)
    assert (left.label.cpu() != right.label.cpu()).float().mean() <= labels


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cache", ["0.00018", "auto"])
@pytest.mark.parametrize("augment", ["none", "basic", "full"])
def test_the_pool_delivers_what_the_host_path_does(
    coordinate_store: Path, augment: str, cache: str, device: str
) -> None:
    """Also boxes of rotated samples, over three epochs, so that volumes come and go."""
    config = config_of(coordinate_store, augment=augment, gpu_cache=cache, device=device)
    rounds = device == "gpu" and augment == "full"  # GPU and processor add coordinates up in another order
    tolerance, labels = (2e-3, 2e-3) if rounds else (1e-5, 0.0)
    with (
        build_loader("dali", config) as pooled,
        build_loader("dali", config_of(coordinate_store, augment=augment, crop="host", gpu_cache="auto")) as read,
    ):
        for _ in range(3):
            for left, right in zip(pooled, read, strict=True):
                assert_same(left, right, tolerance, labels)


@pytest.mark.parametrize("device", DEVICES)
def test_a_rotating_pool_restores_at_every_step(coordinate_store: Path, device: str) -> None:
    with build_loader("dali", config_of(coordinate_store, device=device)) as loader:
        whole, states = [], [loader.state_dict()]
        for batch in loader:
            whole.append(batch)
            states.append(loader.state_dict())
        for step, state in enumerate(states[:-1]):
            loader.load_state_dict(state)
            for left, right in zip(itertools.islice(loader, 2), whole[step:], strict=False):
                assert_same(left, right, 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_once_all_is_there_an_epoch_reads_nothing(coordinate_store: Path, device: str) -> None:
    with build_loader("dali", config_of(coordinate_store, gpu_cache="auto", device=device)) as loader:
        shapes = [loader.plan.store.case(case_id).shape_dhw for case_id in loader.plan.case_ids]
        stored = sum(math.prod(shape) * (4 + 1) for shape in shapes)  # four channels of uint8, and the label
        for _ in loader:
            pass
        assert loader.stages.read_bytes == stored
        for _ in loader:
            pass
        assert loader.stages.read_bytes == stored


def test_a_volume_forgets_copies_that_are_done() -> None:
    """One that stays for ever is read for ever."""
    done, waiting, uploaded = Future[None](), Future[None](), Future[None]()
    volume = PooledVolume(image=torch.empty(0), label=torch.empty(0), last_use=(0, 0), uploaded=uploaded)
    volume.add_reader(done)
    done.set_result(None)
    volume.add_reader(waiting)
    assert volume.readers == [waiting]


@pytest.mark.gpu
def test_the_pool_on_a_gpu_is_as_large_as_it_may_be(coordinate_store: Path) -> None:
    """What torch takes for it and for the slots; both rounded up to its own blocks."""
    before = torch.cuda.memory_allocated()
    with build_loader("dali", config_of(coordinate_store, device="gpu")) as loader:
        for _ in loader:
            pass
        slots = 5 * math.prod(loader.plan.options.patch) * (4 + 1)
        assert torch.cuda.memory_allocated() - before <= 0.00018 * GIB + slots + 2**20
    assert torch.cuda.memory_allocated() - before <= 2**20


@pytest.mark.parametrize("changes", [{}, {"gpu_cache": "auto"}])
def test_a_missing_volume_is_named_when_it_is_needed(
    coordinate_store: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    broken = shutil.copytree(coordinate_store, tmp_path / "broken")
    for image in broken.glob("*/case_002.image.npy"):
        image.unlink()
    with build_loader("dali", config_of(broken, **changes)) as loader:
        needed = next(step for step in range(len(loader)) if loader.plan.sample(0, step, 0).case_id == "case_002")
        seen: list[Batch] = []
        with pytest.raises(InputError, match=r"case_002.*missing or damaged"):
            seen.extend(loader)
        assert needed - 5 <= len(seen) <= needed  # batches in the making are lost, not more
