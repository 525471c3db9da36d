"""Run the measuring processes in rounds, every row once per round and one at a time, so that noise hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.measuring.measure import LEAD_IN, RUN, TIMING, TRAIN, serve
from benchmarks.measuring.processes import PATIENCE_S, FreshProcess, ProcessError
from benchmarks.measuring.rows import Assignment, Row
from preprocessing.console.progress import shown

SAMPLE_S = 0.05
Seconds = dict[str, list[float]]
Figures = dict[str, float]


@dataclass(kw_only=True)
class Measured:
    """What came of a row: the figures of each run alone and in training; ``failure`` says why there are no more."""

    row: Row
    net: str = ""
    num_cores: int = 0
    start_s: float = 0.0
    runs: list[Figures] = field(default_factory=list)
    trained: list[Figures] = field(default_factory=list)
    failure: str | None = None


class Measuring:
    """A process that measures one row, and what it has delivered so far."""

    def __init__(self, assignment: Assignment) -> None:
        self.measured = Measured(row=assignment.row, net=assignment.net, num_cores=assignment.num_cores)
        self._patience_s = PATIENCE_S + 2 * assignment.seconds
        self.process = FreshProcess(serve, assignment)

    def start(self) -> None:
        """Wait until the loader stands and is checked."""
        self.measured.start_s = self.process.receive(self._patience_s)

    def run(self) -> None:
        """Measure once; memory is sampled before the timed part, which is left in peace."""
        self.process.send(RUN)
        assert self.process.receive(self._patience_s) == LEAD_IN
        self.process.peak_bytes = 0
        assert self.process.receive(self._patience_s, SAMPLE_S) == TIMING
        figures = {"peak_memory_mb": self.process.peak_bytes / 1e6}
        self.measured.runs.append(self.process.receive(self._patience_s) | figures)

    def train(self) -> None:
        """Measure inside a training step."""
        self.process.send(TRAIN)
        self.measured.trained.append(self.process.receive(self._patience_s))


def measure(assignments: Sequence[Assignment], runs: int, trainings: int = 0) -> list[Measured]:
    """Measure every row ``runs`` times alone, then those with a network ``trainings`` times inside training.

    A row that fails takes no further part; the others go on.
    """
    numbers = range(len(assignments))
    steps = [(Measuring.start, number) for number in numbers]
    steps += runs * [(Measuring.run, number) for number in numbers]
    steps += trainings * [(Measuring.train, number) for number in numbers if assignments[number].net]
    started: list[Measuring] = []
    try:
        for step, number in shown(steps, "measuring"):
            if step == Measuring.start:
                started.append(Measuring(assignments[number]))
            measured = started[number].measured
            if measured.failure is None:
                try:
                    step(started[number])
                except ProcessError as error:
                    measured.failure = str(error)
    finally:
        for one in started:
            one.process.close()
    return [one.measured for one in started]


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
