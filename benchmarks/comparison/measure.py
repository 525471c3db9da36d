"""Measure one loader, inside a process of its own: check it, warm it up, then one timed run per request.

Messages to the parent, in this order: ``Ready`` once; for each request ``RUN`` a ``LEAD_IN`` (untimed batches flow:
memory may be sampled), ``TIMING`` (do not disturb) and a ``Run``; for a request ``TRAIN`` a ``Trained``. ``Failed`` may
come instead of any of them, and is the last.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from benchmarks.comparison.check_batches import Specification
from benchmarks.comparison.process_tree import machine_busy_s, own_cpu_s
from benchmarks.comparison.rows import Row
from pipelines.batch import Batch, Loader
from pipelines.loaders import LoaderBuilder, build_loader

RUN, TRAIN, STOP = "run", "train", "stop"
LEAD_IN, TIMING = "lead-in", "timing"
CHECKED = 3
LEAST_BATCHES = 6  # of a run, however slow the loader
LEAD_IN_SHARE = 0.15  # of a run's seconds, and at least the batches that the loader may hold ready
SETTLE_S, QUIET = 3.0, 0.1  # how long to wait for workers to rest, and the fraction of a core that counts as rest


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a measuring process is told: the row, how its loader is built, the length of a run, the network to train.

    ``worker_start_method`` is the platform's for the loader's own workers, as in a training run: a spawned process
    would spawn them. ``num_cores`` is how many the process and all that it starts may use; 0 leaves it all.
    """

    row: Row
    build: LoaderBuilder
    seconds: float
    worker_start_method: str
    net: str = ""
    num_cores: int = 0


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The loader stands and its first batches are right; ``start_s`` is from nothing to the first one, with imports."""

    start_s: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One timed run. ``cpu_s`` is of the loader's process tree, ``others_cpu_s`` of everything else on the machine."""

    batches: int
    batch_bytes: int
    wall_s: float
    first_batch_s: float
    cpu_s: float
    others_cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A stretch of training. ``waiting`` is the share of it in which the model waited for data.

    ``gpu_utilisation`` is the mean of what the driver tells, in percent, and ``gpu_memory_mb`` what all processes
    together hold at the end; ``None`` without a GPU.
    """

    net: str
    steps: int
    wall_s: float
    patches_per_s: float
    waiting: float
    gpu_utilisation: float | None
    gpu_memory_mb: float | None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why the row has no numbers."""

    reason: str


def serve(connection: Connection, task: Task) -> None:
    """Do what each message asks for, until it is ``STOP``. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    multiprocessing.set_start_method(task.worker_start_method, force=True)
    if task.num_cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.num_cores])
        torch.set_num_threads(task.num_cores)
    try:
        _serve(connection, task)
    except Exception as error:  # noqa: BLE001  # whatever breaks a loader is a result: its row says so
        connection.send(Failed(reason=f"{type(error).__name__}: {error}"))


def _serve(connection: Connection, task: Task) -> None:
    begin = time.perf_counter()
    row = task.row
    with build_loader(row.loader, row.config, table={row.loader: task.build}) as loader:
        specification = Specification(row)
        batches = specification.watch(endless(loader))
        first = next(batches)
        start_s = time.perf_counter() - begin
        specification.check_first(itertools.chain([first], batches), CHECKED)
        specification.warm_up(batches)
        _flow(batches, task)
        _settle()
        connection.send(Ready(start_s=start_s))
        for epoch in itertools.count(1):
            request = connection.recv()
            if request == STOP:
                return
            loader.set_epoch(epoch)
            connection.send(
                _train(loader, task) if request == TRAIN else _run(connection, loader, specification, task, epoch)
            )


def _train(loader: Loader, task: Task) -> Trained:
    from benchmarks.comparison.training_step import train  # MONAI's networks are half of what the other rows import

    return train(task.row, task.net, loader, endless(loader), task.seconds)


def _run(connection: Connection, loader: Loader, specification: Specification, task: Task, epoch: int) -> Run:
    """Start the epoch, wait for its first batch, let some flow, time the following ones, check the last."""
    row = task.row
    begin = time.perf_counter()
    batches = specification.watch(endless(loader))
    next(batches)
    _synchronize(row)
    first_batch_s = time.perf_counter() - begin
    connection.send(LEAD_IN)
    lead_in = _flow(batches, task)
    connection.send(TIMING)
    machine_s, used_s = machine_busy_s(), own_cpu_s()
    begin = time.perf_counter()
    timed, last = _timed(batches, begin + task.seconds, row.cycle)
    _synchronize(row)
    wall_s = time.perf_counter() - begin
    machine_s, used_s = machine_busy_s() - machine_s, own_cpu_s() - used_s
    slot = epoch % row.config.batch_size
    specification.check(last, epoch, lead_in + timed, slots=[slot])  # under load: shows memory reused too early
    _settle()
    return Run(
        batches=timed,
        batch_bytes=last.image.nbytes + last.label.nbytes,
        wall_s=wall_s,
        first_batch_s=first_batch_s,
        cpu_s=used_s,
        others_cpu_s=max(machine_s - used_s, 0.0),
    )


def endless(loader: Loader) -> Generator[Batch]:
    """Go on with the next epoch where one ends."""
    while True:
        yield from loader


def _flow(batches: Iterator[Batch], task: Task) -> int:
    """Take batches untimed until none that was made in advance is left; returns how many."""
    deadline = time.perf_counter() + LEAD_IN_SHARE * task.seconds
    for number in itertools.count(1):
        next(batches)
        if number >= task.row.num_ready and time.perf_counter() >= deadline:
            return number
    raise AssertionError("count() ended")


def _timed(batches: Iterator[Batch], deadline: float, cycle: int) -> tuple[int, Batch]:
    """Take batches, in whole cycles, until ``deadline``, touching nothing in them; returns how many, and the last."""
    for number, batch in enumerate(batches, start=1):
        if number >= LEAST_BATCHES and number % cycle == 0 and time.perf_counter() >= deadline:
            return number, batch
    raise AssertionError("an endless iteration ended")


def _settle() -> None:
    """Wait until the loader has read ahead as far as it may, so that the next row has the machine to itself."""
    deadline = time.perf_counter() + SETTLE_S
    pause_s = 0.2  # long beside what looking for the workers costs
    while time.perf_counter() < deadline:
        before_s = own_cpu_s()
        time.sleep(pause_s)
        if own_cpu_s() - before_s < QUIET * pause_s:
            return


def _synchronize(row: Row) -> None:
    """Wait for the GPU, where the batches are made or moved there."""
    if row.config.device == "gpu":
        torch.cuda.synchronize()
