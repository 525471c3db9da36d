"""How many patches, and how many GPUs, a storage feeds: a model of two lines."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.experiments.assumptions import Gpu

TIB_MB = 2**40 / 1e6


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A loader that reads ``patch_mb`` per patch with ``threads`` threads, each busy ``work_s`` with a patch it has."""

    patch_mb: float
    threads: int
    work_s: float


def patches_per_s(reader: Reader, mb_per_s: float) -> float:
    """Predict what arrives from a storage of one queue: it is limited by the storage, or by the threads.

    The asymptotic bounds of operational analysis (Denning and Buzen 1978): a closed system of N customers with think
    time Z and one server with service time S delivers at most min(1 / S, N / (S + Z)). With 2 threads that take 20 ms
    for a patch of 19 MB, a storage of 190 MB/s (S = 0.1 s) delivers min(10, 2 / 0.12) = 10 patches/s.
    """
    service_s = reader.patch_mb / mb_per_s
    return min(1 / service_s, reader.threads / (service_s + reader.work_s))


def gpus_fed(gpu: Gpu, patch_mb: float, mb_per_s: float) -> float:
    """Return how many ``gpu`` a storage feeds when every patch of 4 x 128^3 costs ``patch_mb`` of reading."""
    return mb_per_s / (gpu.patches_per_s * patch_mb)


def fsx_size_tib(store_mb: float) -> float:
    """Return the smallest FSx for Lustre (SSD: 1.2 TiB, 2.4 TiB and multiples of that) that holds a store.

    1 TB takes 1.2 TiB, 1.33 TB takes 2.4 TiB.
    """
    needed = store_mb / TIB_MB
    return 1.2 if needed <= 1.2 else 2.4 * -(-needed // 2.4)
