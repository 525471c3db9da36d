"""The only reader of rank variables: which process this is among how many."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from preprocessing.errors import InputError


@dataclass(frozen=True, kw_only=True)
class World:
    """Place of this process: ``rank`` among ``world_size`` processes, ``local_rank`` among those of its machine."""

    rank: int
    local_rank: int
    world_size: int


def read_world(environment: Mapping[str, str] = os.environ) -> World:
    """Read what ``torchrun`` set; without it this is the only process.

    Raises ``InputError`` for more than one process, which this version cannot train with yet.
    """
    world = World(
        rank=int(environment.get("RANK", "0")),
        local_rank=int(environment.get("LOCAL_RANK", "0")),
        world_size=int(environment.get("WORLD_SIZE", "1")),
    )
    if world.world_size > 1:
        raise InputError(
            f"started as {world.world_size} processes; this version trains in one, start it without torchrun"
        )
    return world


def choose_device(wanted: str, world: World) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into this process's device.

    Raises ``InputError`` for another name, or for ``cuda`` where there is none.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {wanted}: unknown; known: auto, cpu, cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is visible here; use --device cpu or auto")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(world.local_rank)
    return torch.device("cuda", world.local_rank)
