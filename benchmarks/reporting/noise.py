"""Notice that a machine was not quiet: processor time that something else used while a benchmark ran."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from benchmarks.reporting.machine import num_cores
from benchmarks.reporting.process_tree import machine_busy_s, own_cpu_s

QUIET_CORES = 0.1  # others' use of the machine, as a share of its cores, up to which wall times are trusted


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What others used, in cores, and the load average when the benchmark began."""

    others_cores: float
    load_before: float

    @property
    def is_noisy(self) -> bool:
        """Whether wall times are to be doubted."""
        return self.others_cores > QUIET_CORES * num_cores()


class NoiseWatch:
    """Watches from its creation on."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._begin = time.perf_counter(), own_cpu_s(), machine_busy_s()

    def read(self) -> Noise:
        """Return the mean since the beginning."""
        elapsed_s, own_s, busy_s = (
            now - then
            for now, then in zip((time.perf_counter(), own_cpu_s(), machine_busy_s()), self._begin, strict=True)
        )
        return Noise(others_cores=max(busy_s - own_s, 0.0) / elapsed_s, load_before=self._load)
