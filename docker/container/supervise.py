"""Run a command as the first process of a container has to: pass on SIGTERM, reap orphans, keep its last lines."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

LOOK_EVERY_S = 0.1
KEPT_LINES = 40


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: its exit code (128 + the signal's number if one killed it) and its last lines on stderr."""

    code: int
    was_stopped: bool
    last_lines: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Its own error lines if it has any; else its last lines, unless it was stopped."""
        errors = dict.fromkeys(line for line in self.last_lines if line.startswith("error: "))
        if errors or self.was_stopped:
            return "\n".join(errors)
        return "\n".join([f"ended with exit code {self.code}", *self.last_lines[-10:]])


class Stop:
    """Remembers SIGTERM and SIGINT, which the first process of a container would not get otherwise."""

    def __init__(self) -> None:
        self.is_asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: object) -> None:
        self.is_asked = True


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to start, with which environment, and which processes are sent which signal to stop.

    ``listeners`` takes the process id of the started command, and is asked again for those that came later.
    """

    words: list[str]
    environment: Mapping[str, str]
    listeners: Callable[[int], set[int]] = lambda pid: {pid}
    stop_signal: signal.Signals = signal.SIGTERM


def run_module(words: Sequence[str], stop: Stop) -> Ended:
    """Run ``python -m`` with ``words`` to its end."""
    return supervise(Command(words=[sys.executable, "-m", *words], environment=os.environ), stop)


def supervise(command: Command, stop: Stop) -> Ended:
    """Run ``command`` to its end; its messages go to stderr as they come."""
    read_end, write_end = os.pipe()
    pid = os.posix_spawnp(
        command.words[0], command.words, command.environment, file_actions=[(os.POSIX_SPAWN_DUP2, write_end, 2)]
    )
    os.close(write_end)
    last_lines: deque[str] = deque(maxlen=KEPT_LINES)
    reader = threading.Thread(target=_pass_on, args=(read_end, last_lines), daemon=True)
    reader.start()
    told: set[int] = set()
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)  # any child: orphans become those of the first process
        if ended == pid:
            break
        if stop.is_asked:
            told |= _tell(command, pid, told)
        if not ended:
            time.sleep(LOOK_EVERY_S)
    reader.join(timeout=2)  # processes that it left behind may hold the other end
    code = os.waitstatus_to_exitcode(status)
    return Ended(code=code if code >= 0 else 128 - code, was_stopped=bool(told), last_lines=tuple(last_lines))


def _tell(command: Command, pid: int, told: set[int]) -> set[int]:
    """Signal each listener once: a second signal would hit a process that is ending and no longer listens.

    Where nobody listens yet there is nothing to save, and the command itself is ended.
    """
    new = command.listeners(pid) - told
    for listener in new:
        _signal(listener, command.stop_signal)
    if not new and not told:
        _signal(pid, signal.SIGTERM)
        return {pid}
    return new


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _pass_on(source: int, last_lines: deque[str]) -> None:
    with os.fdopen(source, "rb") as lines:
        for line in lines:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
            last_lines.append(line.decode(errors="replace").rstrip())
