"""Other processes: what they cost in processor time and memory, and work in a fresh one.

In a Python process of its own nothing is imported, allocated or cached before it counts.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

from benchmarks.measuring.origin import num_cores
from preprocessing.console.errors import RunError

QUIET_CORES = 0.1  # others' use of the machine, as a share of its cores, up to which wall times are trusted
PATIENCE_S = 300.0  # for an answer; a process that hangs is a failure
FAREWELL_S = 20.0
START = "import sys; from benchmarks.measuring.processes import work_for; work_for(int(sys.argv[1]))"


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
    total = 0
    for process in descendants(pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that ended meanwhile
            info = process.memory_info() if memory_kind() == "rss" else process.memory_full_info()
            total += int(getattr(info, memory_kind()))
    return total


def descendants(pid: int) -> list[psutil.Process]:
    """Return a process and all that it started, directly or not; nothing when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class NoiseWatch:
    """Watches, from its creation on, what others use of the machine."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._begin = time.perf_counter(), own_cpu_s(), machine_busy_s()

    def read(self) -> dict[str, float | bool]:
        """Return the mean of what others used since, in cores, the load before, and whether to doubt wall times."""
        now = time.perf_counter(), own_cpu_s(), machine_busy_s()
        elapsed_s, own_s, busy_s = (later - then for later, then in zip(now, self._begin, strict=True))
        others = max(busy_s - own_s, 0.0) / elapsed_s
        return {"others_cores": others, "load_before": self._load, "is_noisy": others > QUIET_CORES * num_cores()}


class ProcessError(RunError):
    """Say why a process did not do its work."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """What a process sends, as its last message, when its work raises."""

    reason: str


class FreshProcess:
    """Run ``work(connection, *arguments)`` in a new interpreter; ``work`` is a function of a module.

    Both sides talk through the connection, in what pickle takes. ``prefix`` goes before the command (a memory limit).
    ``peak_bytes`` is the most memory seen while ``receive`` was told to look.
    """

    def __init__(self, work: Callable[..., None], *arguments: object, prefix: Sequence[str] = ()) -> None:
        self.peak_bytes = 0
        self._pipe, theirs = multiprocessing.Pipe()
        command = [*prefix, sys.executable, "-c", START, str(theirs.fileno())]
        with theirs:  # in a session of its own: Ctrl-C is for this process alone, which then ends the other
            self._process = subprocess.Popen(
                command, env=_environment(), pass_fds=[theirs.fileno()], start_new_session=True
            )
        self.send((work, arguments))

    def send(self, message: object) -> None:
        """Ask for something; ``receive`` says when nobody is there."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(message)

    def receive(self, patience_s: float = PATIENCE_S, sample_s: float = 0.0) -> Any:
        """Return the next message; with ``sample_s`` look at the memory of the process tree as often meanwhile.

        Raises ``ProcessError`` when the work raised, the process ended, or nothing came for ``patience_s``.
        """
        deadline = time.perf_counter() + patience_s
        while True:
            if sample_s:
                self.peak_bytes = max(self.peak_bytes, tree_memory_bytes(self._process.pid))
            if self._pipe.poll(sample_s or 1.0):
                break
            if self._process.poll() is not None and not self._pipe.poll():  # its workers may hold the pipe open
                raise self._ended()
            if time.perf_counter() > deadline:
                raise ProcessError(f"no answer within {patience_s:.0f} s")
        try:
            message = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended() from None
        if isinstance(message, Failed):
            raise ProcessError(message.reason)
        return message

    def close(self) -> None:
        """End the process and all that it started, whatever state it is in."""
        started = descendants(self._process.pid) if self._process.poll() is None else []
        self._pipe.close()  # what waits for the next message ends by itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(FAREWELL_S)
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _ended(self) -> ProcessError:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return ProcessError("killed, as the kernel does when memory runs out")
        return ProcessError(f"its process ended unexpectedly (exit code {code})")


def call_fresh(work: Callable[..., Any], *arguments: object) -> Any:
    """Return what ``work(*arguments)`` returns in a new interpreter; raises ``ProcessError``."""
    with contextlib.closing(FreshProcess(answer, work, *arguments)) as process:
        return process.receive()


def answer(connection: Connection, work: Callable[..., Any], *arguments: object) -> None:
    """Send what ``work`` returns."""
    connection.send(work(*arguments))


def work_for(descriptor: int) -> None:
    """Do, in the new process, what the first message says; what it raises is sent back."""
    with Connection(descriptor) as connection:
        try:
            work, arguments = connection.recv()
            work(connection, *arguments)
        except Exception as error:  # noqa: BLE001  # whatever breaks a row is a result: the row says so
            with contextlib.suppress(BrokenPipeError):
                connection.send(Failed(reason=f"{type(error).__name__}: {' '.join(str(error).split())}"))


def run_command(module: str, flags: Mapping[str, object]) -> None:
    """Run ``python -m module`` with ``flags``; raises ``RunError`` with the last line that a failed command said."""
    words = ["-m", module, *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]
    done = subprocess.run([sys.executable, *words], env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(f"python {' '.join(words)}: {said[-1]}")


def _environment() -> dict[str, str]:
    """Let a new process find the modules that this one finds."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
