"""How a shard is written: whole or not at all, even if the power fails.

In a folder it is written under a temporary name and renamed. An object store cannot rename; there a shard's files are
written in place, its index last, and a shard whose index is missing is none: the next run removes what is there.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.console.places import is_remote, remote_errors, remove_folder, sync_folder
from preprocessing.shards.files import INDEX


@contextmanager
def new_shard(target: Path) -> Iterator[Path]:
    """Give the folder to write the files of the shard ``target`` into, its index last; then give the shard its name.

    Where another process has made the same shard meanwhile, the first one to be whole stays. What was written before an
    error goes again: a full disk is not kept full.
    """
    if is_remote(target):
        yield target
        return
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        sync_folder(temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not has_shard(target):
                raise
        sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def has_shard(target: Path) -> bool:
    """Whether the shard ``target`` is there and whole."""
    with remote_errors(target):
        return (target / INDEX).is_file()


def clear_unfinished(root: Path, names: list[str]) -> None:
    """Remove what a killed run left under ``root`` of the shards ``names`` that it had not finished."""
    if not is_remote(root):
        for leftover in root.glob("shard-*.tmp"):
            shutil.rmtree(leftover)
        return
    for target in (root / name for name in names):
        if not has_shard(target):
            remove_folder(target)
