"""How many GPUs a storage feeds, and how much of it a store takes."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.experiments.assumptions import Gpu
from pipelines.config import LoaderConfig
from preprocessing.shards.store import Store

TIB_MB = 2**40 / 1e6


def patch_bytes(store: Store, config: LoaderConfig) -> int:
    """Return the bytes of one patch as it lies in the store, image and label."""
    voxel = len(store.manifest.channel_names) * np.dtype(store.manifest.image_dtype).itemsize + 1
    return math.prod(config.patch) * voxel


def gpus_fed(gpu: Gpu, patch_mb: float, mb_per_s: float) -> float:
    """Return how many ``gpu`` a storage feeds when every patch of 4 x 128^3 costs ``patch_mb`` of reading."""
    return mb_per_s / (gpu.patches_per_s * patch_mb)


def fsx_size_tib(store_mb: float) -> float:
    """Return the smallest FSx for Lustre (SSD: 1.2 TiB, 2.4 TiB and multiples of that) that holds a store.

    1 TB takes 1.2 TiB, 1.33 TB takes 2.4 TiB.
    """
    needed = store_mb / TIB_MB
    return 1.2 if needed <= 1.2 else 2.4 * -(-needed // 2.4)
