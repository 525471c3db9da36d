"""Let one converter at a time write into a store, its worker processes included, however it ends."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from preprocessing.console.errors import InputError
from preprocessing.console.places import is_remote

PATIENCE_S = 3.0  # the workers of a killed converter end within milliseconds of it, a machine under load takes longer


class FolderLock:
    """A lock on a folder that pickles into worker processes: it is held until the last holder has ended."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Callable[[Any], FolderLock], tuple[Any]]:
        """Hand the open file itself to a process that is being spawned."""
        return _inherit, (DupFd(self.descriptor),)


def _inherit(duplicate: Any) -> FolderLock:
    return FolderLock(duplicate.detach())


@contextmanager
def only_writer(root: Path) -> Iterator[FolderLock | None]:
    """Hold the folder ``root``; the system lets go of it when the holders end, killed or not.

    An object store has no such lock, and ``None`` is given: two converters there write the same bytes twice. Raises
    ``InputError`` when another process keeps the folder.
    """
    if is_remote(root):
        yield None
        return
    descriptor = os.open(root, os.O_RDONLY)
    try:
        give_up = time.monotonic() + PATIENCE_S
        while not _try_lock(descriptor):
            if time.monotonic() > give_up:
                raise InputError(f"{root}: another converter is writing there; wait for it or give another --output")
            time.sleep(0.02)
        yield FolderLock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def join_converter(_lock: FolderLock | None) -> None:
    """Begin a worker process: share the lock, and end when the converter ends.

    A pool's workers survive the kill of their parent and would go on writing shards.
    """
    threading.Thread(target=_end_with_converter, daemon=True).start()


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Block SIGINT for this thread and, for good, for the processes started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_converter() -> None:
    converter = parent_process()
    assert converter is not None
    converter.join()
    os._exit(1)
