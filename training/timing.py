"""Where the time of a step goes: the article's four parts, and the sentence that says what to do about it."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field

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
    """Marks the stages of one step; on CUDA it synchronises only where ``exact`` asks for it."""

    stages: StageSeconds
    device: torch.device
    split: Split = field(default_factory=Split)

    def __post_init__(self) -> None:
        self._mark = time.perf_counter()
        self._read_s, self._graph_s, self._bytes = self._stages()

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

    def transferred(self) -> None:
        """Book the move to the device."""
        self.split.transfer_s += self._lap()

    def stepped(self) -> None:
        """Book forward, backward and optimiser."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        self.split.model_s += self._lap()
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


def describe_limit(split: Split) -> str:
    """Say in one sentence what limits the run and which flag to turn."""
    parts = {
        "disk I/O": (
            split.disk_s,
            "raise --samples-per-case, or move the shards to a faster disk",
        ),
        "preprocessing": (split.preprocessing_s, "give the loader more threads with --num-threads"),
        "CPU-to-GPU transfer": (split.transfer_s, "use --loader dali, which moves int16 instead of float32"),
    }
    name, (seconds, remedy) = max(parts.items(), key=lambda part: part[1][0])
    share = seconds / split.wall_s if split.wall_s else 0.0
    if split.waiting < 0.05:
        return f"Limited by the model: it waits for data {100 * split.waiting:.1f} % of the time."
    rate = split.read_bytes / split.wall_s / 1e6 if split.wall_s else 0.0
    return (
        f"Limited by {name} ({100 * share:.0f} % of each step waits on it, data arriving at {rate:.0f} MB/s): {remedy}."
    )
