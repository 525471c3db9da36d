"""How much device memory the pool of volumes gets: for all the volumes that a rank reads, or for a window of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch

from pipelines.plan import Plan
from preprocessing.console.errors import InputError
from preprocessing.volumes.grid import Int3

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


@dataclass(frozen=True, kw_only=True)
class Need:
    """What the volumes of a rank take: ``total_bytes`` of all, ``window_bytes`` of the largest ``in_window`` of them.

    A volume does not wrap around the end of the buffer (see ``ByteRing``), so a pool has ``least_bytes`` at least.
    """

    num_volumes: int
    in_window: int
    total_bytes: int
    window_bytes: int
    largest_bytes: int
    largest_voxels: int

    @property
    def least_bytes(self) -> int:
        """Return what any window fits in."""
        return min(self.window_bytes + self.largest_bytes, self.total_bytes)


def measure_need(plan: Plan, lanes: Sequence[int], itemsize: int) -> Need:
    """Count over all volumes that ``lanes`` may ever read: every case, unless the plan is sticky."""
    shapes = [plan.store.case(case_id).shape_dhw for case_id in plan.cases_of(lanes)]
    sizes = sorted((volume_bytes(shape, plan.num_channels, itemsize) for shape in shapes), reverse=True)
    in_window = min(plan.most_in_window * len(lanes), len(sizes))
    return Need(
        num_volumes=len(sizes),
        in_window=in_window,
        total_bytes=sum(sizes),
        window_bytes=sum(sizes[:in_window]),
        largest_bytes=sizes[0],
        largest_voxels=max(map(math.prod, shapes)),
    )


def choose_budget(need: Need, limit_gib: float | None, num_free_bytes: int) -> Budget:
    """Choose the size of the pool: ``limit_gib`` at most, or ``AUTO_SHARE`` of what is free when that is ``None``.

    All volumes, where they fit; else a window of the plan and, as far as it fits, the next one. Raises ``InputError``
    when not even the largest possible window fits.
    """
    limit = int(AUTO_SHARE * num_free_bytes if limit_gib is None else min(limit_gib * 2**30, num_free_bytes))
    is_resident = need.total_bytes <= limit
    if limit < need.least_bytes:
        given = "auto" if limit_gib is None else f"{limit_gib:g}"
        raise InputError(
            f"gpu_cache {given}: a window of {need.in_window} volumes needs {_gib(need.least_bytes)}, {_gib(limit)} "
            "may be used; raise --gpu-cache, lower --batch-size, or take --crop host"
        )
    size = need.total_bytes if is_resident else min(limit, need.least_bytes + need.window_bytes)
    which = "all volumes" if is_resident else f"a window of {need.in_window}"
    log.info("%s for %s of %d cases on the device", _gib(size), which, need.num_volumes)
    return Budget(size_bytes=size, largest_voxels=need.largest_voxels, is_resident=is_resident)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.3g} GiB"
