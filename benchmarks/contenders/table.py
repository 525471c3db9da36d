"""The loaders that are compared, a row each: those of the product, the peers, the ceiling and the floor."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

from pipelines.batch import Loader
from pipelines.config import LoaderConfig
from pipelines.loaders import LOADERS, LoaderBuilder, build_loader, lazy
from pipelines.plan import Plan
from preprocessing.console.errors import InputError
from preprocessing.shards.store import Store

FLOOR, CEILING, DEFAULTS = "numpy-floor", "synthetic", "monai-defaults"
USUAL = ("dali", "torch", "monai-cache", CEILING, FLOOR)
BY_PLAN, BY_SEARCH, BY_FORM = "voxels against the reference", "voxels found in the volume", "shape and dtype"
SAMPLES_PER_VOLUME, QUEUE_LENGTH = 4, 16  # patches that TorchIO's queue cuts from a volume, and those it holds
NUM_CACHED = 6  # batches that nnU-Net's augmenter keeps, in two queues (nnUNetTrainer.get_dataloaders)
PREFETCH = 2  # batches for each worker, PyTorch's default
TUNED_CACHE = "copy_cache=False, no metadata"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One loader: how it is built, and all that its rows, its check and its page need to know of it.

    ``tuned`` says what it was tuned with; ``persistent`` whether the workers of its PyTorch DataLoader are, ``None`` if
    it has none. ``package`` is what it needs besides the project's dependencies. ``checked`` is one of the three ways
    to check its batches: the plan's (``BY_PLAN``), patches it drew itself (``BY_SEARCH``), or their form alone.

    ``also`` lists numbers of threads or workers that are tried besides one for every core, ``crops`` where its patches
    are cut on a GPU. ``num_cached`` counts batches that it keeps besides those of its workers, ``cycle_patches`` the
    patches after which its work repeats.
    """

    name: str
    build: LoaderBuilder
    tuned: str = ""
    persistent: bool | None = None
    package: str = ""
    checked: str = BY_PLAN
    devices: Sequence[str] = ("cpu", "gpu")
    crops: Sequence[str] = ("auto",)
    has_threads: bool = False
    has_workers: bool = True
    also: Sequence[int] = ()
    num_cached: int = 0
    cycle_patches: int = 1
    has_epochs: bool = True
    """Whether an epoch of it has a first batch to wait for; without, its stream goes on where it is."""
    draws_evenly: bool = True
    """Whether every case comes about as often as any other within some batches."""
    reaches_over: bool = False
    """Whether its patches may reach over the far borders of the volume, by up to half a patch."""
    fills_lazily: bool = False
    """Whether a case is slow the first time that it is read, and fast from then on."""

    @property
    def is_installed(self) -> bool:
        """Whether the package that it needs is there."""
        return not self.package or find_spec(self.package) is not None

    def open(self, config: LoaderConfig) -> Loader:
        """Build it; raises what ``build_loader`` raises."""
        return build_loader(self.name, config, table={self.name: self.build})

    def tuning(self, config: LoaderConfig) -> str:
        """Return the settings under ``config`` as text, so that a reader can judge whether it was given its best."""
        settings = [self.tuned] if self.tuned else []
        pinned = ", pin_memory=True" if config.device == "gpu" else ""
        if self.persistent is not None and config.num_workers:
            settings.append(f"persistent_workers={self.persistent}, prefetch_factor={PREFETCH}{pinned}")
        elif self.persistent is not None:
            settings.append(f"in the calling process{pinned}")
        return "; ".join(settings)


class LeftOut(NamedTuple):
    """What is not measured, and why."""

    label: str
    reason: str


def _product(name: str, *arguments: Any) -> Loader:
    """Build one of the product's loaders, whose builders pickle cannot take to a measuring process."""
    return LOADERS[name](*arguments)


def _imported(module: str, name: str, *arguments: Any) -> Loader:
    """Build a loader whose file, and with it a peer's package, is imported when it is asked for."""
    return lazy(f"benchmarks.contenders.{module}", name)(*arguments)


