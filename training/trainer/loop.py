"""The training loop: step, validate, save; stop at any moment, and continue exactly there with the same command."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from preprocessing.console.errors import RunError
from training.inference.scores import VALIDATED, average, by_structure, count_cases
from training.model.checkpoint import BEST, LAST, PREVIOUS, save_checkpoint
from training.model.compute import format_name
from training.trainer.progress import ProgressLine
from training.trainer.record import Board, append_metrics, without_nan
from training.trainer.state import Progress, RunSetup, TrainState
from training.trainer.step import take_step
from training.trainer.stop import Stopped, StopRequest
from training.trainer.timing import StepTimer, TimeSplit
from training.trainer.validate import ValidationOptions, validate

log = logging.getLogger(__name__)
SAVE_EVERY_S = 600.0  # an epoch over tens of thousands of cases takes hours; a kill costs ten minutes at most
MOST_INFINITE = 10  # in a row, with float16: GradScaler leaves such a step out and halves its scale


class Training:
    """A run under way."""

    def __init__(self, setup: RunSetup, state: TrainState, stop: StopRequest) -> None:
        self.setup, self.state, self.stop = setup, state, stop
        self.progress = Progress(left_out=list(setup.left_out))
        self.group = setup.group
        self.timer = StepTimer(state.loader.stages)
        self.line = ProgressLine(setup.epochs * len(state.loader), is_shown=self.group.is_main)
        self.board: Board | None = None
        self._saved_at = time.monotonic()
        self._is_saved, self._infinite = False, 0

    def run(self) -> None:
        """Train to the last epoch; raises ``Stopped`` after saving when a signal asks for it."""
        setup, progress = self.setup, self.progress
        try:
            with self.line:
                while progress.epoch < setup.epochs:
                    self._train_epoch()
                    self._finish_epoch()
        except Stopped:
            if not self._is_saved:  # a slow save twice is more than a spot instance has time for
                self.save()
            raise
        finally:
            if self.board is not None:
                self.board.close()

    def _train_epoch(self) -> None:
        """Take the steps of the current epoch that are still to be taken."""
        loader, progress = self.state.loader, self.progress
        if progress.loss_steps == len(loader):
            return  # stopped while validating
        self.state.network.train()
        self.timer.start()
        for batch in loader:
            self.timer.batch_arrived()
            loss, *votes = self.group.sum(
                [
                    take_step(batch, self.setup, self.state) / self.group.world.world_size,
                    *self.stop.votes(),
                ]
            )
            self.timer.stepped()
            self.group.stepped()
            self._check_loss(loss)
            progress.loss_sum += loss if math.isfinite(loss) else 0.0
            progress.loss_steps += 1
            progress.step += 1
            self._is_saved = False
            self.line.advance(loss, loader.plan.options.global_batch, self.timer.split)
            self.stop.check(votes)
            if time.monotonic() - self._saved_at > SAVE_EVERY_S:
                self.save()

    def _check_loss(self, loss: float) -> None:
        """Raise ``RunError`` for a loss that is not finite, unless float16's scaler has just left that step out."""
        self._infinite = 0 if math.isfinite(loss) else self._infinite + 1
        if self._infinite > (MOST_INFINITE if self.state.scaler.is_enabled() else 0):
            raise RunError(
                f"the loss is {loss} at step {self.progress.step}; lower --lr, or use --amp off if it was on"
            )

    def _finish_epoch(self) -> None:
        """Validate when it is due, write the epoch's line, save."""
        progress, setup = self.progress, self.setup
        done = progress.epoch + 1
        due = setup.val_every is not None and (done % setup.val_every == 0 or done == setup.epochs)
        begin = time.perf_counter()
        means = self._validate() if due else {}
        split = self._mean_split()
        line = without_nan(
            {
                "epoch": progress.epoch + 1,
                "step": progress.step,
                "loss": progress.loss_sum / max(progress.loss_steps, 1),
                "lr": self.state.optimizer.param_groups[0]["lr"],
                **{metric: means.get(metric) for metric in (*VALIDATED, "hd95_cases")},
                "left_out": list(setup.left_out),
                "validation_cases": len(setup.validation_cases),
                "patches_per_s": split.steps * self.state.loader.plan.options.global_batch / split.wall_s
                if split.wall_s
                else 0.0,
                "waiting": split.waiting,
                "split": asdict(split),
                "validation_s": time.perf_counter() - begin if due else 0.0,
            }
        )
        if self.group.is_main:
            append_metrics(setup.folder, line)
            self._open_board().add_epoch(line)
        progress.lines += 1
        progress.epoch += 1
        progress.loss_sum, progress.loss_steps, progress.epoch_split = 0.0, 0, asdict(TimeSplit())
        self.save()
        self.line.tell(line)
        if progress.epoch < setup.epochs:
            self._check_stop()

    def _open_board(self) -> Board:
        if self.board is None:
            self.board = Board(self.setup.folder, self.progress.step)
        return self.board

    def _check_stop(self) -> None:
        self.stop.check(self.group.sum(self.stop.votes()))

    def _validate(self) -> Mapping[str, Mapping[str, float]]:
        """Return metric to structure to its mean over the validation cases; a better mean Dice is kept as best.pt.

        ``"hd95_cases"`` is how many cases the mean of each structure's HD95 is over.
        """
        setup, progress = self.setup, self.progress
        scores = validate(
            self.state.evaluated,
            setup.store,
            setup.validation_cases,
            setup.spec,
            ValidationOptions(amp=setup.amp, group=self.group, on_cases=self._after_cases),
        )
        means: dict[str, Mapping[str, float]] = {
            metric: by_structure(average(scores), metric, setup.left_out) for metric in VALIDATED
        }
        if means["dice"]["mean"] > progress.best_dice:
            progress.best_dice, progress.best_epoch = means["dice"]["mean"], progress.epoch
            content = {
                "model": self.state.evaluated.state_dict(),
                "epoch": progress.epoch + 1,
                "means": means,
                "cases": scores,
            }
            self._write(BEST, content)
        return means | {"hd95_cases": {name: of["hd95_mm"] for name, of in count_cases(scores).items()}}

    def _after_cases(self, num_done: int) -> None:
        self.line.show_validation(num_done, len(self.setup.validation_cases))
        self._check_stop()

    def _collect_split(self) -> TimeSplit:
        """Return the time split of the epoch, with what a stopped process had booked before."""
        return TimeSplit(**self.progress.epoch_split).plus(self.timer.take())  # type: ignore[arg-type]

    def _mean_split(self) -> TimeSplit:
        """Average the processes' splits; bytes read are the sum."""
        split = self._collect_split()
        num = self.group.world.world_size
        total = self.group.sum([float(value) for value in asdict(split).values()])
        means = {name: value / num for name, value in zip(asdict(split), total, strict=True)}
        return TimeSplit(**means | {"steps": split.steps, "read_bytes": round(num * means["read_bytes"])})  # type: ignore[arg-type]

    def _write(self, name: str, content: dict[str, Any]) -> None:
        """Write a checkpoint; all processes hold the same, so one does it."""
        if self.group.is_main:
            described = {
                "spec": self.setup.spec.to_plain(),
                "options": dict(self.setup.options),
                "number_format": format_name(self.setup.amp),
            }
            folder = self.setup.folder / "checkpoints"
            save_checkpoint(folder / name, content | described, folder / PREVIOUS if name == LAST else None)

    def save(self) -> None:
        """Write ``last.pt``: everything that going on needs, with any number of processes."""
        self.progress.epoch_split = asdict(self._collect_split())
        self._write(LAST, {**self.state.state_dict(), "progress": asdict(self.progress)})
        self._saved_at = time.monotonic()
        self._is_saved = True

    def load(self, content: Mapping[str, Any]) -> None:
        """Go on from what ``save`` wrote."""
        self.state.load_state_dict(content)
        self.progress = Progress(**content["progress"])
        if self.progress.left_out != list(self.setup.left_out):  # an earlier version counted them, with Dice 1
            log.warning("the best mean dice so far counted structures that no validation case has: it is chosen anew")
            self.progress.left_out = list(self.setup.left_out)
            self.progress.best_dice, self.progress.best_epoch = -1.0, -1
        self.line.start_at(self.progress.step)
