"""Write and read checkpoints so that a kill at any instant, or a full disk, leaves a whole one."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from preprocessing.console.errors import InputError, RunError
from preprocessing.console.places import sync_folder

log = logging.getLogger(__name__)
VERSION = 2
LAST, PREVIOUS, BEST, DAMAGED = "last.pt", "previous.pt", "best.pt", "last.damaged"


def save_checkpoint(path: Path, content: dict[str, Any], keep_as: Path | None = None) -> None:
    """Write ``content`` to a temporary file beside ``path``, fsync it, rename it into place.

    What was at ``path`` moves to ``keep_as`` where that is given. Raises ``RunError`` when the file cannot be written,
    for example on a full disk; what was there before is then still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        raise _cannot_write(path, temporary, error) from error
    if keep_as is not None and path.exists():
        path.replace(keep_as)
    temporary.replace(path)
    sync_folder(path.parent)


def _cannot_write(path: Path, temporary: Path, error: Exception) -> RunError:
    """Say why, and take the unfinished file away."""
    cause: BaseException | None = error  # torch raises an error of its own while it handles the disk's
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).splitlines()[0]
    written = temporary.stat().st_size if temporary.exists() else 0
    temporary.unlink(missing_ok=True)
    return RunError(
        f"{path}: cannot be written ({reason} after {written / 1e6:.1f} MB); earlier checkpoints are kept: make room, "
        "then continue with --resume auto"
    )


def newest_whole(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest undamaged checkpoint to go on from, with its content; ``None`` where there is none at all.

    A damaged one is named and left as it is. Raises ``InputError`` when every one is damaged.
    """
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    for path in found:
        try:
            return path, load_checkpoint(path)
        except InputError as error:  # noqa: PERF203  # two files
            log.warning("%s", error)
    if found:
        raise InputError(f"{folder}: no undamaged checkpoint to resume from; start a new run with another --output")
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without unpickling anything but tensors and plain values.

    Raises ``InputError`` for a file that is missing, damaged, or not a voxelfeed checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as file:
            changed = file.testzip()  # torch.load does not look at the checksums
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint; train first with python -m training.run") from error
    except Exception as error:  # damaged bytes end in any of a dozen unrelated types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: damaged or not a checkpoint ({reason})") from error
    if changed is not None:
        raise InputError(f"{path}: damaged (the checksum of {changed} in it is wrong)")
    if not isinstance(content, dict) or content.get("version") != VERSION or "model" not in content:
        raise InputError(f"{path}: not a checkpoint of this version of voxelfeed (format {VERSION})")
    return content
