"""Does a loader slow down as the store grows? ``python benchmarks/store_size.py``."""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file, also in its own child processes: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.comparison.contenders import TABLE
from benchmarks.comparison.messages import Task
from benchmarks.comparison.rounds import Measured, measure
from benchmarks.comparison.rows import Row
from benchmarks.default_data import ensure_store, repeat_cases
from benchmarks.reporting.machine import num_cores
from pipelines.loaders import LoaderConfig
from preprocessing.cli import Triple, main
from preprocessing.errors import EXIT_DONE, EXIT_UNEXPECTED
from preprocessing.shards import Store
from preprocessing.to_shards import DEFAULT_SHARDS

log = logging.getLogger(__name__)
FEW = 10
SAMPLES_PER_CASE = 16  # so that ten cases make an epoch of which starting and ending is a small part


@dataclass(frozen=True, kw_only=True)
class Options:
    """Repeat the cases of a store (hard links) until there are 10, and --cases, and compare patches/s on both."""

    shards: Path = DEFAULT_SHARDS
    """Shard store. The default is the synthetic phantom, made on first use."""
    cases: int = 48_884
    """Cases of the large store."""
    patch: Triple = (128, 128, 128)
    """Patch size."""
    runs: int = 5
    """Timed runs of each, in turn."""
    seconds: float = 4.0
    """Length of a run."""


def compare(options: Options) -> int:
    """Run the command; returns the exit code."""
    store = ensure_store(options.shards)
    with repeat_cases(store, FEW) as small, repeat_cases(store, options.cases) as large:
        tasks = [_task(options, copy) for copy in (small, large)]
        few, many = measure(tasks, options.runs, lambda _: None)
    for count, measured in ((FEW, few), (options.cases, many)):
        if measured.failure:
            print(f"{count} cases: FAILED: {measured.failure}")
            return EXIT_UNEXPECTED
        rates = _rates(measured)
        first = statistics.median(run.first_batch_s for run in measured.runs)
        print(
            f"{count} cases: {statistics.median(rates):.1f} patches/s ({min(rates):.1f}..{max(rates):.1f}), "
            f"first batch of an epoch {1e3 * first:.0f} ms, start {measured.start_s:.1f} s"
        )
    print(f"ratio {statistics.median(_rates(many)) / statistics.median(_rates(few)):.3f}")
    return EXIT_DONE


def _task(options: Options, store: Store) -> Task:
    config = LoaderConfig(
        store=store.root,
        patch=options.patch,
        samples_per_case=SAMPLES_PER_CASE,
        num_threads=num_cores(),
        reuse_buffers=True,
    )
    row = Row(loader="dali", config=config)
    method = multiprocessing.get_start_method()
    return Task(row=row, build=TABLE["dali"], seconds=options.seconds, worker_start_method=method)


def _rates(measured: Measured) -> list[float]:
    return [run.batches * measured.row.config.batch_size / run.wall_s for run in measured.runs]


if __name__ == "__main__":
    main(compare, Options)
