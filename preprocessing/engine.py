"""Run shard jobs: in the processes of this machine, or on a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preprocessing.engine_dask import converted_on_cluster
from preprocessing.errors import RunError
from preprocessing.shard_job import ShardJob, convert_shard
from preprocessing.single_writer import FolderLock, ctrl_c_held_back, join_converter

log = logging.getLogger(__name__)


def run_jobs(jobs: list[ShardJob], workers: int, scheduler: str | None, lock: FolderLock) -> int:
    """Convert the shards that are not there yet; returns how many cases were converted.

    They are made in ``workers`` processes of this machine, or by the Dask cluster at the address ``scheduler``.
    """
    todo = [job for job in jobs if not (job.root / job.name).exists()]
    if len(todo) < len(jobs):
        log.info("%d of %d shards are there already", len(jobs) - len(todo), len(jobs))
    converted = 0
    with _progress(sum(len(job.sources) for job in todo)) as advance:
        made = _converted(todo, workers, lock) if scheduler is None else converted_on_cluster(todo, scheduler)
        for job, count in made:
            converted += count
            advance(len(job.sources))
    return converted


def _converted(todo: list[ShardJob], workers: int, lock: FolderLock) -> Iterator[tuple[ShardJob, int]]:
    """Yield each job as it ends, with the number of its cases that were converted."""
    if workers == 1 or len(todo) <= 1:
        yield from ((job, convert_shard(job)) for job in todo)
        return
    with ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=get_context("spawn"), initializer=join_converter, initargs=(lock,)
    ) as pool:
        with ctrl_c_held_back():  # which workers inherit: it is the converter's to decide
            waiting = {pool.submit(convert_shard, job): job for job in todo}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            raise RunError(
                "a worker process was killed, perhaps for want of memory; finished shards are kept: "
                "give the same command with fewer --workers"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    columns = (
        TextColumn("converting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cases"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not get_console().is_terminal) as progress:
        bar = progress.add_task("cases", total=total)
        yield lambda count: progress.advance(bar, count)
