"""Whether the loader slows down as the store grows."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Iterator

from benchmarks.contenders.table import TABLE
from benchmarks.measuring.data import repeat_cases
from benchmarks.measuring.messages import Task
from benchmarks.measuring.rounds import Measured, measure
from benchmarks.measuring.rows import Row
from benchmarks.reporting.result import Record, make_row
from pipelines.config import LoaderConfig
from preprocessing.shards.store import Store

GROUP = "by cases in the store"
FEW = 10


def rows_by_cases(store: Store, config: LoaderConfig, num_cases: int, runs: int, seconds: float) -> Iterator[Record]:
    """Measure ``dali`` on 10 and on ``num_cases`` cases, those of ``store`` repeated as hard links, in rounds."""
    with repeat_cases(store, FEW) as small, repeat_cases(store, num_cases) as large:
        tasks = [_task(dataclasses.replace(config, store=copy.root), seconds) for copy in (small, large)]
        few, many = measure(tasks, runs, lambda _: None)
    yield from rows_of(few, many, num_cases)


def rows_of(few: Measured, many: Measured, num_cases: int) -> Iterator[Record]:
    """Make both rows; the second says what share of the first one's rate it has, if that was measured."""
    yield _row(few, FEW, [])
    yield _row(many, num_cases, [] if few.failure else _rates(few))


def _task(config: LoaderConfig, seconds: float) -> Task:
    row, method = Row(loader="dali", config=config), multiprocessing.get_start_method()
    return Task(row=row, build=TABLE["dali"], seconds=seconds, worker_start_method=method)


def _row(measured: Measured, num_cases: int, others: list[float]) -> Record:
    """Make a row, with its rate as a share of ``others``, the rates of the same rounds with fewer cases."""
    label = f"{num_cases:,} cases"
    if measured.failure:
        return make_row(GROUP, label, {}, failure=measured.failure)
    rates = _rates(measured)
    values = {"patches_per_s": rates, "first_batch_ms": [1e3 * run.first_batch_s for run in measured.runs]}
    if others:
        values["ratio"] = [rate / other for rate, other in zip(rates, others, strict=True)]
    return make_row(GROUP, label, values)


def _rates(measured: Measured) -> list[float]:
    return [run.batches * measured.row.config.batch_size / run.wall_s for run in measured.runs]
