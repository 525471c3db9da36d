"""Read patches as fast as a storage of a given rate would let one: the measured points of the storage model."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.contenders.numpy_floor import NumpyFloor
from benchmarks.measuring.measure import endless
from pipelines.batch import Batch
from pipelines.config import LoaderConfig
from pipelines.loaders import open_plan
from pipelines.plan import Plan, Sample
from pipelines.reference import Float
from preprocessing.shards.store import Store


class TokenBucket:
    """Hands out bytes at a rate, in the order of asking, like a disk with one queue; idle time is not saved up."""

    def __init__(self, mb_per_s: float) -> None:
        self._seconds_per_byte = 1e-6 / mb_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, num_bytes: int) -> None:
        """Wait until ``num_bytes`` have been delivered."""
        time.sleep(max(self.done_at(num_bytes, time.perf_counter()) - time.perf_counter(), 0.0))

    def done_at(self, num_bytes: int, asked_at: float) -> float:
        """Return the second by which ``num_bytes`` asked for at ``asked_at`` are there; the next ones come after."""
        with self._lock:
            self._free_at = max(self._free_at, asked_at) + num_bytes * self._seconds_per_byte
            return self._free_at


class ThrottledFloor(NumpyFloor):
    """The numpy yardstick, whose threads wait for the bytes of each patch before they cut it."""

    def __init__(self, store: Store, plan: Plan, config: LoaderConfig, bucket: TokenBucket | None) -> None:
        super().__init__(store, plan, config, 0, 1)
        self._bucket, self._num_bytes = bucket, patch_bytes(store, config)

    def _make(self, sample: Sample, image: Float, label: npt.NDArray[np.uint8]) -> None:
        if self._bucket is not None:
            self._bucket.take(self._num_bytes)
        super()._make(sample, image, label)


def patch_bytes(store: Store, config: LoaderConfig) -> int:
    """Return the bytes of one patch as it lies in the store, image and label."""
    voxel = len(store.manifest.channel_names) * np.dtype(store.manifest.image_dtype).itemsize + 1
    return int(np.prod(config.patch)) * voxel


def measure_points(
    config: LoaderConfig, rates_mb_per_s: Sequence[float | None], runs: int, seconds: float
) -> list[list[float]]:
    """Return patches/s of every run at each rate; ``None`` does not throttle.

    Rounds: every rate once per round for ``seconds``, after a lead-in of half of that, so that noise hits all alike.
    """
    store, plan = open_plan(config)
    with contextlib.ExitStack() as stack:
        streams = []
        for rate in rates_mb_per_s:
            bucket = None if rate is None else TokenBucket(rate)
            streams.append(endless(stack.enter_context(ThrottledFloor(store, plan, config, bucket))))
        measured: list[list[float]] = [[] for _ in streams]
        for _ in range(runs):
            for stream, values in zip(streams, measured, strict=True):
                _patches_per_s(stream, seconds / 2)
                values.append(_patches_per_s(stream, seconds))
    return measured


def _patches_per_s(batches: Iterator[Batch], seconds: float) -> float:
    begin, patches = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begin) < seconds or not patches:
        patches += len(next(batches).image)
    return patches / elapsed
