"""Turn SIGINT, SIGTERM and SIGUSR1 into a request that the training loop honours at the next safe place."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):  # noqa: N818 - it is a request, nothing went wrong
    """Leave the work under way; the state of the last whole step is to be saved."""


class StopRequest:
    """Remembers the signal that asked this process to end; the run ends when the processes agree on the step.

    Each process adds its ``votes`` to a sum that all of them get, and gives the sums to ``check``. A second SIGINT
    interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.is_interrupt = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def votes(self) -> tuple[float, float]:
        """Return 1 or 0 for: stop, and: stop because of SIGINT."""
        return float(self.signal is not None), float(self.signal is signal.SIGINT)

    def check(self, votes: Sequence[float]) -> None:
        """Raise ``Stopped`` when any process voted to stop; ``votes`` are the sums over all processes."""
        wanted, interrupted = votes
        if wanted:
            self.is_interrupt = interrupted > 0
            raise Stopped

    @property
    def exit_code(self) -> int:
        """0 after SIGTERM or SIGUSR1 (saved, to be resumed), 130 after SIGINT, as shells expect."""
        return 130 if self.is_interrupt else 0


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Handle the signals inside the block, then restore what handled them before."""
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
