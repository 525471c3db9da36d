"""The ``synthetic`` loader: one fixed batch for ever, the ceiling that no real loader can pass."""

from __future__ import annotations

from collections.abc import Generator

from pipelines.batch import Batch, Loader
from pipelines.config import LoaderConfig
from pipelines.plan import Plan
from preprocessing.shards import Store


class SyntheticLoader(Loader):
    """Deliver the plan's first batch again and again, made once by the numpy reference."""

    def __init__(self, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> None:
        super().__init__(plan, rank, world_size)
        from pipelines.torch_loader import TorchLoader

        with TorchLoader(store, plan, config.without_workers(), rank, world_size) as loader:
            self.batch: Batch = next(iter(loader))

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:  # noqa: ARG002  # every epoch is the same
        for _ in range(first_step, len(self)):
            yield self.batch
