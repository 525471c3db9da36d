"""Run a command with less memory than the machine has, page cache included, so that data sets need not be huge."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from preprocessing.console.errors import InputError

CONTROLLER = Path("/sys/fs/cgroup/memory")
JOIN = 'echo $$ > "$0" && exec "$@"'  # before the command starts: memory it already has is not counted any more


@contextlib.contextmanager
def memory_limit(limit_mb: int) -> Iterator[list[str]]:
    """Make a memory cgroup of ``limit_mb`` below this process's own; yields the words to put before a command.

    None for 0, which limits nothing.
    A limit of the address space would not do: it does not count the page cache, which is what shards live in. Raises
    ``InputError`` where such a group cannot be made.
    """
    if not limit_mb:
        yield []
        return
    group = CONTROLLER / _own_group().lstrip("/") / f"voxelfeed-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise InputError(
            f"memory cannot be limited here ({group.parent}: {error.strerror}); that needs root and "
            "cgroup v1's memory controller; give --memory-mb 0, or start the benchmark in a container of that size"
        ) from error
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_mb * 10**6), encoding="ascii")
        yield ["sh", "-c", JOIN, str(group / "cgroup.procs")]
    finally:
        _end_processes(group / "cgroup.procs")
        group.rmdir()


def _end_processes(members: Path) -> None:
    """End what the command left running, the workers of a process that was killed for instance."""
    while left := members.read_text(encoding="ascii").split():
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        time.sleep(0.05)


def _own_group() -> str:
    lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    return next((line.split(":")[2] for line in lines if "memory" in line.split(":")[1].split(",")), "")
