"""Time whole epochs of one loader: in a process of its own, or while the pool on the device fills."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Sequence

import torch

from benchmarks.contenders.table import Contender
from benchmarks.measuring.check import Specification
from benchmarks.measuring.measure import CHECKED, endless
from benchmarks.measuring.processes import FreshProcess, answer, own_cpu_s
from benchmarks.measuring.rows import Row
from pipelines.config import LoaderConfig
from preprocessing.console.errors import RunError

log = logging.getLogger(__name__)
SAMPLE_S = 0.2
COPIES, COPY_BYTES = 7, 2**28
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


def measure_bus(row: Row) -> dict[str, float]:
    """Return the rate of a large pinned copy, and of the epoch in which ``row`` fills its pool and the one after."""
    is_gpu = row.config.device == "gpu"

    def clock() -> tuple[float, int]:
        if is_gpu:
            torch.cuda.synchronize()
        return time.perf_counter(), loader.stages.read_bytes

    begin = time.perf_counter()
    with row.contender.open(row.config) as loader:
        batches = iter(loader)
        next(batches)
        first_s, first_bytes = clock()
        count = 1 + sum(1 for _ in batches)
        filled_s, filled_bytes = clock()
        for _ in loader:
            pass
        later_s, later_bytes = clock()
    return {
        "copy_gb_per_s": _copy_rate(torch.device("cuda" if is_gpu else "cpu")),
        "first_batch_ms": 1e3 * (first_s - begin),
        "filled_gb": filled_bytes / 1e9,
        "fill_gb_per_s": (filled_bytes - first_bytes) / (filled_s - first_s) / 1e9,
        "fill_patches_per_s": (count - 1) * row.config.batch_size / (filled_s - first_s),
        "later_patches_per_s": count * row.config.batch_size / (later_s - filled_s),
        "later_read_gb": (later_bytes - filled_bytes) / 1e9,
    }


def _copy_rate(device: torch.device) -> float:
    """Return GB/s from host memory, pinned where there is a GPU."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty_like(source, device=device)
    seconds = []
    for _ in range(COPIES):
        begin = time.perf_counter()
        target.copy_(source, non_blocking=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return COPY_BYTES / statistics.median(seconds[1:]) / 1e9
