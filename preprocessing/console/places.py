"""Where files lie: in folders of this machine, or on an object store that fsspec speaks, ``s3://`` above all.

A place on an object store passes for a ``pathlib.Path``: universal_pathlib gives it the same methods. What such a store
cannot do is lock a folder or rename; what it does better is that a file shows only when all of it has been written.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from preprocessing.console.errors import InputError, RunError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, a quota, or a limit on the size of one file
PLAIN = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)  # what a folder may answer as well


def location(text: str | Path) -> Path:
    """Read ``"data/shards"`` or ``"s3://bucket/shards"``.

    Raises ``InputError`` for a kind of store that fsspec does not know, or whose package is not installed.
    """
    if is_remote(text):
        return cast(Path, text)
    if "://" not in str(text) or str(text).startswith("file://"):
        return Path(str(text).removeprefix("file://"))
    from upath import UPath

    try:
        return cast(Path, UPath(str(text).rstrip("/")))
    except ImportError as error:
        raise InputError(f'{text}: {error}; s3:// comes with pip install "voxelfeed[s3]"') from error
    except ValueError as error:
        raise InputError(f"{text}: {error}; give a folder, or for example s3://BUCKET/FOLDER") from error


def is_remote(path: object) -> bool:
    """Whether a path lies on an object store: there nothing is renamed, locked or memory-mapped."""
    return not isinstance(path, str | Path)


def absolute(path: Path) -> Path:
    """Make a place mean the same in any working folder; an object store's does already."""
    return path if is_remote(path) else path.absolute()


def is_file_name(text: object) -> bool:
    """Whether ``text`` can name a file or folder in another one, and leads nowhere else."""
    return isinstance(text, str) and text not in ("", ".", "..") and not set(text) & set("/\\\0")


def is_path(path: Path) -> bool:
    """Whether the system can look for a path: no NUL, nothing that it cannot write, no part above 255 bytes."""
    try:
        raw = os.fsencode(str(path))
    except UnicodeEncodeError:
        return False
    return b"\0" not in raw and max(map(len, raw.split(b"/"))) <= 255


def named_in(folder: Path, text: str) -> Path:
    """Read a path as a list in ``folder`` names it: relative to that folder, or whole; with slashes of any system."""
    if "://" in text:
        return location(text)
    path = folder / text
    if "\\" in text and not (is_path(path) and path.exists()):
        path = folder / text.replace("\\", "/")
    return path.resolve() if is_remote(path) else path  # keys are text: ./a is not a


@contextmanager
def remote_errors(path: Path) -> Iterator[Any]:
    """Give the file system of an object store; what goes wrong on the way to it ends in one line as ``RunError``."""
    try:
        yield path.fs if is_remote(path) else None  # type: ignore[attr-defined]
    except (*PLAIN, InputError, RunError):
        raise
    except Exception as error:  # botocore, aiohttp and others each have their own
        if not is_remote(path):
            raise
        raise RunError(
            f"{path}: the object store did not answer ({error}); when it answers again, give the same command"
        ) from error


def read_file(path: Path) -> bytes:
    """Read a whole file."""
    with remote_errors(path) as remote:
        return path.read_bytes() if remote is None else bytes(remote.cat_file(str(path)))


def read_chunks(path: Path, chunk_bytes: int = 2**23) -> Iterator[bytes]:
    """Yield the content of a file in pieces of ``chunk_bytes``; on an object store each is one request."""
    with remote_errors(path) as remote:
        opened = path.open("rb") if remote is None else remote.open(str(path), "rb", cache_type="none")
        with opened as file:
            while chunk := file.read(chunk_bytes):
                yield chunk


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file, durably; on an object store it appears whole or not at all."""
    with remote_errors(path) as remote:
        if remote is not None:
            remote.pipe_file(str(path), b"".join(parts))
            return
        try:
            with path.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise RunError(
                f"{path}: {error.strerror}; finished work is kept: make room, then run the same command again"
            ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it is whole at every instant, before it is replaced and after."""
    if is_remote(path):
        write_file(path, [content])
        return
    temporary = path.with_name(path.name + ".tmp")
    write_file(temporary, [content])
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames inside a folder durable."""
    if is_remote(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sizes_in(folder: Path) -> dict[str, int]:
    """Return the size of every file in a folder by name, -1 for what is no file; one look at each."""
    with remote_errors(folder) as remote:
        if remote is not None:
            items = remote.ls(str(folder), detail=True, refresh=True)
            return {i["name"].rpartition("/")[2]: i["size"] if i["type"] == "file" else -1 for i in items}
        with os.scandir(folder) as found:
            return {item.name: item.stat().st_size if item.is_file() else -1 for item in found}


def make_folder(path: Path) -> None:
    """Make a folder and those above it; an object store has none to make."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder and all in it; on an object store there may be nothing."""
    with remote_errors(path) as remote:
        if remote is None:
            shutil.rmtree(path)
        elif remote.exists(str(path)):
            remote.rm(str(path), recursive=True)
