"""Keep whole volumes in one bounded buffer of the device: each is copied once per window of the plan, or once and kept.

The buffer is a ring: stretches are handed out and taken back in the same order, so that memory cannot fall into pieces.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.dali.device_copy import DeviceCopies, torch_dtype
from pipelines.dali.pool_budget import Budget, aligned, volume_bytes
from pipelines.plan import Plan, Sample
from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Int3

UPLOAD_THREADS = 2  # one fills its staging buffer while the other's is on the bus
Moment = tuple[int, int]  # epoch and step
Key = tuple[int, str]  # the window, counted over the epochs, and the case id; window 0 for all where volumes stay


class ByteRing:
    """The stretches of a buffer of ``size_bytes`` that are out, oldest first.

    A stretch never wraps around the end, so up to its size less one may be wasted there: what is out at a time always
    fits when the buffer holds it and one stretch more. Example with 10 bytes, of which 4 and 4 are out: when the
    first 4 come back, 3 do not fit behind the others (2 are left there) and start at 0.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._out: deque[tuple[int, int]] = deque()  # first byte, and the first behind

    def take(self, num_bytes: int) -> int | None:
        """Return the first byte of a stretch, or ``None`` when there is no room now."""
        first = self._room(num_bytes)
        if first is not None:
            self._out.append((first, first + num_bytes))
        return first

    def give_back_oldest(self) -> None:
        """Take the oldest stretch back."""
        self._out.popleft()

    def _room(self, num_bytes: int) -> int | None:
        if not self._out:
            return 0 if num_bytes <= self.size_bytes else None
        oldest, (newest, behind) = self._out[0][0], self._out[-1]
        if newest < oldest:  # the newest lies before the oldest: the only room is between them
            return behind if behind + num_bytes <= oldest else None
        if behind + num_bytes <= self.size_bytes:
            return behind
        return 0 if num_bytes <= oldest else None


@dataclass(eq=False, kw_only=True)
class PooledVolume:
    """A case in the pool: ``image`` [D,H,W,C] and ``label`` [D,H,W,1] are valid once ``uploaded`` is done.

    Its memory is free again when the plan is past ``last_use`` and every one of ``readers`` is done.
    """

    image: torch.Tensor
    label: torch.Tensor
    last_use: Moment
    uploaded: Future[None]
    readers: list[Future[Any]] = field(default_factory=list)

    def add_reader(self, reader: Future[Any]) -> None:
        """Note a copy from the volume; those that are done are forgotten."""
        self.readers = [*(earlier for earlier in self.readers if not earlier.done()), reader]


