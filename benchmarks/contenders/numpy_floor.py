"""The yardstick: the plan's patches cut, flipped and standardised by plain numpy into reused buffers, nothing else."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from pipelines.batch import Batch, Loader, channels_first
from pipelines.config import LoaderConfig
from pipelines.plan import Plan, Sample
from pipelines.reference import Float, cut, intensity_of, make_sample, normalize
from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Array

Buffer = tuple[Float, npt.NDArray[np.uint8]]  # of a batch: image [N,d,h,w,C] and label [N,d,h,w,1]
BUFFERS = 3  # one in the consumer's hands, one ready, one being filled


class NumpyFloor(Loader):
    """Make each patch with one of ``num_threads`` threads."""

    def __init__(self, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> None:
        super().__init__(plan, rank, world_size)
        self.store = store
        shape, channels = (len(self.lanes), *config.patch), len(store.manifest.channel_names)
        self._free = [
            (np.zeros((*shape, channels), np.float32), np.zeros((*shape, 1), np.uint8)) for _ in range(BUFFERS)
        ]
        self._scratch = threading.local()
        self._pool = ThreadPoolExecutor(config.num_threads, thread_name_prefix="numpy-floor")

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:
        steps = iter(range(first_step, len(self)))
        pending: deque[tuple[Buffer, list[Sample], list[Future[None]]]] = deque()
        try:
            while True:
                for _, step in zip(range(len(self._free)), steps, strict=False):
                    pending.append(self._submit(self.plan.batch(epoch, step, self.lanes)))
                if not pending:
                    return
                buffer, samples, made = pending[0]
                for future in made:
                    future.result()
                image, label = (torch.from_numpy(part) for part in buffer)
                yield Batch(image=channels_first(image), label=channels_first(label), samples=samples)
                self._free.append(pending.popleft()[0])
        finally:
            for buffer, _, made in pending:
                for future in made:
                    if not future.cancel():
                        future.exception()
                self._free.append(buffer)

    def _submit(self, samples: list[Sample]) -> tuple[Buffer, list[Sample], list[Future[None]]]:
        buffer = self._free.pop()
        made = [self._pool.submit(self._make, *parts) for parts in zip(samples, *buffer, strict=True)]
        return buffer, samples, made

    def _make(self, sample: Sample, image: Float, label: npt.NDArray[np.uint8]) -> None:
        case = self.store.case(sample.case_id)
        label_volume, raw = case.label(), self._raw(image.shape)
        if sample.augmentation is not None:
            made = make_sample(case, sample, intensity_of(case, self.store.manifest), (raw, label), None)
            image[...], label[...] = made
            return
        assert label_volume is not None  # the plan draws from labelled cases only
        cut(label_volume, sample, label)
        cut(case.image(), sample, raw)
        normalize(raw, intensity_of(case, self.store.manifest), sample.scale, sample.shift, out=image)

    def _raw(self, shape: tuple[int, ...]) -> Array:
        """Return this thread's memory for a raw patch."""
        if not hasattr(self._scratch, "raw"):
            self._scratch.raw = np.zeros(shape, self.store.manifest.image_dtype)
        raw: Array = self._scratch.raw
        return raw

    def _release(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._free.clear()
