"""The table of loaders and the one way to build them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import psutil
import torch

from pipelines.batch import Loader
from pipelines.config import LoaderConfig
from pipelines.plan import Plan, PlanOptions
from preprocessing.console.errors import InputError
from preprocessing.console.settings import settings_from
from preprocessing.shards.store import Store, open_store
from preprocessing.volumes.grid import Int3

__all__ = ["LOADERS", "LoaderBuilder", "LoaderConfig", "build_loader", "check_config", "lazy", "open_plan"]
LoaderBuilder = Callable[[Store, Plan, LoaderConfig, int, int], Loader]


def lazy(module: str, loader: str) -> LoaderBuilder:
    """Return a builder that imports ``module`` when it is called: DALI and MONAI take seconds."""
    return functools.partial(_build, module, loader)


def _build(module: str, loader: str, *arguments: Any) -> Loader:
    made: Loader = getattr(import_module(module), loader)(*arguments)
    return made


def _monai(name: str, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    from pipelines.workers.monai_loader import VARIANTS, MonaiLoader

    if plan.options.patch_rule != "inside":
        raise InputError(f"patch_rule \"{plan.options.patch_rule}\" is the plan's, MONAI's loaders draw for themselves")
    return MonaiLoader(store, plan, config, rank, world_size, VARIANTS[name])


MONAI = ("monai", "monai-persistent", "monai-cache", "monai-smartcache", "monai-thread")
LOADERS: dict[str, LoaderBuilder] = {
    "dali": lazy("pipelines.dali.loader", "DaliLoader"),
    "torch": lazy("pipelines.workers.torch_loader", "TorchLoader"),
    **{name: functools.partial(_monai, name) for name in MONAI},
    "synthetic": lazy("pipelines.workers.torch_loader", "SyntheticLoader"),
}


def build_loader(
    name: str,
    config: LoaderConfig,
    rank: int = 0,
    world_size: int = 1,
    table: Mapping[str, LoaderBuilder] = LOADERS,
) -> Loader:
    """Build the loader ``name`` (a key of ``table``) for one rank.

    Raises ``InputError`` for what ``check_config`` refuses, a GPU that is not there, a store without labelled cases, or
    a patch that does not fit in memory.
    """
    check_config(name, config, table)
    if config.device == "gpu" and not torch.cuda.is_available():
        raise InputError('device "gpu": torch finds no CUDA device here; use device "cpu"')
    store, plan = open_plan(config, world_size)
    loader = table[name](store, plan, config, rank, world_size)
    loader.start_anew = config.start_anew
    return loader


def check_config(name: str, config: LoaderConfig, table: Mapping[str, LoaderBuilder] = LOADERS) -> None:
    """Raise ``InputError`` for an unknown name, a setting that is another loader's, or samples that cannot be drawn.

    Nothing is opened and no device is looked at.
    """
    if name not in table:
        raise InputError(f"unknown loader {name!r}; known: {', '.join(table)}")
    config.check_for(name)
    _plan_options(config, world_size=1)


def open_plan(config: LoaderConfig, world_size: int = 1) -> tuple[Store, Plan]:
    """Open the store of ``config`` and the plan that every loader built from it follows.

    Raises what ``build_loader`` raises for the store, the cases and the patch.
    """
    store = open_store(config.store)
    if not store.is_local:
        raise InputError(
            f"{config.store} is on an object store, which cannot be memory-mapped; copy it first: "
            f"python -m preprocessing.stage --shards {config.store} --output FOLDER"
        )
    manifest = store.manifest
    num_channels, itemsize = len(manifest.channel_names), np.dtype(manifest.image_dtype).itemsize
    check_memory(config.patch, num_channels, itemsize, config.batch_size, psutil.virtual_memory().available)
    options = _plan_options(config, world_size)
    return store, Plan(store, _chosen_cases(store, config), options, num_channels, store_xxh3=store.xxh3)


def check_memory(patch: Int3, num_channels: int, itemsize: int, batch_size: int, available_bytes: int) -> None:
    """Refuse a batch that cannot fit: raises ``InputError`` with the bytes needed, the bytes there are and a remedy."""
    voxels = math.prod(patch) * batch_size
    needed = voxels * (num_channels * (itemsize * 4 + 4 * 4) + 8)  # four staging buffers, four float32 stages
    if needed > available_bytes:
        raise InputError(
            f"patch {','.join(map(str, patch))} with batch size {batch_size} and {num_channels} channels needs about "
            f"{needed / 2**30:.1f} GiB, {available_bytes / 2**30:.1f} GiB are free; lower --patch or --batch-size"
        )


def _chosen_cases(store: Store, config: LoaderConfig) -> Sequence[str]:
    """List the cases to draw from; raises ``InputError`` naming one that is not there, has no label or stands twice."""
    if config.cases is None:
        return store.labelled_ids
    if not config.cases:
        raise InputError("cases is empty; name at least one case, or pass None for every labelled one")
    labelled, seen = set(store.labelled_ids), set[str]()
    for case_id in config.cases:
        if case_id not in labelled:
            store.case(case_id)  # says so when there is none of that name
            raise InputError(f"case {case_id}: has no label in {store.root}; leave it out, patches need one")
        if case_id in seen:
            raise InputError(f"case {case_id}: is listed twice among the {len(config.cases)} cases; list it once")
        seen.add(case_id)
    return config.cases


def _plan_options(config: LoaderConfig, world_size: int) -> PlanOptions:
    return settings_from(config, PlanOptions, global_batch=config.batch_size * world_size)