def _monai_defaults(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    """Build MONAI's CacheDataset and DataLoader as most of its users run them: only a guide says to drop metadata."""
    from monai.data import CacheDataset
    from monai.transforms import Compose

    from pipelines.workers.monai_loader import MonaiLoader, Variant
    from pipelines.workers.monai_transforms import DROP_METADATA

    def cache(items: Any, transforms: Any, _threads: int, _folder: Any) -> Any:
        steps = [step for step in transforms.transforms if step is not DROP_METADATA]
        return CacheDataset(items, Compose(steps), progress=False)

    return MonaiLoader(store, plan, config, rank, world_size, Variant(make=cache, persistent=False))


def _monai(name: str, tuned: str, *, persistent: bool | None = True, **more: Any) -> Contender:
    build = functools.partial(_product, name) if name in LOADERS else _monai_defaults
    return Contender(name=name, build=build, tuned=tuned, persistent=persistent, checked=BY_SEARCH, **more)


CONTENDERS = (
    Contender(
        name="dali",
        build=functools.partial(_product, "dali"),
        tuned="reuse_buffers=True, which is not LoaderConfig's default",
        crops=("device", "host"),
        has_threads=True,
        has_workers=False,
    ),
    Contender(name="torch", build=functools.partial(_product, "torch"), persistent=True),
    _monai("monai", "Dataset, one volume read and decoded per patch"),
    _monai(
        "monai-persistent",
        "PersistentDataset on the local disk, every case cached before timing; one file read per patch",
        fills_lazily=True,
    ),
    _monai("monai-cache", f"CacheDataset, {TUNED_CACHE}", also=(0,)),  # its guide's advice for light work
    _monai(
        "monai-smartcache",
        f"SmartCacheDataset, {TUNED_CACHE}, cache_num 50% of the cases, replace_rate=0.25",
        persistent=False,
        draws_evenly=False,  # it holds some of the cases for a while, then others
    ),
    _monai("monai-thread", f"CacheDataset, {TUNED_CACHE}, ThreadDataLoader", persistent=None, has_workers=False),
    Contender(name=CEILING, build=functools.partial(_product, CEILING), checked=BY_FORM, has_workers=False),
    _monai(DEFAULTS, "CacheDataset as it comes: copy_cache=True, metadata kept", persistent=False, also=(0,)),
    Contender(
        name="torchio",
        build=functools.partial(_imported, "torchio_loader", "TorchioLoader"),
        tuned=f"Queue, max_length={QUEUE_LENGTH}, samples_per_volume={SAMPLES_PER_VOLUME}; patches cut by LabelSampler",
        package="torchio",
        checked=BY_SEARCH,
        cycle_patches=QUEUE_LENGTH,  # the queue is filled at once, then emptied
        has_epochs=False,
    ),
    Contender(
        name="nnunet",
        build=functools.partial(_imported, "nnunet_loader", "NnunetLoader"),
        tuned=(
            f"blosc2 files in chunks that suit the patch, NonDetMultiThreadedAugmenter, num_cached={NUM_CACHED} "
            "(without workers: SingleThreadedAugmenter)"
        ),
        package="nnunetv2",
        checked=BY_SEARCH,
        num_cached=2 * NUM_CACHED,
        has_epochs=False,
        reaches_over=True,
    ),
    Contender(
        name=FLOOR,
        build=functools.partial(_imported, "numpy_floor", "NumpyFloor"),
        tuned="reused buffers",
        devices=("cpu",),
        has_threads=True,
        has_workers=False,
        also=(1,),
    ),
)
TABLE: dict[str, Contender] = {contender.name: contender for contender in CONTENDERS}


def choose(names: str, table: Mapping[str, Contender] = TABLE) -> list[Contender]:
    """Return the rows of ``table`` that ``names`` lists, or all; raises ``InputError`` for unknown ones."""
    if names == "all":
        return list(table.values())
    if names == "auto":
        return [table[name] for name in USUAL if name in table]
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    unknown = [name for name in chosen if name not in table]
    if unknown or not chosen:
        raise InputError(f"--loaders {names}: unknown {', '.join(unknown)!r}; known: auto, all, {', '.join(table)}")
    return [table[name] for name in chosen]


def choose_installed(names: str, table: Mapping[str, Contender] = TABLE) -> tuple[list[Contender], list[LeftOut]]:
    """Return the rows that ``names`` lists (``choose``), and those left out whose package is not installed.

    Raises ``InputError`` for unknown names, and for one left out that was not asked for by "all".
    """
    chosen = choose(names, table)
    reason = 'needs the package {}: pip install -e ".[peers]"'
    left_out = [LeftOut(one.name, reason.format(one.package)) for one in chosen if not one.is_installed]
    if left_out and names != "all":
        raise InputError(f"--loaders {names}: {left_out[0].label} {left_out[0].reason}")
    return [one for one in chosen if one.is_installed], left_out
