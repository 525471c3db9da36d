"""A ring of reused slots, each with the graph's inputs for one batch, that threads fill ahead of the consumer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.augment.placement import Placement, place
from pipelines.dali.device_copy import use_device
from pipelines.dali.inputs import InputSpec, fill_augmentation, statistics
from pipelines.plan import Plan, Sample
from pipelines.reference import intensity_of
from preprocessing.shards.case import Case
from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Array

Cost = tuple[float, int]  # seconds, and bytes read


@dataclass(kw_only=True)
class Slot:
    """Reused memory for one batch, by input of the graph.

    ``fed`` is what the graph gets, one array (or tensor on the device) per sample, or DALI's own list of them;
    ``buffers`` is what belongs to the slot. On a GPU the slot is free again once the device has passed ``released``.
    """

    buffers: dict[str, list[Any]]
    fed: dict[str, Any]
    released: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Wait until the device is done with what the slot held before."""
        if self.released is not None:
            self.released.synchronize()


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A slot that holds the patches of ``samples``."""

    slot: Slot
    samples: list[Sample]
    read_s: float
    read_bytes: int


def make_slot(buffers: dict[str, list[Any]]) -> Slot:
    """Make a slot that feeds its own buffers until something else is put in their place."""
    return Slot(buffers=buffers, fed={name: list(arrays) for name, arrays in buffers.items()})


def host_buffers(spec: InputSpec, batch_size: int, *, pinned: bool) -> list[Array]:
    """Allocate one buffer per sample and touch it once; pinned memory goes to a GPU without a staging copy."""
    return [_zeros(spec.shape, spec.dtype, pinned=pinned) for _ in range(batch_size)]


def _zeros(shape: tuple[int, ...], dtype: str, *, pinned: bool) -> Array:
    if pinned:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return torch.zeros(size, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape)
    array = np.empty(shape, dtype=dtype)
    array.fill(0)
    return array


class SlotRing(ABC):
    """Fill slots ahead of the consumer, in order.

    ``begin(epoch, step)`` says what comes first, ``submit(epoch, step)`` starts a fill as long as a slot is free,
    ``take()`` waits for the oldest, ``give_back()`` returns a slot whose bytes nobody needs any more. An exception in a
    thread comes out of ``take()``.

    A step's samples are drawn while the step before it is filled, in a thread of their own: the first sample of a case
    reads its foreground voxels and its shard's index.

    ``device`` is the graph's. ``raw_patches`` says whether the graph has to flip, ``patch_device`` (``cpu`` or ``gpu``)
    where it finds patches.
    """

    raw_patches: bool
    patch_device: str

    def __init__(
        self,
        store: Store,
        plan: Plan,
        lanes: Sequence[int],
        slots: Sequence[Slot],
        *,
        num_threads: int,
        device: torch.device,
    ) -> None:
        self.store, self.plan, self.lanes = store, plan, lanes
        self._threads = ThreadPoolExecutor(num_threads, "voxelfeed-read", use_device, (device,))
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="voxelfeed-draw")
        self._drawn: tuple[tuple[int, int], Future[list[Sample]]] | None = None
        self._free = list(slots)
        self._pending: deque[tuple[Slot, list[Sample], list[Future[Cost]]]] = deque()

    @property
    def has_free_slot(self) -> bool:
        """Whether ``submit`` can start another fill."""
        return bool(self._free)

    @property
    def num_pending(self) -> int:
        """Fills that were started and not yet taken."""
        return len(self._pending)

    def begin(self, epoch: int, step: int) -> None:  # noqa: B027  # whoever needs no preparation leaves it as it is
        """Say that this step is submitted next, and then one after the other."""

    def submit(self, epoch: int, step: int) -> None:
        """Start filling a free slot with the samples of one step."""
        samples = self._draw(epoch, step)
        fills = self._start(self._free[-1], samples)
        self._pending.append((self._free.pop(), samples, fills))

    def _draw(self, epoch: int, step: int) -> list[Sample]:
        """Return the samples of a step, and have those of the next one drawn meanwhile."""
        drawn, self._drawn = self._drawn, None
        expected = drawn is not None and drawn[0] == (epoch, step)
        samples = drawn[1].result() if drawn is not None and expected else self.plan.batch(epoch, step, self.lanes)
        if step + 1 < self.plan.steps_per_epoch:
            coming = epoch, step + 1
            self._drawn = coming, self._drawing.submit(self.plan.batch, *coming, self.lanes)
        return samples

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
        self._drawing.shutdown(wait=True, cancel_futures=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        self._free.clear()

    def _settle(self, slot: Slot, fills: list[Future[Cost]]) -> None:
        for fill in fills:
            if not fill.cancel():
                fill.exception()
        self._free.append(slot)

    @abstractmethod
    def _start(self, slot: Slot, samples: list[Sample]) -> list[Future[Cost]]:
        """Start one fill for each sample."""

    def _place(self, sample: Sample, case: Case) -> Placement | None:
        """Return the box to read for a sample that moves."""
        if sample.augmentation is None or not sample.augmentation.is_spatial:
            return None
        return place(
            sample.augmentation, sample.position_dhw, sample.flips_dhw, self.plan.options.patch, case.shape_dhw
        )

    def _fill_parameters(self, slot: Slot, index: int, sample: Sample, case: Case, placement: Placement | None) -> None:
        """Fill every input of one sample but its patches."""
        intensity = intensity_of(case, self.store.manifest)
        slot.fed["statistics"][index][...] = statistics(intensity, sample.scale, sample.shift)
        if "flips" in slot.fed:
            slot.fed["flips"][index][...] = sample.flips_dhw if placement is None else False
        if sample.augmentation is not None:
            fill_augmentation(slot.fed, index, sample, placement, slot.buffers["noise"][index])
