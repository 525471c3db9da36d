"""How fast volumes reach the device: one pinned copy, and the pool while it fills."""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks.measuring.rows import Row

COPIES, COPY_BYTES = 7, 2**28


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
