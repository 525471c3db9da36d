"""Bring patches from memory-mapped shards into a ring of reused buffers with a few threads."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipelines.plan import Int3, Plan, Sample
from pipelines.reference import Intensity, crop, intensity_of
from preprocessing.shards import Case, Store

Array = npt.NDArray[np.generic]
MAPS_PER_LANE = 2  # times the plan's window of cases: its end and the next one's beginning are read at the same time


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Reused memory for one batch of raw patches and their parameters: one array per sample in each list."""

    image: list[Array]
    label: list[npt.NDArray[np.uint8]]
    flips: list[npt.NDArray[np.int32]]
    statistics: list[npt.NDArray[np.float32]]
    shift: list[npt.NDArray[np.float32]]


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
        manifest = store.manifest
        self.store, self.plan, self.lanes = store, plan, lanes
        self._maps = functools.lru_cache(maxsize=MAPS_PER_LANE * plan.options.window * len(lanes))(self._open)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="voxelfeed-read")
        self._free = [
            _make_slot(plan.options.patch, len(manifest.channel_names), manifest.image_dtype, len(lanes), pinned)
            for _ in range(num_slots)
        ]
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
        crop(image, sample.position_dhw, slot.image[index])
        crop(label, sample.position_dhw, slot.label[index])
        slot.flips[index][:] = sample.flips_dhw
        slot.statistics[index][:] = _statistics(self._intensity(case), sample.scale)
        slot.shift[index][...] = sample.shift
        return time.perf_counter() - begin, slot.image[index].nbytes + slot.label[index].nbytes

    def _open(self, case_id: str) -> tuple[Case, Array, npt.NDArray[np.uint8]]:
        """Map a case. The maps of cases in use are kept: a new one for every patch means 400 page faults for each.

        (Those took 1 of 38 ms of processor time per patch, and slowed the copy down by another: 2 cores, 128^3 x 4
        int16, 2026-11-24.)
        """
        case = self.store.case(case_id)
        label = case.label()
        assert label is not None  # the plan draws from labelled cases only
        return case, case.image(), label

    def _intensity(self, case: Case) -> Intensity:
        return intensity_of(case, self.store.manifest)


def _make_slot(patch: Int3, num_channels: int, dtype: str, batch_size: int, pinned: bool) -> Slot:
    def arrays(shape: tuple[int, ...], kind: str) -> list[Array]:
        return [_zeros(shape, kind, pinned=pinned) for _ in range(batch_size)]

    return Slot(
        image=arrays((*patch, num_channels), dtype),
        label=arrays((*patch, 1), "uint8"),  # type: ignore[arg-type]
        flips=arrays((3,), "int32"),  # type: ignore[arg-type]
        statistics=arrays((4, num_channels), "float32"),  # type: ignore[arg-type]
        shift=arrays((), "float32"),  # type: ignore[arg-type]
    )


def _statistics(intensity: Intensity, scale: float) -> npt.NDArray[np.float32]:
    """Lay out what the graph's ``statistics`` input holds, the scale folded into the deviation."""
    return np.stack([intensity.mean, intensity.std / np.float32(scale), intensity.low, intensity.high])
