"""The loaders that are compared: those of the product, the peers, the floor and the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from pipelines.batch import Loader
from pipelines.config import LoaderConfig
from pipelines.loaders import LOADERS, MONAI, LoaderBuilder
from pipelines.plan import Plan
from preprocessing.console.errors import InputError
from preprocessing.shards.store import Store

FLOOR, CEILING, DEFAULTS, SMART = "numpy-floor", "synthetic", "monai-defaults", "monai-smartcache"
PEERS = {"torchio": "torchio", "nnunet": "nnunetv2"}  # loader and the package it needs
WITHOUT_EPOCHS = tuple(PEERS)  # their streams go on where they are: no epoch of theirs has a first batch to wait for
OWN_DRAWS = (*MONAI, DEFAULTS, *PEERS)
USUAL = ("dali", "torch", "monai-cache", CEILING, FLOOR)


def _floor(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    from benchmarks.contenders.numpy_floor import NumpyFloor

    return NumpyFloor(store, plan, config, rank, world_size)


def _monai_defaults(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    from benchmarks.contenders.monai_defaults import DEFAULT
    from pipelines.workers.monai_loader import MonaiLoader

    return MonaiLoader(store, plan, config, rank, world_size, DEFAULT)


def _torchio(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    from benchmarks.contenders.torchio_loader import TorchioLoader

    return TorchioLoader(store, plan, config, rank, world_size)


def _nnunet(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    from benchmarks.contenders.nnunet_loader import NnunetLoader

    return NnunetLoader(store, plan, config, rank, world_size)


TABLE: dict[str, LoaderBuilder] = {
    **LOADERS,
    DEFAULTS: _monai_defaults,
    "torchio": _torchio,
    "nnunet": _nnunet,
    FLOOR: _floor,
}


def is_installed(loader: str) -> bool:
    """Tell whether the package that a loader needs is there."""
    return loader not in PEERS or find_spec(PEERS[loader]) is not None


def chosen_names(names: str, table: Mapping[str, LoaderBuilder]) -> Sequence[str]:
    """Return the keys of ``table`` that ``names`` lists, or all; raises ``InputError`` for unknown ones."""
    if names == "all":
        return list(table)
    if names == "auto":
        return [name for name in USUAL if name in table]
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    unknown = [name for name in chosen if name not in table]
    if unknown or not chosen:
        raise InputError(f"--loaders {names}: unknown {', '.join(unknown)!r}; known: auto, all, {', '.join(table)}")
    return chosen
