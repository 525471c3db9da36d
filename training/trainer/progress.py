"""What the terminal shows while a run trains: a live bar, or plain lines where there is no terminal."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import pynvml
import torch
from rich.progress import MofNCompleteColumn, TextColumn
from typing_extensions import Self

from preprocessing.console.progress import progress_bar
from training.trainer.timing import TimeSplit

log = logging.getLogger(__name__)
TELL_EVERY_S = 60.0  # where there is no terminal and an epoch takes longer


class GpuGauge:
    """How busy the GPU is and the most memory in use on it, read at most once a second: NVML takes its time.

    The memory is the device's, whoever uses it: what DALI and CUDA itself take is not in torch's own count.
    """

    def __init__(self) -> None:
        self._text, self._read_at, self._most_bytes = "", -math.inf, 0

    def read(self) -> str:
        """Return ``"  GPU 97 %, 31.2 GiB"``; nothing in a process that uses no GPU."""
        is_due = time.monotonic() - self._read_at > 1
        if is_due and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._read_at = time.monotonic()
            free, total = torch.cuda.mem_get_info()
            self._most_bytes = max(self._most_bytes, total - free)
            self._text = f"  GPU {utilization()}, {self._most_bytes / 2**30:.1f} GiB"
        return self._text


def utilization(ask: Callable[[], int] = torch.cuda.utilization) -> str:
    """Return the share of the last sampling period in which a kernel ran, as nvidia-smi shows it.

    A MIG slice does not tell: torch raises ``RuntimeError`` there, NVML an error of its own.
    """
    try:
        return f"{ask()} %"
    except (pynvml.NVMLError, RuntimeError):
        return "n/a"


class ProgressLine:
    """Shows step, loss, patches/s, the share of time spent waiting for data, and the time left."""

    def __init__(self, total_steps: int, *, is_shown: bool = True) -> None:
        columns = (MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
        self._live = progress_bar("step", *columns, is_shown=is_shown)
        self._task = self._live.add_task("training", total=total_steps, figures="")
        self._total, self._step, self._patches = total_steps, 0, 0
        self._told_at = time.monotonic()
        self._gauge = GpuGauge()

    def start_at(self, step: int) -> None:
        """Count from ``step`` on: what an earlier process did is done."""
        self._step = step
        self._live.update(self._task, completed=step)

    def advance(self, loss: float, num_patches: int, split: TimeSplit) -> None:
        """Count one step."""
        self._patches = self._patches + num_patches if split.steps > 1 else num_patches
        rate = self._patches / split.wall_s if split.wall_s else 0.0
        figures = f"loss {loss:.3f}  {rate:.1f} patches/s  waiting {split.waiting:.0%}"
        figures += self._gauge.read()
        self._step += 1
        self._live.update(self._task, advance=1, figures=figures)
        if self._live.disable and time.monotonic() - self._told_at > TELL_EVERY_S:
            self._told_at = time.monotonic()
            log.info("step %d of %d  %s", self._step, self._total, figures)

    def show_validation(self, num_done: int, num_cases: int) -> None:
        """Show how far validation is, in place of the figures of the last step."""
        self._live.update(self._task, figures=f"validated {num_done} of {num_cases} cases")

    def tell(self, line: Mapping[str, Any]) -> None:
        """Log the line of a finished epoch."""
        self._told_at = time.monotonic()
        dice = line["dice"]
        scores = ""
        if dice:
            parts = " ".join(f"{name} {value:.4f}" for name, value in dice.items() if name != "mean")
            mean = "n/a" if dice["mean"] is None else f"{dice['mean']:.4f}"
            scores = f"  dice {mean} ({parts})"
            if line["hd95_mm"]["mean"] is not None:
                counts = line["hd95_cases"].values()
                covered = f"{sum(counts)} of {len(counts) * line['validation_cases']}"
                scores += f"  hd95 {line['hd95_mm']['mean']:.2f} mm ({covered})"
        log.info(
            "epoch %d  step %d  loss %.4f%s  %.1f patches/s  waiting %.1f %%",
            line["epoch"],
            line["step"],
            line["loss"],
            scores,
            line["patches_per_s"],
            100 * line["waiting"],
        )

    def __enter__(self) -> Self:
        """Start the live bar."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the live bar away."""
        self._live.stop()
