"""Where the time of a step goes: the article's four parts, and the sentence that says what to do about it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.stages import StageSeconds


@dataclass(kw_only=True)
class Split:
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

    def plus(self, other: Split) -> Split:
        """Add two splits."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return Split(**{name: mine[name] + theirs[name] for name in mine})


@dataclass
class StepTimer:
    """Marks the stages of one step. Each step ends with a synchronisation, so what is booked is what was waited for."""

    stages: StageSeconds
    split: Split = field(default_factory=Split)

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

    def take(self) -> Split:
        """Return what was booked since the last call."""
        taken, self.split = self.split, Split()
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
        stages = self.stages
        return {
            "disk_s": stages.wait_read_s,
            "preprocessing_s": stages.wait_graph_s,
            "transfer_s": stages.wait_transfer_s,
        }


REMEDIES = {
    "disk I/O": "raise --samples-per-case, or move the shards to a faster disk",
    "preprocessing": "let DALI work on the GPU (--loader dali --device cuda), or give the job more processor cores",
    "CPU-to-GPU transfer": "use --loader dali, which moves int16 instead of float32",
    "work outside the steps' stages": "look for another busy process on this machine, and at the disk of --output",
}
NOTABLE = 0.05
MODEL_REMEDY = "for more speed use --amp auto, --compile true or a smaller --net"


def total_split(lines: Iterable[Mapping[str, Any]]) -> Split:
    """Add up the splits of the lines of ``metrics.jsonl``."""
    total = Split()
    for line in lines:
        total = total.plus(Split(**line["split"]))
    return total


def describe_limit(split: Split) -> str:
    """Say in one sentence what limits the run, the largest part of its time, and which flag to turn.

    Other waits that take ``NOTABLE`` of the time or more follow in clauses of their own.
    """
    seconds = (split.disk_s, split.preprocessing_s, split.transfer_s, split.other_s)
    waits = sorted(zip(seconds, REMEDIES, strict=True), reverse=True)
    clauses = [_describe_wait(split, *wait) for wait in waits if wait[0] and wait[0] >= NOTABLE * split.wall_s]
    if split.model_s >= waits[0][0]:
        clauses.insert(0, f"the model: it waits for data {100 * split.waiting:.1f} % of the time; {MODEL_REMEDY}")
    return f"Limited by {'; also by '.join(clauses)}."


def _describe_wait(split: Split, seconds: float, name: str) -> str:
    rate = f", data arriving at {split.read_bytes / split.wall_s / 1e6:.0f} MB/s" if name == "disk I/O" else ""
    return f"{name} ({100 * seconds / split.wall_s:.0f} % of each step waits on it{rate}): {REMEDIES[name]}"
