"""Where the time of a step goes: the article's four parts, and the sentence that says what to do about it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.batch import StageSeconds


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
    device: torch.device
    split: Split = field(default_factory=Split)

    def __post_init__(self) -> None:
        self._mark = time.perf_counter()
        self._read_s, self._graph_s, self._bytes = self._stages()
        self._moving_s = 0.0
        self._copy = _CopyClock() if self.device.type == "cuda" else None

    def start(self) -> None:
        """Begin an epoch: time since the last mark was not training."""
        self._mark = time.perf_counter()

    def batch_arrived(self) -> None:
        """Book the wait for a batch to disk and preprocessing as the loader tells them apart."""
        elapsed = self._lap()
        read_s, graph_s, read_bytes = self._stages()
        disk = min(read_s - self._read_s, elapsed)
        graph = min(graph_s - self._graph_s, elapsed - disk)
        self.split.disk_s += disk
        self.split.preprocessing_s += graph
        self.split.other_s += elapsed - disk - graph
        self.split.read_bytes += read_bytes - self._bytes
        self._read_s, self._graph_s, self._bytes = read_s, graph_s, read_bytes
        if self._copy is not None:
            self._copy.begin()

    def transferred(self) -> None:
        """Book the move to the device, as far as this process waited for it."""
        if self._copy is not None:
            self._copy.end()
        self._moving_s = self._lap()
        self.split.transfer_s += self._moving_s

    def stepped(self) -> None:
        """Book forward, backward and optimiser; on CUDA the copy that the model had to wait for counts as transfer."""
        copy_s = 0.0 if self._copy is None else self._copy.finish(self.device)
        elapsed = self._lap()
        copy_s = min(max(copy_s - self._moving_s, 0.0), elapsed)
        self.split.transfer_s += copy_s
        self.split.model_s += elapsed - copy_s
        self.split.steps += 1

    def take(self) -> Split:
        """Return what was booked since the last call."""
        taken, self.split = self.split, Split()
        return taken

    def _lap(self) -> float:
        now = time.perf_counter()
        elapsed, self._mark = now - self._mark, now
        return elapsed

    def _stages(self) -> tuple[float, float, int]:
        return self.stages.wait_read_s, self.stages.wait_graph_s, self.stages.read_bytes


class _CopyClock:
    """Times on the GPU's own clock how long a copy took that the process did not wait for."""

    def __init__(self) -> None:
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        self._begin.record()

    def end(self) -> None:
        self._end.record()

    def finish(self, device: torch.device) -> float:
        """Wait until the step is done; returns seconds."""
        torch.cuda.current_stream(device).synchronize()
        return float(self._begin.elapsed_time(self._end)) / 1000


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
