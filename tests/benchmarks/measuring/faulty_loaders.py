"""Loaders that are fast because they are wrong; importable, so that a measuring process can build them too."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Generator

import torch

from benchmarks.contenders.table import BY_PLAN, BY_SEARCH, Contender
from pipelines.batch import Batch, Loader
from pipelines.config import LoaderConfig
from pipelines.plan import Plan
from pipelines.workers.monai_loader import VARIANTS, MonaiLoader
from pipelines.workers.torch_loader import TorchLoader
from preprocessing.shards.store import Store


class FaultyLoader(TorchLoader):
    """Delivers what ``spoil`` makes of the right batch and the epoch's first one."""

    spoil: Callable[[Batch, Batch], Batch]

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:
        first = None
        for batch in super()._batches(epoch, first_step):
            first = first or batch
            yield type(self).spoil(batch, first)


class FaultyMonai(MonaiLoader):
    """The same for a loader that draws for itself."""

    spoil: Callable[[Batch, Batch], Batch]

    def __init__(self, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> None:
        super().__init__(store, plan, config, rank, world_size, VARIANTS["monai-cache"])

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:
        first = None
        for batch in super()._batches(epoch, first_step):
            first = first or batch.clone()
            yield type(self).spoil(batch, first)


class MonaiSameBatch(FaultyMonai):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return first


class MonaiMismatchedLabels(FaultyMonai):
    """Every label belongs to the patch before."""

    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return dataclasses.replace(batch, label=batch.label.roll(1, 0))


class MonaiFlippedLabel(FaultyMonai):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return dataclasses.replace(batch, label=batch.label.flip(4))


class MonaiUnnormalised(FaultyMonai):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return dataclasses.replace(batch, image=batch.image * 300 + 700)


class MonaiOneChannelUnnormalised(FaultyMonai):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        image = batch.image.clone()
        image[:, 1] *= 2
        return dataclasses.replace(batch, image=image)


class MonaiNoise(FaultyMonai):
    """Costs nothing to make and looks standardised."""

    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return dataclasses.replace(batch, image=torch.randn(batch.image.shape))


class MonaiNotANumber(FaultyMonai):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return dataclasses.replace(batch, image=batch.image * torch.nan)


class MonaiWrongCase(FaultyMonai):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return dataclasses.replace(batch, cases=batch.cases[::-1])


class MonaiOneCase(FaultyMonai):
    """Reads one case over and over, which stays in the processor's cache."""

    def __init__(self, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> None:
        super().__init__(store, plan, config, rank, world_size)
        self._numbers = dict.fromkeys(self._numbers, 0)

    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return batch


class SameBatch(FaultyLoader):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:
        return Batch(image=first.image, label=first.label, samples=batch.samples)


class RepeatedSamples(FaultyLoader):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return first


class MismatchedLabels(FaultyLoader):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return Batch(image=batch.image, label=batch.label.flip(2), samples=batch.samples)


class UnnormalisedImage(FaultyLoader):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return Batch(image=batch.image * 300 + 700, label=batch.label, samples=batch.samples)


class NotANumber(FaultyLoader):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return Batch(image=batch.image * torch.nan, label=batch.label, samples=batch.samples)


class HalfPrecision(FaultyLoader):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return Batch(image=batch.image.half(), label=batch.label, samples=batch.samples)


class SmallerPatch(FaultyLoader):
    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:  # noqa: ARG004
        return Batch(image=batch.image[..., 1:], label=batch.label[..., 1:], samples=batch.samples)


class StaleLater(FaultyLoader):
    """Right for as long as a check at the beginning looks."""

    @staticmethod
    def spoil(batch: Batch, first: Batch) -> Batch:
        return batch if batch.samples[0].step < 5 else SameBatch.spoil(batch, first)


def same_batch(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    return SameBatch(store, plan, config, rank, world_size)


def stale_later(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    return StaleLater(store, plan, config, rank, world_size)


def missing_file(store: Store, *_: object) -> Loader:
    raise FileNotFoundError(f"{store.root}/shard-00000/gone.npy")


def killed(*_: object) -> Loader:
    os._exit(9)


def faulty(name: str) -> Contender:
    """Return the row of a class above: one that draws its patches itself if it is MONAI's."""
    build = globals()[name]
    return Contender(name=name, build=build, checked=BY_SEARCH if issubclass(build, FaultyMonai) else BY_PLAN)


SAME_BATCH = Contender(name="same-batch", build=same_batch)
BROKEN_TABLE: dict[str, Contender] = {
    "same-batch": SAME_BATCH,
    "stale-later": Contender(name="stale-later", build=stale_later),
    "missing-file": Contender(name="missing-file", build=missing_file),
    "killed": Contender(name="killed", build=killed),
}
