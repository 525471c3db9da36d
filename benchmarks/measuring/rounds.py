"""Run the measuring processes in rounds, every row once per round and one at a time, so that noise hits all alike."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from benchmarks.measuring.measure import serve
from benchmarks.measuring.messages import LEAD_IN, RUN, STOP, TIMING, TRAIN, Failed, Ready, Run, Task, Trained
from benchmarks.measuring.processes import descendants, tree_memory_bytes
from benchmarks.measuring.rows import Row

PATIENCE_S = 300.0  # for an answer, on top of a run's length; a loader that hangs is a failed row
FAREWELL_S = 20.0
SAMPLE_S = 0.05
Seconds = dict[str, list[float]]


class RowError(RuntimeError):
    """Say why a row cannot go on."""


@dataclass
class Measured:
    """What came of a row: ``memory_bytes`` is the peak of each run, ``failure`` says why there is no more of them."""

    row: Row
    start_s: float = 0.0
    runs: list[Run] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    trained: list[Trained] = field(default_factory=list)
    failure: str | None = None


class Child:
    """A measuring process, its pipe and what it has delivered so far."""

    def __init__(self, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self.measured = Measured(row=task.row)
        self.trains = bool(task.net)
        self._patience_s = PATIENCE_S + 2 * task.seconds
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, task), name=task.row.label)
        self._process.start()
        theirs.close()

    def start(self) -> None:
        """Wait until the loader stands and is checked."""
        answer = self._receive()
        assert isinstance(answer, Ready)
        self.measured.start_s = answer.start_s

    def run(self) -> None:
        """Measure once; memory is sampled before the timed part, which is left in peace."""
        self._pipe.send(RUN)
        assert self._receive() == LEAD_IN
        peak = self._sample_memory()
        assert self._receive() == TIMING
        answer = self._receive()
        assert isinstance(answer, Run)
        self.measured.runs.append(answer)
        self.measured.memory_bytes.append(peak)

    def train(self) -> None:
        """Measure inside a training step."""
        self._pipe.send(TRAIN)
        answer = self._receive()
        assert isinstance(answer, Trained)
        self.measured.trained.append(answer)

    def close(self) -> None:
        """End the process and all that it started, whatever state it is in."""
        started = descendants(self._process.pid or 0)
        with contextlib.suppress(OSError):  # it may be gone already
            self._pipe.send(STOP)
        self._process.join(timeout=FAREWELL_S)
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.join()
        self._pipe.close()

    def _sample_memory(self) -> int:
        peak = tree_memory_bytes(self._process.pid or 0)
        while not self._pipe.poll(SAMPLE_S):
            peak = max(peak, tree_memory_bytes(self._process.pid or 0))
        return peak

    def _receive(self) -> object:
        if not self._pipe.poll(self._patience_s):
            raise RowError(f"no answer within {self._patience_s:.0f} s")
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RowError(f"its process ended unexpectedly (exit code {self._process.exitcode})") from None
        if isinstance(answer, Failed):
            raise RowError(answer.reason)
        return answer


def measure(tasks: Sequence[Task], runs: int, done: Callable[[str], None], trainings: int = 0) -> list[Measured]:
    """Measure every task ``runs`` times alone, then those with a network ``trainings`` times inside training.

    ``done`` is told the label of a row after each of its steps.
    A row that fails takes no further part; the others go on.
    """
    children: list[Child] = []
    try:
        for task in tasks:
            children.append(Child(task))
            _step(children[-1], Child.start, done)
        for _ in range(runs):
            for child in children:
                _step(child, Child.run, done)
        for _ in range(trainings):
            for child in children:
                if child.trains:
                    _step(child, Child.train, done)
    finally:
        for child in children:
            child.close()
    return [child.measured for child in children]


def _step(child: Child, action: Callable[[Child], None], done: Callable[[str], None]) -> None:
    if child.measured.failure is None:
        try:
            action(child)
        except RowError as error:
            child.measured.failure = str(error)
    done(child.measured.row.label)


def time_rounds(rows: Mapping[str, Callable[[], object]], runs: int, per_run: int) -> dict[str, Seconds]:
    """Call every row once per round, after a round that warms up.

    Returns ``cpu_s`` and ``wall_s`` of each run by name, divided by ``per_run``, the items that a call handles.
    """
    timed: dict[str, Seconds] = {name: {"cpu_s": [], "wall_s": []} for name in rows}
    for round_number in range(runs + 1):
        for name, run in rows.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            spent = (time.process_time() - cpu) / per_run, (time.perf_counter() - wall) / per_run
            if round_number:
                timed[name]["cpu_s"].append(spent[0])
                timed[name]["wall_s"].append(spent[1])
    return timed
