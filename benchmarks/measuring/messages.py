"""What a measuring process and its parent tell each other.

The child says, in this order: once its loader stands and is checked, how many seconds passed, with imports, until the
first batch; for each request ``RUN`` a ``LEAD_IN`` (untimed batches flow: memory may
be sampled), ``TIMING`` (do not disturb) and a ``Run``; for a request ``TRAIN`` a ``Trained``.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.measuring.rows import Row

RUN, TRAIN = "run", "train"
LEAD_IN, TIMING = "lead-in", "timing"


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a measuring process is told: the row, the length of a run, the network to train from it, if any.

    ``num_cores`` is how many cores the process and all that it starts may use; 0 leaves it all.
    """

    row: Row
    seconds: float
    net: str = ""
    num_cores: int = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One timed run. ``cpu_s`` is of the loader's process tree, ``others_cpu_s`` of everything else on the machine."""

    batches: int
    batch_bytes: int
    wall_s: float
    first_batch_s: float
    cpu_s: float
    others_cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A stretch of training on ``cores``; ``waiting`` is the share of it in which the model waited for data.

    ``gpu_utilisation`` is the mean of what the driver tells, in percent, and ``gpu_memory_mb`` what all processes
    together hold at the end; ``None`` without a GPU.
    """

    net: str
    cores: int
    steps: int
    wall_s: float
    patches_per_s: float
    waiting: float
    gpu_utilisation: float | None
    gpu_memory_mb: float | None
