"""Run shard jobs: in the processes of this machine, or on a Dask cluster that is there already."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import MofNCompleteColumn, TextColumn

from preprocessing.console.errors import InputError, RunError
from preprocessing.console.places import sizes_in
from preprocessing.console.progress import progress_bar
from preprocessing.conversion.shard_job import ShardJob, convert_shard
from preprocessing.conversion.single_writer import FolderLock, ctrl_c_held_back, join_converter
from preprocessing.shards.commit import has_shard
from preprocessing.volumes.nifti import file_size

CONNECT_S = 15
log = logging.getLogger(__name__)


def converted_on_cluster(todo: list[ShardJob], scheduler: str) -> Iterator[tuple[ShardJob, int]]:
    """Yield each job as it ends, with the number of its cases that were converted.

    Workers that are lost are replaced by Dask's own rules; a shard appears under its name only when it is whole, so a
    job that runs twice does no harm. Raises ``InputError`` where no scheduler answers at the address ``scheduler``,
    ``RunError`` where the cluster gives a job up.
    """
    try:
        distributed: Any = import_module("distributed")
    except ImportError as error:
        raise InputError('--engine dask needs the package distributed; pip install "voxelfeed[dask]"') from error
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--scheduler {scheduler}: no Dask scheduler answers there ({error})") from error
    with client:
        waiting = {client.submit(convert_shard, job, key=f"{job.root}/{job.name}"): job for job in todo}
        try:
            for future in distributed.as_completed(list(waiting), loop=client.loop):
                yield waiting[future], future.result()
        except distributed.KilledWorker as error:
            raise RunError(
                f"the cluster lost the workers of {error.task} again and again, perhaps out of memory; finished "
                "shards are kept: run the same command with fewer threads per worker"
            ) from error
        finally:
            client.cancel(list(waiting))


def run_jobs(jobs: list[ShardJob], workers: int, scheduler: str | None, lock: FolderLock | None) -> int:
    """Convert the shards that are not there yet; returns how many cases were converted.

    They are made in ``workers`` processes of this machine, or by the Dask cluster at the address ``scheduler``.
    """
    todo = [job for job in jobs if not has_shard(job.root / job.name)]
    if len(todo) < len(jobs):
        log.info("%d of %d shards are there already", len(jobs) - len(todo), len(jobs))
    converted = 0
    with _progress(sum(len(job.sources) for job in todo)) as advance:
        made = _converted(todo, workers, lock) if scheduler is None else converted_on_cluster(todo, scheduler)
        for job, count in made:
            converted += count
            advance(job)
    return converted


def _converted(todo: list[ShardJob], workers: int, lock: FolderLock | None) -> Iterator[tuple[ShardJob, int]]:
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
                "a worker process was killed, perhaps out of memory; finished shards are kept: "
                "run the same command with fewer --workers"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def _progress(total: int) -> Iterator[Callable[[ShardJob], None]]:
    """Show cases done, cases/s, MB/s read and written, and the time left; silent where there is no terminal."""
    columns = (MofNCompleteColumn(), TextColumn("cases {task.fields[rates]}"))
    with progress_bar("converting", *columns) as progress:
        bar = progress.add_task("cases", total=total, rates="")
        begin = time.perf_counter()
        done = np.zeros(3)

        def advance(job: ShardJob) -> None:
            if not progress.disable:
                done[:] += len(job.sources), _bytes_read(job), _bytes_written(job)
                progress.update(bar, advance=len(job.sources), rates=_rates(done, time.perf_counter() - begin))

        yield advance


def _rates(done: npt.NDArray[np.float64], seconds: float) -> str:
    cases, read, written = done / max(seconds, 1e-9)
    return f"{cases:.2f}/s, {read / 1e6:.0f} MB/s in, {written / 1e6:.0f} MB/s out"


def _bytes_read(job: ShardJob) -> int:
    return sum(file_size(path) or 0 for source in job.sources for path in source.files)


def _bytes_written(job: ShardJob) -> int:
    return sum(sizes_in(job.root / job.name).values())
