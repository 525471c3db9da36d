"""Time whole epochs of one loader in a process of its own: seconds, processor time, peak memory."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence

from benchmarks.contenders.table import Contender
from benchmarks.measuring.check import Specification
from benchmarks.measuring.measure import CHECKED, endless
from benchmarks.measuring.processes import FreshProcess, answer, own_cpu_s
from benchmarks.measuring.rows import Row
from pipelines.config import LoaderConfig
from preprocessing.console.errors import RunError

log = logging.getLogger(__name__)
SAMPLE_S = 0.2
Values = dict[str, list[float]]


def measure_epochs(contender: Contender, config: LoaderConfig, epochs: int, prefix: Sequence[str] = ()) -> Values:
    """Time building the loader and its first epoch, then ``epochs`` more; returns the values of each metric.

    ``prefix`` goes before the command (a memory limit). Raises ``ProcessError`` when it fails, is killed or hangs, or
    when its batches are not what they should be.
    """
    log.info("measuring %d epochs of %s", 1 + epochs, contender.name)
    row = Row(contender=contender, config=config)
    with contextlib.closing(FreshProcess(answer, time_epochs, row, epochs, prefix=prefix)) as process:
        values: Values = process.receive(sample_s=SAMPLE_S)
        return values | {"peak_memory_mb": [process.peak_bytes / 1e6]}


def time_epochs(row: Row, epochs: int) -> Values:
    """Measure in this process, then check the first batches; raises ``RunError`` where they are wrong."""
    seconds, cpu_s = [], []
    begin, used_s = time.perf_counter(), own_cpu_s()
    with row.contender.open(row.config) as loader:
        for epoch in range(epochs + 1):
            loader.set_epoch(epoch)
            count = sum(len(batch.image) for batch in loader)
            if count != len(loader) * row.config.batch_size:
                raise RunError(f"epoch {epoch}: {count} patches, not {len(loader) * row.config.batch_size}")
            seconds.append(time.perf_counter() - begin)
            cpu_s.append(own_cpu_s() - used_s)
            begin, used_s = time.perf_counter(), own_cpu_s()
        loader.set_epoch(0)
        specification = Specification(row)
        specification.check_first(specification.watch(endless(loader)), CHECKED)
    return {
        "first_epoch_s": seconds[:1],
        "epoch_s": seconds[1:],
        "cpu_ms_per_patch": [1e3 * spent / count for spent in cpu_s[1:]],
    }
