"""The ``torch`` loader, and ``synthetic``, the ceiling that no real loader can pass.

``torch`` is the CPU-worker baseline: DataLoader workers that run the numpy reference on the same shards. ``synthetic``
repeats one fixed batch.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipelines.batch import Batch, Loader, StageSeconds, channels_first
from pipelines.config import LoaderConfig
from pipelines.plan import Plan, Sample
from pipelines.reference import intensity_of, make_sample
from preprocessing.console.errors import InputError
from preprocessing.shards.store import Store, open_store
from preprocessing.volumes.grid import Int3

Drawn = TypeVar("Drawn")
Made = tuple[torch.Tensor, torch.Tensor, float]


class SampleDataset(Dataset[Made]):
    """Makes the sample that a plan position names: image [D,H,W,C], label [D,H,W,1 or R], seconds spent.

    R is the number of ``regions``, of which the last is the map of the ignore label where there is one.
    Pickled, it holds the store's place instead of the store: workers that are not forked (macOS, Python 3.14) open it.
    """

    def __init__(self, store: Store, patch: Int3, regions: tuple[tuple[int, ...], ...] | None) -> None:
        self.store, self.patch, self.regions = store, patch, regions
        self._buffers: tuple[np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Say where the store is and what to make of it."""
        return {"store": self.store.root, "patch": self.patch, "regions": self.regions}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the store in this process."""
        SampleDataset.__init__(self, open_store(state["store"]), state["patch"], state["regions"])

    def __getitem__(self, sample: Sample) -> Made:
        """Make one sample."""
        begin = time.perf_counter()
        manifest, patch = self.store.manifest, self.patch
        if self._buffers is None:  # once per worker process
            image = np.empty((*patch, len(manifest.channel_names)), manifest.image_dtype)
            self._buffers = image, np.empty((*patch, 1), np.uint8)
        case = self.store.case(sample.case_id)
        made = make_sample(case, sample, intensity_of(case, manifest), self._buffers, self.regions)
        return torch.from_numpy(made[0]), torch.from_numpy(made[1]), time.perf_counter() - begin


class Todo(Generic[Drawn]):
    """The batches that a DataLoader is to make, worked out as it asks for them: an epoch may have 100,000."""

    def __init__(self) -> None:
        self.batches: Iterator[list[Drawn]] = iter(())

    def __iter__(self) -> Iterator[list[Drawn]]:
        """Go through the batches that are left."""
        return self.batches


class TorchLoader(Loader):
    """Hand plan samples to a DataLoader tuned as PyTorch documents: persistent workers, prefetch, pinned memory."""

    def __init__(self, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> None:
        super().__init__(plan, rank, world_size)
        self.device = torch.device("cpu" if config.device == "cpu" else "cuda")
        self.dtype = torch.float16 if config.dtype == "float16" else torch.float32
        self._todo: Todo[Sample] = Todo()
        workers = config.num_workers
        self._loader = DataLoader(
            SampleDataset(store, config.patch, config.region_numbers(store)),
            batch_sampler=self._todo,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=2 if workers else None,
            pin_memory=self.device.type == "cuda",
        )

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:
        steps = range(first_step, len(self))
        plan, lanes = self.plan, self.lanes  # not self: in a cycle with its DataLoader, ending the workers takes 10 s
        self._todo.batches, drawn = itertools.tee(plan.batch(epoch, step, lanes) for step in steps)
        with self.stages.waiting("preprocessing_s"):
            made = iter(self._loader)
        for _ in steps:
            with self.stages.waiting("preprocessing_s"):
                image, label, seconds = next_of(made)
                samples = next(drawn)  # after the DataLoader has asked for them
            self.stages.graph_s += float(seconds.sum())
            image, label = move(image, label, self.device, self.dtype, self.stages)
            yield Batch(image=channels_first(image), label=channels_first(label), samples=samples)

    def _release(self) -> None:
        end_workers(self._loader)


def next_of(made: Iterator[Any]) -> Any:
    """Take the next batch; an ``InputError`` of a worker process is the line it was, with the worker's as its cause.

    torch sends it as "Caught InputError in DataLoader worker process 0." and the worker's traceback, the last line of
    which is the error itself; exceptions of other kinds are left so, for a traceback is what they need.
    """
    try:
        return next(made)
    except InputError as error:
        _, found, line = str(error).rpartition(f"{InputError.__module__}.{InputError.__name__}: ")
        if not found:
            raise
        raise InputError(line.strip()) from error


def move(
    image: torch.Tensor, label: torch.Tensor, device: torch.device, dtype: torch.dtype, stages: StageSeconds
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring a batch to the device, the image in ``dtype``; on a GPU the wait for it is transfer, else it is work."""
    on_gpu = device.type == "cuda"
    with stages.waiting("transfer_s" if on_gpu else "preprocessing_s", on_gpu=on_gpu):
        return image.to(device, dtype, non_blocking=True), label.to(device, non_blocking=True)


def end_workers(loader: DataLoader[Any]) -> None:
    """End a DataLoader's persistent workers, for which it has no public way."""
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None and hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()  # noqa: SLF001
    loader._iterator = None  # noqa: SLF001


class SyntheticLoader(Loader):
    """Deliver the plan's first batch again and again, made once by the numpy reference."""

    def __init__(self, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> None:
        super().__init__(plan, rank, world_size)

        with TorchLoader(store, plan, config.without_workers(), rank, world_size) as loader:
            self.batch: Batch = next(iter(loader))

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:  # noqa: ARG002  # every epoch is the same
        for _ in range(first_step, len(self)):
            yield self.batch
