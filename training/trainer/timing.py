"""Where the time of a step goes: the article's four parts, and the sentence that says what to do about it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.batch import StageSeconds

DISK, PREPROCESSING, TRANSFER, OTHER = (
    "disk I/O",
    "preprocessing",
    "CPU-to-GPU transfer",
    "work outside the steps' stages",
)
WAITS = {"disk_s": DISK, "preprocessing_s": PREPROCESSING, "transfer_s": TRANSFER}  # as StageSeconds calls them, too
PARTS = {**WAITS, "model_s": "model computation", "other_s": OTHER}
NOTABLE = 0.05


@dataclass(kw_only=True)
class TimeSplit:
    """Seconds of wall time; the parts add up to it. Work that hides behind the model does not count: nobody waits."""

    disk_s: float = 0.0
    preprocessing_s: float = 0.0
    transfer_s: float = 0.0
    model_s: float = 0.0
    other_s: float = 0.0
    steps: int = 0
    read_bytes: int = 0

    @property
    def wall_s(self) -> float:
        """Sum of the parts."""
        return self.disk_s + self.preprocessing_s + self.transfer_s + self.model_s + self.other_s

    @property
    def waiting(self) -> float:
        """Fraction of the time in which the model waited for data."""
        return (self.disk_s + self.preprocessing_s + self.transfer_s) / self.wall_s if self.wall_s else 0.0

    def plus(self, other: TimeSplit) -> TimeSplit:
        """Add two splits."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return TimeSplit(**{name: mine[name] + theirs[name] for name in mine})


@dataclass
class StepTimer:
    """Marks the stages of one step. Each step ends with a synchronisation, so what is booked is what was waited for."""

    stages: StageSeconds
    split: TimeSplit = field(default_factory=TimeSplit)

    def __post_init__(self) -> None:
        self._bytes = self.stages.read_bytes
        self.start()

    def start(self) -> None:
        """Begin an epoch: time since the last mark was not training."""
        self._mark, self._booked = time.perf_counter(), self._waits()

    def batch_arrived(self) -> None:
        """Book the wait for a batch to the stages that the loader names."""
        self.split.other_s += self._book()
        self.split.read_bytes += self.stages.read_bytes - self._bytes
        self._bytes = self.stages.read_bytes

    def stepped(self) -> None:
        """Book forward, backward and optimiser, which the process has waited for; not what the GPU waited for first."""
        self.stages.settle()
        self.split.model_s += self._book()
        self.split.steps += 1

    def take(self) -> TimeSplit:
        """Return what was booked since the last call."""
        taken, self.split = self.split, TimeSplit()
        return taken

    def _book(self) -> float:
        """Book the time since the last mark to what the loader waited for meanwhile; returns the seconds left over."""
        now, waits = time.perf_counter(), self._waits()
        left, self._mark = now - self._mark, now
        for part, wait_s in waits.items():
            seconds = min(wait_s - self._booked[part], left)
            setattr(self.split, part, getattr(self.split, part) + seconds)
            left -= seconds
        self._booked = waits
        return left

    def _waits(self) -> dict[str, float]:
        return {part: getattr(self.stages, part) for part in WAITS}


def remedy_for(part: str, loader: str, *, on_gpu: bool) -> str:
    """Say what to do about a wait for ``part``, or about ``"the model"``, in a run with ``loader``, on a GPU or not."""
    uses_dali = loader == "dali"
    if part == DISK:
        return "raise --samples-per-case, or move the shards to a faster disk"
    if part == PREPROCESSING and not uses_dali:
        other = "let DALI work on the GPU (--loader dali)" if on_gpu else "use --loader dali"
        return f"{other}, or give the job more processor cores and raise --workers"
    if part == PREPROCESSING:
        where = "cut patches on the GPU (--crop device)" if on_gpu else "let DALI work on a GPU (--device cuda)"
        return f"{where}, use --augment basic, or give the job more processor cores and raise --workers"
    if part == TRANSFER:
        return "cut patches on the GPU (--crop device)" if uses_dali else "use --loader dali, which moves int16"
    if part == OTHER:
        return "look for another busy process on this machine, and at the disk of --output"
    return (
        f"for more speed use {'--amp auto' if on_gpu else 'a GPU (--device cuda)'}, --compile true or a smaller --net"
    )


def total_split(lines: Iterable[Mapping[str, Any]]) -> TimeSplit:
    """Add up the splits of the lines of ``metrics.jsonl``."""
    total = TimeSplit()
    for line in lines:
        total = total.plus(TimeSplit(**line["split"]))
    return total


def describe_limit(split: TimeSplit, loader: str, *, on_gpu: bool) -> str:
    """Say in one sentence what limits the run, the largest part of its time, and which flag to turn.

    ``loader`` and ``on_gpu`` are those of the run, whose remedies are others than another run's. Other waits that take
    ``NOTABLE`` of the time or more follow in clauses of their own.
    """
    seconds = {title: getattr(split, part) for part, title in PARTS.items() if part != "model_s"}
    waits = sorted(seconds.items(), key=lambda wait: -wait[1])
    clauses = [
        f"{_describe_wait(split, part, wait_s)}: {remedy_for(part, loader, on_gpu=on_gpu)}"
        for part, wait_s in waits
        if wait_s and wait_s >= NOTABLE * split.wall_s
    ]
    if split.model_s >= waits[0][1]:
        waiting = f"the model: it waits for data {100 * split.waiting:.1f} % of the time"
        clauses.insert(0, f"{waiting}; {remedy_for('the model', loader, on_gpu=on_gpu)}")
    return f"Limited by {'; also by '.join(clauses)}."


def _describe_wait(split: TimeSplit, part: str, wait_s: float) -> str:
    rate = f", data arriving at {split.read_bytes / split.wall_s / 1e6:.0f} MB/s" if part == DISK else ""
    return f"{part} ({100 * wait_s / split.wall_s:.0f} % of each step waits on it{rate})"
