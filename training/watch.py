"""End all processes of a run when one of them fails, with the message of the one that did.

Collectives alone do not: gloo notices a peer that is gone but not why, NCCL waits for it for minutes. So every process
leaves its failure in the store through which the processes met, and shows there that it is alive; a thread in each
looks at both. Process r looks after process r + 1, so the work per process does not grow with their number.
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

from preprocessing.errors import EXIT_UNEXPECTED, EXIT_USAGE, InputError, RunError
from training.distributed import World
from training.failure import leave_failure

log = logging.getLogger(__name__)
LOOK_EVERY_S = 0.5
SILENT_S = 20.0  # a living process can be this late: nothing in a step holds Python's lock for so long
ACKNOWLEDGE_S = 10.0
FAILURE, SEEN, DONE = "voxelfeed/failure", "voxelfeed/seen", "done"
LOST = "lost contact with another process: it was killed or its machine is gone; go on with --resume auto"


class Watch:
    """Tells the other processes of a failure here, and ends this one when another has failed."""

    def __init__(self, world: World, store: Any) -> None:
        self.world, self._store = world, store
        self._watched = _alive_key((world.rank + 1) % world.world_size)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="voxelfeed-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking; the process that looks after this one is told not to miss it."""
        self._ended.set()
        self._thread.join()
        with suppress(dist.DistError, RuntimeError):
            self._store.set(_alive_key(self.world.rank), DONE)

    def explain(self, error: Exception) -> Exception:
        """Return what to raise for ``error``: another process's failure if that was the cause, which ends all alike.

        A failure of this process is told to the others, and this process waits until they have seen it.
        """
        self._ended.set()
        self._thread.join()
        lost = isinstance(error, dist.DistError) or _is_of_a_collective(error)
        own = RunError(LOST) if lost else error
        try:
            known = self._announce(own)
            self._acknowledge(wait=known["rank"] == self.world.rank and not lost)
        except RuntimeError:  # the store is gone, and with it the process that held it
            return own
        return own if known["rank"] == self.world.rank else _as_error(known)

    def _announce(self, error: Exception) -> dict[str, Any]:
        """Leave the failure in the store unless there is one; returns the one that is there now."""
        mine = {
            "rank": self.world.rank,
            "code": EXIT_USAGE if isinstance(error, InputError) else EXIT_UNEXPECTED,
            "message": str(error) or type(error).__name__,
        }
        known: dict[str, Any] = json.loads(self._store.compare_set(FAILURE, "", json.dumps(mine)))
        return known

    def _acknowledge(self, *, wait: bool) -> None:
        seen = self._store.add(SEEN, 1)
        give_up = time.monotonic() + ACKNOWLEDGE_S
        while wait and seen < self.world.world_size and time.monotonic() < give_up:
            time.sleep(LOOK_EVERY_S / 5)
            seen = self._store.add(SEEN, 0)

    def _look(self) -> None:
        beat, heard, heard_at = 0, b"", time.monotonic()
        while not self._ended.wait(LOOK_EVERY_S):
            try:
                beat += 1
                self._store.set(_alive_key(self.world.rank), str(beat))
                if self._store.check([FAILURE]):
                    self._end(json.loads(self._store.get(FAILURE)))
                if self._store.check([self._watched]) and (now := self._store.get(self._watched)) != heard:
                    heard, heard_at = now, time.monotonic()
            except RuntimeError:
                self._end({"rank": self.world.rank, "code": EXIT_UNEXPECTED, "message": LOST})
            if heard and heard != DONE.encode() and time.monotonic() - heard_at > SILENT_S:
                neighbour = (self.world.rank + 1) % self.world.world_size
                silent = f"rank {neighbour} has given no sign of life for {SILENT_S:.0f} s"
                self._end(self._announce(RunError(f"{silent}: {LOST}")))

    def _end(self, failure: dict[str, Any]) -> None:
        """Leave at once: the main thread may sit in a collective that never returns."""
        if self._ended.is_set():
            return  # the main thread is ending by itself
        error = _as_error(failure)
        log.error("error: %s", error)
        leave_failure(error)
        with suppress(RuntimeError):
            self._acknowledge(wait=False)
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
