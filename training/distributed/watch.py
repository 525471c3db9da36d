"""End all processes of a run when one of them fails, with the message of the one that did.

Collectives alone do not: gloo notices a peer that is gone but not why, NCCL waits for it for minutes. So every process
leaves its failure in the store through which the processes met, and shows there that it is alive; a thread in each
looks at both. Process r looks after process r + 1, so the work per process does not grow with their number. Questions
to a store whose process has stopped are never answered, whatever its timeout: a second thread waits for the first.

The reason is also left where torchrun looks for it ("Error Propagation" in the documentation of
torch.distributed.elastic): it hands the first rank's on to whoever started it. Without torchrun nothing is written.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from preprocessing.console.errors import EXIT_UNEXPECTED, EXIT_USAGE, InputError, RunError
from training.distributed.world import World

log = logging.getLogger(__name__)
LOOK_EVERY_S = 0.5
SILENT_S = 20.0  # a living process can be this late: nothing in a step holds Python's lock for so long
STARTING_S = 120.0  # until the first step: importing DALI and starting CUDA hold it, on a busy machine for long
ACKNOWLEDGE_S = 10.0
FAILURE, SEEN, JOINED, DONE = "voxelfeed/failure", "voxelfeed/seen", "voxelfeed/joined", "done"
LOST = "lost contact with another process: it was killed or its machine is gone; continue with --resume auto"


def write_failure(error: Exception) -> None:
    """Write ``error`` to this process's error file, where there is room for it: nothing depends on it."""
    with suppress(OSError):
        get_error_handler().record_exception(error)


@contextmanager
def record_failure() -> Iterator[None]:
    """Run the block; an exception in it is written to the error file and goes on."""
    try:
        yield
    except Exception as error:
        write_failure(error)
        raise


class Watch:
    """Tells the other processes of a failure here, and ends this one when another has failed."""

    def __init__(self, world: World, store: Any) -> None:
        self.world, self._store = world, store
        self._watched = _alive_key((world.rank + 1) % world.world_size)
        self._ended, self._closed = threading.Event(), threading.Event()
        self._unanswered = 0
        self._has_stepped = False
        self._own: Exception = RunError(LOST)
        self._store.add(JOINED, 1)
        self._thread = threading.Thread(target=self._look, name="voxelfeed-watch", daemon=True)
        self._guarding = threading.Thread(target=self._guard, name="voxelfeed-guard", daemon=True)
        self._thread.start()
        self._guarding.start()

    def stepped(self) -> None:
        """Expect signs of life as often as a training gives them: all have taken a step together."""
        self._has_stepped = True

    def close(self) -> None:
        """Stop looking; the process that looks after this one is told not to miss it."""
        self._ended.set()
        self._thread.join()
        with suppress(RuntimeError):
            self._store.set(_alive_key(self.world.rank), DONE)
        self._stop_guarding()

    def explain(self, error: Exception) -> Exception:
        """Return what to raise for ``error``: another process's failure if that was the cause, which ends all alike.

        A failure of this process is told to the others, and this process waits until they have seen it.
        """
        lost = isinstance(error, dist.DistError) or _is_of_a_collective(error)
        own = self._own = RunError(LOST) if lost else error
        self._ended.set()
        self._thread.join()
        try:
            known = self._announce(own)
            self._acknowledge(wait=known["rank"] == self.world.rank and not lost)
        except RuntimeError:  # the store is gone, and with it the process that held it
            return own
        finally:
            self._stop_guarding()
        return own if known["rank"] == self.world.rank else _as_error(known)

    def _stop_guarding(self) -> None:
        self._closed.set()
        self._guarding.join()

    def _announce(self, error: Exception) -> dict[str, Any]:
        """Leave the failure in the store unless there is one; returns the one that is there now."""
        mine = json.dumps(self._described(error))
        known: dict[str, Any] = json.loads(self._store.compare_set(FAILURE, "", mine))
        return known

    def _described(self, error: Exception) -> dict[str, Any]:
        return {
            "rank": self.world.rank,
            "code": EXIT_USAGE if isinstance(error, InputError) else EXIT_UNEXPECTED,
            "message": str(error) or type(error).__name__,
        }

    def _acknowledge(self, *, wait: bool) -> None:
        seen = self._store.add(SEEN, 1)
        give_up = time.monotonic() + ACKNOWLEDGE_S
        while wait and seen < self.world.world_size and time.monotonic() < give_up:
            self._unanswered = 0
            time.sleep(LOOK_EVERY_S / 5)
            seen = self._store.add(SEEN, 0)

    def _look(self) -> None:
        try:
            self._look_until_ended()
        except RuntimeError:
            self._end(self._described(RunError(LOST)))

    def _look_until_ended(self) -> None:
        beat, heard, heard_at, all_joined = 0, b"", time.monotonic(), False
        while not self._ended.wait(LOOK_EVERY_S):
            beat += 1
            self._store.set(_alive_key(self.world.rank), str(beat))
            if self._store.check([FAILURE]):
                self._end(json.loads(self._store.get(FAILURE)))
            if not all_joined:
                all_joined, heard_at = self._store.add(JOINED, 0) == self.world.world_size, time.monotonic()
            if self._store.check([self._watched]) and (now := self._store.get(self._watched)) != heard:
                heard, heard_at = now, time.monotonic()
            self._unanswered = 0
            patience_s = SILENT_S if self._has_stepped else STARTING_S
            if heard != DONE.encode() and time.monotonic() - heard_at > patience_s:
                neighbour = (self.world.rank + 1) % self.world.world_size
                silent = f"rank {neighbour} has given no sign of life for {patience_s:.0f} s"
                self._end(self._announce(RunError(f"{silent}: {LOST}")))

    def _guard(self) -> None:
        """End this process when the store has not answered for too long; the time is that of this thread's own turns.

        So a process that was stopped and goes on asks first.
        """
        while not self._closed.wait(LOOK_EVERY_S):
            self._unanswered += 1
            if self._unanswered * LOOK_EVERY_S > SILENT_S:
                self._leave(self._described(self._own))

    def _end(self, failure: dict[str, Any]) -> None:
        """Leave with the failure of some process, saying that it was seen."""
        if self._ended.is_set():
            return  # the main thread is ending by itself
        with suppress(RuntimeError):
            self._acknowledge(wait=False)
        self._leave(failure)

    def _leave(self, failure: dict[str, Any]) -> None:
        """Leave at once: the main thread may sit in a collective that never returns."""
        error = _as_error(failure)
        log.error("error: %s", error)
        write_failure(error)
        logging.shutdown()
        os._exit(failure["code"])


def _alive_key(rank: int) -> str:
    return f"voxelfeed/alive/{rank}"


def _as_error(failure: dict[str, Any]) -> Exception:
    kind = InputError if failure["code"] == EXIT_USAGE else RunError
    return kind(f"rank {failure['rank']}: {failure['message']}")


def _is_of_a_collective(error: Exception) -> bool:
    """Tell a peer's loss, which gloo reports as a plain ``RuntimeError``."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", "c10d"))


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Run the block; an exception in it ends all processes, and a failure elsewhere ends it."""
    try:
        yield
    except Exception as error:
        raised = watch.explain(error)
        if raised is error:
            raise
        raise raised from error
    watch.close()
