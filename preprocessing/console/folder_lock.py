"""Let one command at a time write into a folder, and tell the others which one it is."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from preprocessing.console.errors import InputError

log = logging.getLogger(__name__)
LOCK = ".lock"


@contextmanager
def hold(folder: Path, writer: str, *, is_new: bool = False) -> Iterator[None]:
    """Hold ``folder``, made where it is missing, for the length of the block.

    The system lets go of it when this process ends, killed or not: the lock is a record lock, which worker processes
    do not inherit, on a file that names its holder. A folder that was made for this (also by the caller: ``is_new``)
    and is empty at the end goes away again. Raises ``InputError`` that names the holder, ``writer`` saying what it
    is, such as "another run". On a file system without locks the block runs, and that is said.
    """
    is_new = is_new or not folder.exists()
    file = _take(folder, writer)
    try:
        file.truncate(0)
        file.write(f"host {socket.gethostname()}, process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        file.close()
        if is_new:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def make_new(folder: Path) -> Path:
    """Make a folder that was not there: ``folder``, or the first of ``folder-2``, ``folder-3`` ... that is free."""
    number = 1
    while True:
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def _take(folder: Path, writer: str) -> TextIO:
    """Open and lock the file; a holder that ends takes it away, perhaps between the two."""
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:
            continue
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read() or "which has just begun"
            file.close()
            raise InputError(
                f"{folder}: {writer} is writing there ({holder}); wait for its end, or give another --output"
            ) from error
        except OSError as error:
            log.warning("%s: a second writer would not be noticed, this file system has no locks (%s)", folder, error)
            return file
        with suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()
