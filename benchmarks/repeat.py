"""Time functions in rounds: every one once per round, so that noise hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Seconds = dict[str, list[float]]


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
