"""Write and read checkpoints so that a kill at any instant leaves a whole one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from preprocessing.errors import InputError
from preprocessing.shards import sync_folder

VERSION = 1
LAST, BEST = "last.pt", "best.pt"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` to a temporary file beside ``path``, fsync it, rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save({"version": VERSION, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without unpickling anything but tensors and plain values.

    Raises ``InputError`` for a file that is missing, damaged, or not a voxelfeed checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint; train first with python -m training.run") from error
    except Exception as error:  # damaged bytes end in any of a dozen unrelated types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: damaged or not a checkpoint ({reason})") from error
    if not isinstance(content, dict) or content.get("version") != VERSION or "model" not in content:
        raise InputError(f"{path}: not a checkpoint of this version of voxelfeed (format {VERSION})")
    return content


def random_state() -> dict[str, Any]:
    """Return the state of PyTorch's generators; data randomness lives in the plan and needs none."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Go back to a state that ``random_state`` returned."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed PyTorch (weights, dropout) and NumPy's global generator (some MONAI parts use it)."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
