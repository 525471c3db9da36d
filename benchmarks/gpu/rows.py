"""What ``gpu_check`` measures: every way to feed a GPU, on the same plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.measuring.rows import Row
from pipelines.config import LoaderConfig
from pipelines.dali.pool_budget import measure_need
from pipelines.loaders import open_plan


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows that stand in one table: alone, or in training ``net`` on ``num_cores`` processor cores."""

    config: LoaderConfig
    rows: list[Row]
    net: str = ""
    num_cores: int = 0


def loader_rows(config: LoaderConfig, names: Sequence[str], workers: Sequence[int]) -> list[Row]:
    """Return a row for each source of ``dali``, for ``torch`` with each number of workers, and for the others."""
    made = {"dali": _sources(config), "torch": [dataclasses.replace(config, num_workers=count) for count in workers]}
    return [Row(loader=name, config=way) for name in names for way in made.get(name, [config])]


def _sources(config: LoaderConfig) -> list[LoaderConfig]:
    cached = dataclasses.replace(config, crop="device")
    ways = [cached, *_rotating(cached)]
    ways += [dataclasses.replace(config, crop="host"), dataclasses.replace(config, read="dali")]
    if config.device == "gpu":
        ways += [dataclasses.replace(config, read="gds"), dataclasses.replace(config, device="cpu", crop="host")]
    return ways


def training_rows(config: LoaderConfig, names: Sequence[str], num_cores: int) -> list[Row]:
    """Return a row for each loader, to be trained from with ``num_cores``; two for ``dali``."""
    threads = min(num_cores, config.num_threads)
    some = dataclasses.replace(config, num_workers=num_cores, num_threads=threads)
    both = [dataclasses.replace(some, crop=crop) for crop in ("device", "host")]
    return [Row(loader=name, config=way) for name in names for way in (both if name == "dali" else [some])]


def _rotating(config: LoaderConfig) -> list[LoaderConfig]:
    """Limit the pool to two windows; nothing where all volumes fit into that."""
    store, plan = open_plan(config)
    itemsize = np.dtype(store.manifest.image_dtype).itemsize
    need = measure_need(plan, plan.lanes_of(0, 1), itemsize)
    limit = need.least_bytes + need.window_bytes
    return [dataclasses.replace(config, gpu_cache=str(limit / 2**30))] if limit < need.total_bytes else []
