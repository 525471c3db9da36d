"""What a process and its descendants cost: processor seconds and memory."""

from __future__ import annotations

import functools
import os
import resource
import time

import psutil

from benchmarks.measuring.origin import num_cores

QUIET_CORES = 0.1  # others' use of the machine, as a share of its cores, up to which wall times are trusted


def own_cpu_s() -> float:
    """Return processor seconds of this process and of all it ever started, those still running included."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile, and counts among the ended ones the next time
        total += times.user + times.system + times.children_user + times.children_system
    return total


def machine_busy_s() -> float:
    """Return processor seconds that everything on the machine has used, since some fixed moment."""
    spent = psutil.cpu_times()._asdict()
    idle = ("idle", "iowait", "guest", "guest_nice")  # guests are counted in user and nice already
    return float(sum(seconds for name, seconds in spent.items() if name not in idle))


@functools.cache
def memory_kind() -> str:
    """Name the measure of memory: pss (shared pages divided by their users) on Linux, else uss, else rss."""
    try:
        known = psutil.Process().memory_full_info()._fields
    except psutil.Error:
        return "rss"
    return next(name for name in ("pss", "uss", "rss") if name in known)


def tree_memory_bytes(pid: int) -> int:
    """Return the memory that a process and its descendants hold now."""
    return sum(_memory_bytes(process) for process in descendants(pid))


def descendants(pid: int) -> list[psutil.Process]:
    """Return a process and all that it started, directly or not; nothing when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory_bytes(process: psutil.Process) -> int:
    try:
        info = process.memory_info() if memory_kind() == "rss" else process.memory_full_info()
        return int(getattr(info, memory_kind()))
    except psutil.NoSuchProcess:  # a worker that ended meanwhile
        return 0


class NoiseWatch:
    """Watches, from its creation on, what others use of the machine."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._begin = time.perf_counter(), own_cpu_s(), machine_busy_s()

    def read(self) -> dict[str, float | bool]:
        """Return the mean of what others used since, in cores, the load before, and whether to doubt wall times."""
        elapsed_s, own_s, busy_s = (
            now - then
            for now, then in zip((time.perf_counter(), own_cpu_s(), machine_busy_s()), self._begin, strict=True)
        )
        others = max(busy_s - own_s, 0.0) / elapsed_s
        return {"others_cores": others, "load_before": self._load, "is_noisy": others > QUIET_CORES * num_cores()}
