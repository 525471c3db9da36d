"""How much device memory the pool of volumes gets: for all the volumes that a rank reads, or for a window of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch

from pipelines.plan import Int3, Plan
from preprocessing.errors import InputError

log = logging.getLogger(__name__)
AUTO_SHARE = 0.5  # of the memory that is free when the loader is built: the rest is the model's
ALIGNMENT = 512  # bytes; what cudaMalloc aligns to, at least


@dataclass(frozen=True, kw_only=True)
class Budget:
    """``size_bytes`` for volumes of up to ``largest_voxels``; where ``is_resident``, what came never leaves."""

    size_bytes: int
    largest_voxels: int
    is_resident: bool


def aligned(num_bytes: int) -> int:
    """Round up to what the next array may start at."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def volume_bytes(shape_dhw: Int3, num_channels: int, itemsize: int) -> int:
    """Count the bytes that one case takes in the pool: image, then label."""
    voxels = math.prod(shape_dhw)
    return aligned(voxels * num_channels * itemsize) + aligned(voxels)


def free_bytes(device: torch.device) -> int:
    """Ask how much memory is free on the device."""
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)


def choose_budget(
    plan: Plan, lanes: Sequence[int], itemsize: int, limit_gib: float | None, num_free_bytes: int
) -> Budget:
    """Choose the size of the pool: ``limit_gib`` at most, or ``AUTO_SHARE`` of what is free when that is ``None``.

    All volumes that ``lanes`` may ever read, where they fit; else a window of the plan and, if it fits, the next one.
    A rank reads all cases in the course of the epochs, unless the plan is sticky. Raises ``InputError`` when not even
    the largest possible window fits.
    """
    case_ids = plan.cases_of(lanes)
    shapes = sorted((plan.store.case(case_id).shape_dhw for case_id in case_ids), key=math.prod, reverse=True)
    sizes = [volume_bytes(shape, plan.num_channels, itemsize) for shape in shapes]
    limit = int(AUTO_SHARE * num_free_bytes if limit_gib is None else min(limit_gib * 2**30, num_free_bytes))
    in_window = min(plan.options.window * len(lanes), len(sizes))
    window, total = sum(sizes[:in_window]), sum(sizes)
    least = window + sizes[0]  # a volume does not wrap around the end of the buffer: see ByteRing
    is_resident = total <= limit
    if not is_resident and least > limit:
        raise InputError(
            f"gpu_cache {'auto' if limit_gib is None else f'{limit_gib:g}'}: a window of {in_window} volumes needs "
            f"{_gib(min(total, least))}, {_gib(limit)} may be used; raise --gpu-cache, lower --batch-size, or take "
            "--crop host"
        )
    wanted = total if is_resident else min(limit, least + window)
    log.info(
        "%s for %s of %d cases on the device",
        _gib(wanted),
        "all volumes" if is_resident else f"a window of {in_window}",
        len(sizes),
    )
    return Budget(size_bytes=wanted, largest_voxels=math.prod(shapes[0]), is_resident=is_resident)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.3g} GiB"
