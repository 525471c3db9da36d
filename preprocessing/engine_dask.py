"""Run shard jobs on a Dask cluster that is there already; it sees the same folders under the same paths."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from preprocessing.errors import InputError, RunError
from preprocessing.shard_job import ShardJob, convert_shard

CONNECT_S = 15


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
                f"the cluster lost the workers of {error.task} again and again, perhaps for want of memory; finished "
                "shards are kept: give the same command with fewer threads per worker"
            ) from error
        finally:
            client.cancel(list(waiting))
