"""The training loop: step, validate, save, and stop at any moment so that the same command goes on exactly there."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.batch import Batch, Loader
from preprocessing.errors import RunError
from preprocessing.shards import Store
from training.checkpoint import BEST, LAST, random_state, save_checkpoint, set_random_state
from training.inference import ModelSpec
from training.precision import autocast
from training.progress import ProgressLine
from training.record import append_metrics
from training.stop import Stopped, StopRequest
from training.timing import Split, StepTimer
from training.validate import mean_scores, validate

log = logging.getLogger(__name__)
SAVE_EVERY_S = 600.0  # an epoch over tens of thousands of cases takes hours; a kill costs ten minutes at most
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the loop works with and does not change."""

    folder: Path
    store: Store
    spec: ModelSpec
    validation_cases: tuple[str, ...]
    epochs: int
    val_every: int
    device: torch.device
    amp: torch.dtype | None
    loss: LossFunction
    options: Mapping[str, Any]


@dataclass(kw_only=True)
class Learned:
    """What training changes: all of it is saved."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    loader: Loader


@dataclass(kw_only=True)
class Progress:
    """Where the run stands, as plain numbers; ``lines`` counts those of metrics.jsonl that belong to it."""

    epoch: int = 0
    step: int = 0
    lines: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_dice: float = -1.0
    best_epoch: int = -1
    epoch_split: dict[str, float] = field(default_factory=lambda: asdict(Split()))


class Training:
    """A run under way."""

    def __init__(self, setup: Setup, learned: Learned, stop: StopRequest) -> None:
        self.setup, self.learned, self.stop = setup, learned, stop
        self.progress = Progress()
        self.timer = StepTimer(learned.loader.stages, setup.device)
        self.line = ProgressLine(setup.epochs * len(learned.loader))
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Train to the last epoch; raises ``Stopped`` after saving when a signal asks for it."""
        setup, progress = self.setup, self.progress
        try:
            with self.line:
                while progress.epoch < setup.epochs:
                    self._train_epoch()
                    self._finish_epoch()
        except Stopped:
            self.save()
            raise

    def _train_epoch(self) -> None:
        """Take the steps of the current epoch that are still to be taken."""
        loader, progress = self.learned.loader, self.progress
        if progress.loss_steps == len(loader):
            return  # stopped while validating
        self.learned.network.train()
        self.timer.start()
        for batch in loader:
            self.timer.batch_arrived()
            loss = self._step(batch)
            self.timer.stepped()
            if not math.isfinite(loss):
                raise RunError(f"the loss is {loss} at step {progress.step}; lower --lr, or use --amp off if it was on")
            progress.loss_sum += loss
            progress.loss_steps += 1
            progress.step += 1
            self.line.advance(loss, len(batch.samples), self.timer.split)
            self.stop.check()
            if time.monotonic() - self._saved_at > SAVE_EVERY_S:
                self.save()

    def _step(self, batch: Batch) -> float:
        learned, setup = self.learned, self.setup
        image = batch.image.to(setup.device, non_blocking=True)
        label = batch.label.to(setup.device, non_blocking=True)
        self.timer.transferred()
        with autocast(setup.device, setup.amp):
            logits = learned.network(image)
        loss = setup.loss(logits.float(), label)
        learned.optimizer.zero_grad(set_to_none=True)
        learned.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        learned.scaler.unscale_(learned.optimizer)
        nn.utils.clip_grad_norm_(learned.network.parameters(), max_norm=12.0)  # nnU-Net's bound
        learned.scaler.step(learned.optimizer)
        learned.scaler.update()
        learned.schedule.step()
        return float(loss.detach())

    def _finish_epoch(self) -> None:
        """Validate when it is due, write the epoch's line, save."""
        progress, setup = self.progress, self.setup
        due = (progress.epoch + 1) % setup.val_every == 0 or progress.epoch + 1 == setup.epochs
        begin = time.perf_counter()
        dice = self._validate() if due else {}
        split = self._collect_split()
        line = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "loss": progress.loss_sum / max(progress.loss_steps, 1),
            "lr": self.learned.optimizer.param_groups[0]["lr"],
            "dice": dice or None,
            "patches_per_s": split.steps * len(self.learned.loader.lanes) / split.wall_s if split.wall_s else 0.0,
            "waiting": split.waiting,
            "split": asdict(split),
            "validation_s": time.perf_counter() - begin if due else 0.0,
        }
        append_metrics(setup.folder, line)
        progress.lines += 1
        progress.epoch += 1
        progress.loss_sum, progress.loss_steps, progress.epoch_split = 0.0, 0, asdict(Split())
        self.save()
        self.line.tell(line)
        if progress.epoch < setup.epochs:
            self.stop.check()

    def _validate(self) -> dict[str, float]:
        setup, progress = self.setup, self.progress
        scores = validate(
            self.learned.network,
            setup.store,
            setup.validation_cases,
            setup.spec,
            setup.amp,
            on_case=self.stop.check,
        )
        means = mean_scores(scores)
        if means["mean"] > progress.best_dice:
            progress.best_dice, progress.best_epoch = means["mean"], progress.epoch
            content = {"model": self.learned.network.state_dict(), "epoch": progress.epoch + 1, "dice": means}
            save_checkpoint(setup.folder / "checkpoints" / BEST, self._described(content))
        return means

    def _collect_split(self) -> Split:
        """Return the time split of the epoch, with what a stopped process had booked before."""
        return Split(**self.progress.epoch_split).plus(self.timer.take())  # type: ignore[arg-type]

    def _described(self, content: dict[str, Any]) -> dict[str, Any]:
        return {**content, "spec": self.setup.spec.to_plain(), "options": dict(self.setup.options)}

    def save(self) -> None:
        """Write ``last.pt``: everything that going on needs."""
        learned = self.learned
        self.progress.epoch_split = asdict(self._collect_split())
        content = {
            "model": learned.network.state_dict(),
            "optimizer": learned.optimizer.state_dict(),
            "schedule": learned.schedule.state_dict(),
            "scaler": learned.scaler.state_dict(),
            "loader": learned.loader.state_dict(),
            "random": random_state(),
            "progress": asdict(self.progress),
        }
        save_checkpoint(self.setup.folder / "checkpoints" / LAST, self._described(content))
        self._saved_at = time.monotonic()

    def load(self, content: Mapping[str, Any]) -> None:
        """Go on from what ``save`` wrote."""
        learned = self.learned
        learned.loader.load_state_dict(content["loader"])  # first: it checks that the stream is the same
        learned.network.load_state_dict(content["model"])
        learned.optimizer.load_state_dict(content["optimizer"])
        learned.schedule.load_state_dict(content["schedule"])
        learned.scaler.load_state_dict(content["scaler"])
        set_random_state(content["random"])
        self.progress = Progress(**content["progress"])
        self.line.start_at(self.progress.step)
