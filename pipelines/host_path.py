"""Bring patches from memory-mapped shards into a ring of reused buffers with a few threads."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipelines.graph_inputs import InputSpec, fill_augmentation, input_specs, statistics
from pipelines.plan import Plan, Sample
from pipelines.reference import crop, cut, intensity_of
from pipelines.spatial import Placement, place
from preprocessing.shards import Case, Store

Array = npt.NDArray[np.generic]
MAPS_PER_LANE = 2  # times the plan's window of cases: its end and the next one's beginning are read at the same time


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Reused memory for one batch: for each input of the graph one array per sample.

    ``fed`` is what the graph gets, ``buffers`` what belongs to the slot. They differ where a sample that is rotated or
    scaled feeds its whole mapped volume, of which the graph reads a box, and where a sample has no noise.
    """

    buffers: dict[str, list[Array]]
    fed: dict[str, list[Array]]


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A slot that holds the patches of ``samples``."""

    slot: Slot
    samples: list[Sample]
    read_s: float
    read_bytes: int


def _zeros(shape: tuple[int, ...], dtype: str, *, pinned: bool) -> Array:
    """Allocate and touch memory once; pinned memory goes to a GPU without a staging copy."""
    if pinned:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return torch.zeros(size, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape)
    array = np.empty(shape, dtype=dtype)
    array.fill(0)
    return array


class HostPath:
    """Fill slots ahead of the consumer, in order.

    ``submit(epoch, step)`` starts a fill as long as a slot is free, ``take()`` waits for the oldest, ``give_back()``
    returns a slot whose bytes nobody needs any more. An exception in a thread comes out of ``take()``.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        lanes: Sequence[int],
        *,
        num_slots: int,
        num_threads: int,
        pinned: bool,
    ) -> None:
        manifest, options = store.manifest, plan.options
        specs = input_specs(options.augment, options.patch, plan.num_channels, manifest.image_dtype)
        self.store, self.plan, self.lanes = store, plan, lanes
        self._maps = functools.lru_cache(maxsize=MAPS_PER_LANE * plan.options.window * len(lanes))(self._open)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="voxelfeed-read")
        self._free = [_make_slot(specs, len(lanes), pinned=pinned) for _ in range(num_slots)]
        self._pending: deque[tuple[Slot, list[Sample], list[Future[tuple[float, int]]]]] = deque()

    @property
    def has_free_slot(self) -> bool:
        """Whether ``submit`` can start another fill."""
        return bool(self._free)

    @property
    def num_pending(self) -> int:
        """Fills that were started and not yet taken."""
        return len(self._pending)

    def submit(self, epoch: int, step: int) -> None:
        """Start filling a free slot with the samples of one step."""
        slot = self._free.pop()
        samples = self.plan.batch(epoch, step, self.lanes)
        fills = [self._pool.submit(self._fill, slot, index, sample) for index, sample in enumerate(samples)]
        self._pending.append((slot, samples, fills))

    def take(self) -> Filled:
        """Wait for the oldest fill and return it; raises what its threads raised."""
        slot, samples, fills = self._pending.popleft()
        try:
            costs = [fill.result() for fill in fills]
        except BaseException:
            self._settle(slot, fills)
            raise
        return Filled(slot=slot, samples=samples, read_s=sum(s for s, _ in costs), read_bytes=sum(n for _, n in costs))

    def empty_slots(self, count: int) -> list[Slot]:
        """Lend ``count`` slots as they are; ``give_back`` returns them."""
        return [self._free.pop() for _ in range(count)]

    def give_back(self, slot: Slot) -> None:
        """Let ``slot`` be filled again."""
        self._free.append(slot)

    def abandon(self) -> None:
        """Wait for the fills under way and take all their slots back."""
        while self._pending:
            slot, _, fills = self._pending.popleft()
            self._settle(slot, fills)

    def close(self) -> None:
        """End the threads and drop the buffers."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        self._free.clear()
        self._maps.cache_clear()

    def _settle(self, slot: Slot, fills: list[Future[tuple[float, int]]]) -> None:
        for fill in fills:
            if not fill.cancel():
                fill.exception()
        self._free.append(slot)

    def _fill(self, slot: Slot, index: int, sample: Sample) -> tuple[float, int]:
        begin = time.perf_counter()
        case, image, label = self._maps(sample.case_id)
        patches = slot.buffers["image"][index], slot.buffers["label"][index]
        placement = None
        if sample.augmentation is not None and sample.augmentation.is_spatial:
            placement = place(sample, sample.augmentation, self.plan.options.patch, case.shape_dhw)
            patches, placement = _readable(image, label, patches[0].dtype, placement)
        else:
            cut(image, sample, patches[0])
            cut(label, sample, patches[1])
        slot.fed["image"][index], slot.fed["label"][index] = patches
        intensity = intensity_of(case, self.store.manifest)
        slot.fed["statistics"][index][...] = statistics(intensity, sample.scale, sample.shift)
        if sample.augmentation is not None:
            fill_augmentation(slot.fed, index, sample, placement, slot.buffers["noise"][index])
        return time.perf_counter() - begin, _num_bytes(patches, placement)

    def _open(self, case_id: str) -> tuple[Case, Array, npt.NDArray[np.uint8]]:
        """Map a case. The maps of cases in use are kept: a new one for every patch means 400 page faults for each.

        (Those took 1 of 38 ms of processor time per patch, and slowed the copy down by another: 2 cores, 128^3 x 4
        int16, 2026-11-24.)
        """
        case = self.store.case(case_id)
        label = case.label()
        assert label is not None  # the plan draws from labelled cases only
        return case, case.image(), label


def _readable(
    image: Array, label: npt.NDArray[np.uint8], dtype: np.dtype[np.generic], placement: Placement
) -> tuple[tuple[Array, Array], Placement]:
    """Return what the graph can read the box from: the mapped volumes, or a copy of the box where dtypes differ."""
    if image.dtype == dtype:
        return (image, label), placement
    box = np.empty((*placement.shape_dhw, image.shape[3]), dtype)
    box_label = np.empty((*placement.shape_dhw, 1), np.uint8)
    start = placement.start_dhw
    copied = Placement(start_dhw=(0, 0, 0), shape_dhw=placement.shape_dhw, matrix=placement.matrix)
    return (crop(image, start, box), crop(label, start, box_label)), copied


def _num_bytes(patches: tuple[Array, Array], placement: Placement | None) -> int:
    if placement is None:
        return patches[0].nbytes + patches[1].nbytes
    voxel = patches[0].shape[3] * patches[0].itemsize + 1
    return math.prod(placement.shape_dhw) * int(voxel)


def _make_slot(specs: dict[str, InputSpec], batch_size: int, *, pinned: bool) -> Slot:
    buffers = {
        name: [_zeros(spec.shape, spec.dtype, pinned=pinned) for _ in range(batch_size)] for name, spec in specs.items()
    }
    return Slot(buffers=buffers, fed={name: list(arrays) for name, arrays in buffers.items()})
