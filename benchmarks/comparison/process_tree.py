"""What a process and its descendants cost: processor seconds and memory."""

from __future__ import annotations

import functools
import time

import psutil


class ProcessorClock:
    """Processor seconds of this process and the worker processes that it has now, and of all others on the machine."""

    def __init__(self) -> None:
        self._workers = psutil.Process().children(recursive=True)

    def read(self) -> tuple[float, float]:
        """Return (seconds of this tree, seconds of the whole machine), each since some fixed moment."""
        times = [worker.cpu_times() for worker in self._workers if worker.is_running()]
        return time.process_time() + sum(spent.user + spent.system for spent in times), machine_busy_s()


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
