"""What a run consists of: what it works with, what it changes, where it stands."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pipelines.batch import Loader
from preprocessing.shards.store import Store
from training.distributed.group import Group
from training.model.losses import Loss
from training.model.spec import ModelSpec
from training.trainer.timing import TimeSplit

log = logging.getLogger(__name__)


def random_state() -> dict[str, Any]:
    """Return the state of PyTorch's generators; data randomness lives in the plan and needs none.

    The GPU's only where this process uses one: asking would start CUDA.
    """
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Go back to a state that ``random_state`` returned."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed PyTorch (weights, dropout) and NumPy's global generator (some MONAI parts use it)."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """What the loop works with and does not change.

    ``left_out`` are the structures that no validation case has: they do not count in the mean that picks best.pt.
    ``val_every`` counts epochs; ``None`` is never.
    """

    folder: Path
    store: Store
    spec: ModelSpec
    validation_cases: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    epochs: int
    val_every: int | None
    group: Group
    amp: torch.dtype | None
    loss: Loss
    accumulate: int
    options: Mapping[str, Any]


@dataclass(kw_only=True)
class TrainState:
    """What training changes: all of it is saved. ``forward`` is ``network`` as the steps call it."""

    network: nn.Module
    forward: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    loader: Loader

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and kept: the average of the weights where there is one."""
        return self.network if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        """Return all of it; the same in every process."""
        average = {} if self.average is None else {"average": self.average.state_dict()}
        return average | {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loader": self.loader.state_dict(),
            "random": random_state(),
        }

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Go back to what ``state_dict`` returned."""
        self.loader.load_state_dict(content["loader"])  # first: it checks that the stream is the same
        self.network.load_state_dict(content["model"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(with_kernels_of(self.optimizer, content["optimizer"]))
        self.schedule.load_state_dict(content["schedule"])
        if content["scaler"]:  # empty where the run did not need one, on another device
            self.scaler.load_state_dict(content["scaler"])
        set_random_state(content["random"])


def with_kernels_of(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``saved`` state of an optimiser with ``optimizer``'s own choice of kernels, which is its device's."""
    groups = [
        group | {name: own[name] for name in ("fused",) if name in own}
        for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**saved, "param_groups": groups}


@dataclass(kw_only=True)
class Progress:
    """Where the run stands, as plain numbers; ``lines`` counts those of metrics.jsonl that belong to it.

    ``left_out`` are the structures that do not count in ``best_dice``.
    """

    epoch: int = 0
    step: int = 0
    lines: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_dice: float = -1.0
    best_epoch: int = -1
    left_out: list[str] = field(default_factory=list)
    epoch_split: dict[str, float] = field(default_factory=lambda: asdict(TimeSplit()))