class VolumePool:
    """Upload volumes in the order in which the plan needs them, as far ahead as there is room, at most a window.

    The buffer is a ring: the oldest volume leaves first, once no step to come needs it and no copy from it goes on.
    Everything but the copies happens in the consumer's thread, so order and memory depend on the plan alone.
    """

    def __init__(self, store: Store, plan: Plan, lanes: Sequence[int], budget: Budget, copies: DeviceCopies) -> None:
        self.store, self.plan, self.lanes = store, plan, lanes
        self.budget, self.copies = budget, copies
        self._dtype = torch_dtype(store.manifest.image_dtype)
        self._memory = torch.empty(budget.size_bytes, dtype=torch.uint8, device=copies.device)
        self._ring = ByteRing(budget.size_bytes)
        self._held: dict[Key, PooledVolume] = {}  # oldest first
        self._leaving: list[Future[Any]] = []  # copies from and to volumes that were dropped
        self._costs: deque[tuple[float, int]] = deque()
        self._threads = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="voxelfeed-upload")
        self._steps_per_window = plan.options.window * plan.options.samples_per_case
        self._windows_per_epoch = -(-plan.steps_per_epoch // self._steps_per_window)
        self._coming: deque[tuple[int, str, Moment]] = deque()  # window, case and last use of what to fetch next
        self._next_window = 0
        self._expected: Moment = (-1, -1)

    def begin(self, epoch: int, step: int) -> None:
        """Say that this step comes next. Unless it was to be expected, only volumes that always stay are kept."""
        if (epoch, step) == self._expected:
            return
        while self._held and not self.budget.is_resident:
            self._drop_oldest()
        self._coming.clear()
        self._next_window = self._window_of((epoch, step))
        self._expected = (epoch, step)

    def volumes(self, samples: Sequence[Sample]) -> list[PooledVolume]:
        """Return the volume of each sample of the step that comes next, on the device or on its way there."""
        now = samples[0].epoch, samples[0].step
        assert now == self._expected  # begin() says so
        keys = [self._key(self._window_of(now), sample.case_id) for sample in samples]
        while not all(key in self._held for key in keys):
            fetched = self._fetch(now)
            assert fetched  # the budget holds any window
        for _ in keys:  # no more at a time, so that uploads do not come in bursts
            if not self._fetch(now):
                break
        epoch, step = now
        self._expected = (epoch, step + 1) if step + 1 < self.plan.steps_per_epoch else (epoch + 1, 0)
        return [self._held[key] for key in keys]

    def take_costs(self) -> tuple[float, int]:
        """Return the seconds and bytes of the uploads that ended since the last call."""
        costs = [self._costs.popleft() for _ in range(len(self._costs))]
        return sum(seconds for seconds, _ in costs), sum(size for _, size in costs)

    def close(self) -> None:
        """End the threads and free the memory."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._held.clear()
        self._memory = torch.empty(0)

    def _window_of(self, moment: Moment) -> int:
        return moment[0] * self._windows_per_epoch + moment[1] // self._steps_per_window

    def _key(self, window: int, case_id: str) -> Key:
        return 0 if self.budget.is_resident else window, case_id

    def _fetch(self, now: Moment) -> bool:
        """Fetch the next volume of the plan; returns whether there was room, and the volume is not too far ahead."""
        if not self._coming:
            self._look_ahead()
        window, case_id, last_use = self._coming[0]
        if window > self._window_of(now) + 1:
            return False
        held = self._held.get(self._key(window, case_id))
        if held is not None:
            held.last_use = last_use
        else:
            shape = self.store.case(case_id).shape_dhw
            first = self._make_room(volume_bytes(shape, self.plan.num_channels, self._dtype.itemsize), now)
            if first is None:
                return False
            self._held[self._key(window, case_id)] = self._bring(case_id, first, shape, last_use)
        self._coming.popleft()
        return True

    def _look_ahead(self) -> None:
        """List the volumes of the next window; those that its remaining steps need, where it has begun."""
        epoch, number = divmod(self._next_window, self._windows_per_epoch)
        for case_id, last_step in self.plan.cases_in_window(epoch, number, self.lanes).items():
            if (epoch, last_step) >= self._expected:
                self._coming.append((self._next_window, case_id, (epoch, last_step)))
        self._next_window += 1

    def _make_room(self, num_bytes: int, now: Moment) -> int | None:
        first = self._ring.take(num_bytes)
        while first is None and self._held and next(iter(self._held.values())).last_use < now:
            self._drop_oldest()
            first = self._ring.take(num_bytes)
        return first

    def _drop_oldest(self) -> None:
        dropped = self._held.pop(next(iter(self._held)))
        self._ring.give_back_oldest()
        self._leaving += [dropped.uploaded, *dropped.readers]

    def _bring(self, case_id: str, first: int, shape: Int3, last_use: Moment) -> PooledVolume:
        """Start the upload of a case to ``first`` in the buffer, behind all copies that may still read there."""
        self._leaving = [copy for copy in self._leaving if not copy.done()]
        voxels, channels = math.prod(shape), self.plan.num_channels
        image_bytes = voxels * channels * self._dtype.itemsize
        second = first + aligned(image_bytes)
        image = self._memory[first : first + image_bytes].view(self._dtype).view(*shape, channels)
        label = self._memory[second : second + voxels].view(*shape, 1)
        uploaded = self._threads.submit(self._upload, case_id, (image, label), list(self._leaving))
        return PooledVolume(image=image, label=label, last_use=last_use, uploaded=uploaded)

    def _upload(self, case_id: str, targets: tuple[torch.Tensor, torch.Tensor], before: list[Future[Any]]) -> None:
        wait(before)
        begin = time.perf_counter()
        case = self.store.case(case_id)
        label = case.label()
        assert label is not None  # the plan draws from labelled cases only
        for source, target in zip((case.image(), label), targets, strict=True):
            self.copies.upload(source, target)
        self._costs.append((time.perf_counter() - begin, sum(target.nbytes for target in targets)))
