"""The table of loaders and the one way to build them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from pipelines.batch import Loader
from pipelines.plan import Int3, Plan, PlanOptions, fits_memory
from preprocessing.errors import InputError
from preprocessing.shards import Store, open_store

DTYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What a loader delivers and how; the first block decides the samples, the second only the speed.

    ``batch_size`` is per rank. ``cases`` restricts the loader to some case ids (default: every labelled case).
    ``regions`` asks for overlapping region masks as labels, ``dtype`` for float32 or float16 images.

    ``device`` is ``"cpu"`` or ``"gpu"``. ``num_threads`` serves the ``dali`` loader, ``num_workers`` the ``torch`` one.
    With ``reuse_buffers`` a CPU batch is overwritten when the next one is asked for, which saves a copy in loops that
    are then done with it.
    """

    store: str | Path
    patch: Int3
    batch_size: int = 2
    seed: int = 0
    augment: str = "basic"
    samples_per_case: int = 4
    window: int = 4
    foreground: float = 0.5
    cases: tuple[str, ...] | None = None
    regions: bool = False
    dtype: str = "float32"

    device: str = "cpu"
    num_threads: int = 2
    num_workers: int = 2
    reuse_buffers: bool = False

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "gpu"):
            raise InputError(f"unknown device {self.device!r}; known: cpu, gpu")
        if self.dtype not in DTYPES:
            raise InputError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPES)}")
        for name, least in (("batch_size", 1), ("num_threads", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    def region_numbers(self, store: Store) -> tuple[tuple[int, ...], ...] | None:
        """Return the label ids of each region when regions are asked for; raises ``InputError`` if there are none.

        Where the data set has an ignore label it is one more, the last: a map of the voxels that do not count.
        """
        if not self.regions:
            return None
        if store.manifest.regions is None:
            raise InputError(
                f"{store.root} has no regions; convert it with --regions, for example WT=1+2+3,TC=2+3,ET=3"
            )
        ignored = () if store.manifest.ignore_label is None else ((store.manifest.ignore_label,),)
        return (*(tuple(numbers) for numbers in store.manifest.regions.values()), *ignored)

    def without_workers(self) -> LoaderConfig:
        """Return the same configuration for use inside this process."""
        return dataclasses.replace(self, num_workers=0)


LoaderBuilder = Callable[[Store, Plan, LoaderConfig, int, int], Loader]


def _dali(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    from pipelines.dali_loader import DaliLoader

    return DaliLoader(store, plan, config, rank, world_size)


def _torch(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    from pipelines.torch_loader import TorchLoader

    return TorchLoader(store, plan, config, rank, world_size)


def _synthetic(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    from pipelines.synthetic_loader import SyntheticLoader

    return SyntheticLoader(store, plan, config, rank, world_size)


LOADERS: dict[str, LoaderBuilder] = {"dali": _dali, "torch": _torch, "synthetic": _synthetic}


def build_loader(
    name: str,
    config: LoaderConfig,
    rank: int = 0,
    world_size: int = 1,
    table: Mapping[str, LoaderBuilder] = LOADERS,
) -> Loader:
    """Build the loader ``name`` (a key of ``table``) for one rank.

    Raises ``InputError`` for an unknown name, a store without labelled cases, or a patch that does not fit in memory.
    """
    if name not in table:
        raise InputError(f"unknown loader {name!r}; known: {', '.join(table)}")
    store, plan = open_plan(config, world_size)
    return table[name](store, plan, config, rank, world_size)


def open_plan(config: LoaderConfig, world_size: int = 1) -> tuple[Store, Plan]:
    """Open the store of ``config`` and the plan that every loader built from it follows.

    Raises what ``build_loader`` raises, the unknown name apart.
    """
    store = open_store(config.store)
    if not store.is_local:
        raise InputError(
            f"{config.store} is on an object store, which cannot be memory-mapped; copy it first, checked: "
            f"python -m preprocessing.stage --shards {config.store} --output FOLDER"
        )
    manifest = store.manifest
    fits_memory(
        config.patch,
        len(manifest.channel_names),
        np.dtype(manifest.image_dtype).itemsize,
        config.batch_size,
        psutil.virtual_memory().available,
    )
    options = PlanOptions(
        seed=config.seed,
        global_batch=config.batch_size * world_size,
        patch=config.patch,
        samples_per_case=config.samples_per_case,
        window=config.window,
        foreground=config.foreground,
        augment=config.augment,
    )
    return store, Plan(store, config.cases or store.labelled_ids, options, len(manifest.channel_names))
