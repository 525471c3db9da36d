"""Whether a warm loader touches fresh memory, or grows, over many batches."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import resource
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import psutil

from benchmarks.measuring.measure import endless
from benchmarks.reporting.result import Record, make_row
from pipelines.batch import Loader
from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader

GROUP = "over many batches"
WARM = 60  # batches


def growth(config: LoaderConfig, count: int) -> tuple[float, int]:
    """Return minor page faults per batch, and the bytes that this process grew by, over ``count`` warm batches."""
    process = psutil.Process()
    with build_loader("dali", config) as loader:
        _flow(loader, WARM)
        resident = process.memory_info().rss
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        _flow(loader, count)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return faults / count, process.memory_info().rss - resident


def _flow(loader: Loader, count: int) -> None:
    for _ in itertools.islice(endless(loader), count):
        pass


def growth_rows(config: LoaderConfig, count: int) -> Iterator[Record]:
    """Measure patches cut on the host, and from volumes that stay, each in a fresh process.

    A process that shrank is shown as one that has not grown.
    """
    for crop in ("host", "device"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            faults, grown = pool.submit(growth, dataclasses.replace(config, crop=crop), count).result()
        values = {"faults_per_batch": [faults], "grown_mb": [max(grown, 0) / 1e6]}
        yield make_row(GROUP, f"crop {crop}, {count:,} batches", values)
