"""Measure one loader, inside a process of its own: check it, warm it up, then one timed run per request.

Once the loader stands and is checked, the process says how many seconds passed until the first batch, with imports.
For each request ``RUN`` it says ``LEAD_IN`` (untimed batches flow: memory may be sampled), ``TIMING`` (do not disturb)
and the figures of the run; for a request ``TRAIN`` those of a stretch of training.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection

import torch

from benchmarks.measuring.check import Specification
from benchmarks.measuring.processes import machine_busy_s, own_cpu_s
from benchmarks.measuring.rows import Assignment, Row
from pipelines.batch import Batch, Loader

RUN, TRAIN = "run", "train"
LEAD_IN, TIMING = "lead-in", "timing"
CHECKED = 3
LEAST_BATCHES = 6  # of a run, however slow the loader
LEAD_IN_SHARE = 0.15  # of a run's seconds, and at least the batches that the loader may hold ready
SETTLE_S, QUIET = 3.0, 0.1  # how long to wait for workers to rest, and the fraction of a core that counts as rest


def serve(connection: Connection, assignment: Assignment) -> None:
    """Build the loader, check it, and do what each message asks for, until the other side hangs up."""
    if assignment.num_cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: assignment.num_cores])
        torch.set_num_threads(assignment.num_cores)
    begin = time.perf_counter()
    row = assignment.row
    with row.contender.open(row.config) as loader:
        specification = Specification(row)
        batches = specification.watch(endless(loader))
        first = next(batches)
        start_s = time.perf_counter() - begin
        specification.check_first(itertools.chain([first], batches), CHECKED)
        specification.warm_up(batches)
        _flow(batches, assignment)
        _settle()
        connection.send(start_s)
        for epoch in itertools.count(1):
            try:
                request = connection.recv()
            except EOFError:
                return
            loader.set_epoch(epoch)
            if request == TRAIN:
                from benchmarks.measuring.training_step import train  # half of what the other rows import

                connection.send(train(row, assignment.net, loader, endless(loader), assignment.seconds))
            else:
                connection.send(_run(connection, loader, specification, assignment, epoch))


def _run(
    connection: Connection, loader: Loader, specification: Specification, assignment: Assignment, epoch: int
) -> dict[str, float]:
    """Start the epoch, wait for its first batch, let some flow, time the following ones, check the last."""
    row = assignment.row
    begin = time.perf_counter()
    batches = specification.watch(endless(loader))
    next(batches)
    _synchronize(row)
    first_batch_s = time.perf_counter() - begin
    connection.send(LEAD_IN)
    lead_in = _flow(batches, assignment)
    connection.send(TIMING)
    machine_s, used_s = machine_busy_s(), own_cpu_s()
    begin = time.perf_counter()
    timed, last = _timed(batches, begin + assignment.seconds, row.cycle)
    _synchronize(row)
    wall_s = time.perf_counter() - begin
    machine_s, used_s = machine_busy_s() - machine_s, own_cpu_s() - used_s
    slot = epoch % row.config.batch_size
    specification.check(last, epoch, lead_in + timed, slots=[slot])  # under load: shows memory reused too early
    _settle()
    patches = timed * row.config.batch_size
    return {
        "batches": timed,
        "wall_s": wall_s,
        "patches_per_s": patches / wall_s,
        "mb_per_s": timed * (last.image.nbytes + last.label.nbytes) / wall_s / 1e6,
        "cpu_ms_per_patch": 1e3 * used_s / patches,
        "first_batch_ms": 1e3 * first_batch_s,
        "others_cores": max(machine_s - used_s, 0.0) / wall_s,
    }


def endless(loader: Loader) -> Generator[Batch]:
    """Go on with the next epoch where one ends."""
    while True:
        yield from loader


def _flow(batches: Iterator[Batch], assignment: Assignment) -> int:
    """Take batches untimed until none that was made in advance is left; returns how many."""
    deadline = time.perf_counter() + LEAD_IN_SHARE * assignment.seconds
    count = 0
    while count < assignment.row.num_ready or time.perf_counter() < deadline:
        next(batches)
        count += 1
    return count


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
