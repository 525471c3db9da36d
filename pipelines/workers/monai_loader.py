"""The MONAI loaders: its data sets and its DataLoader on the NIfTI files that the store was made from."""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.data import (
    CacheDataset,
    DataLoader,
    PersistentDataset,
    SmartCacheDataset,
    ThreadDataLoader,
)
from monai.data import Dataset as PlainDataset
from monai.transforms import Compose
from torch.utils.data import Dataset

from pipelines.batch import Batch, Loader
from pipelines.plan import STREAM_MONAI, Plan, random_words
from pipelines.workers.monai_transforms import cached_part, random_part
from pipelines.workers.source_files import naming_lost_files, source_files
from pipelines.workers.torch_loader import Todo, end_workers, move
from preprocessing.shards.store import Store

if TYPE_CHECKING:
    from pipelines.config import LoaderConfig

Item = dict[str, Any]
SMART_SHARE = 0.5  # of the cases that SmartCacheDataset holds at a time, so that it has something to replace
REPLACED = 0.25  # of those, replaced after every epoch


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to use MONAI: ``make`` builds the data set from cases, transforms, threads and a scratch folder.

    ``threaded`` prepares batches in a thread of this process instead of worker processes; ``persistent`` keeps those
    over the epochs, which a data set that changes between epochs forbids.
    """

    make: Callable[[list[Item], Compose, int, Path], Any]
    threaded: bool = False
    persistent: bool = True


def _plain(items: list[Item], transforms: Compose, threads: int, folder: Path) -> Any:  # noqa: ARG001
    """Read and unpack the files for every patch."""
    return PlainDataset(items, transforms)


def _persistent(items: list[Item], transforms: Compose, threads: int, folder: Path) -> Any:  # noqa: ARG001
    """Keep what is not random on disk, written when a case is first asked for."""
    return PersistentDataset(items, transforms, cache_dir=folder)


def _cache(items: list[Item], transforms: Compose, threads: int, folder: Path) -> Any:  # noqa: ARG001
    """Keep it in memory, not copied before each use: no transform of ours writes into what it is given."""
    return CacheDataset(items, transforms, num_workers=threads, progress=False, copy_cache=False)


class TellingSmartCache(SmartCacheDataset):
    """Keeps what ends the thread that replaces cases for whoever asks for the next ones; else nobody hears of it."""

    failure: Exception | None = None

    def manage_replacement(self) -> None:
        """Replace cases until this is shut down."""
        try:
            super().manage_replacement()
        except Exception as error:  # noqa: BLE001  # raised again in the loader's own thread
            self.failure = error

    def update_cache(self) -> None:
        """Take the cases that were prepared meanwhile; raises what kept them from being prepared."""
        if self.failure is not None:
            raise self.failure
        super().update_cache()  # type: ignore[no-untyped-call]


def _smart_cache(items: list[Item], transforms: Compose, threads: int, folder: Path) -> Any:
    """Keep a part of it in memory, and prepare the next cases in threads meanwhile."""
    count = max(int(len(items) * SMART_SHARE), 1)
    if count == len(items):
        return _cache(items, transforms, threads, folder)
    return TellingSmartCache(
        items,
        transforms,
        replace_rate=REPLACED,
        cache_num=count,
        num_init_workers=threads,
        num_replace_workers=threads,
        progress=False,
        shuffle=False,
        copy_cache=False,
    )


VARIANTS: dict[str, Variant] = {
    "monai": Variant(make=_plain),
    "monai-persistent": Variant(make=_persistent),
    "monai-cache": Variant(make=_cache),
    "monai-smartcache": Variant(make=_smart_cache, persistent=False),
    "monai-thread": Variant(make=_cache, threaded=True),
}


class Seeded(Dataset[Item]):
    """Gives a MONAI data set the random state for each patch, so that it depends on nothing but the seed given."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, drawn: tuple[int, int]) -> Item:
        """Make the patch of (number of the case, seed)."""
        index, seed = drawn
        self.dataset.transform.set_random_state(seed)
        made: list[Item] = self.dataset[index % len(self.dataset)]
        return made[0]


class MonaiLoader(Loader):
    """Deliver what MONAI makes of the cases that the plan names, as MONAI makes it: contiguous [N,C,D,H,W].

    The plan decides which case each patch comes from, so epochs, ranks and lengths are those of every loader; MONAI
    draws position, flips and the rest, from a seed that the patch's place in the run decides. So resuming is exact at
    every step, but ``batch.samples`` is empty: nobody but MONAI knows what it drew. ``monai-smartcache`` delivers a
    case that its cache holds instead of the plan's. Every rank caches every case, since each epoch deals them anew.
    """

    def __init__(
        self, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int, variant: Variant
    ) -> None:
        super().__init__(plan, rank, world_size)
        self.device = torch.device("cpu" if config.device == "cpu" else "cuda")
        self.dtype = torch.float16 if config.dtype == "float16" else torch.float32
        self.variant, self.num_threads = variant, config.num_threads
        self.num_workers = 0 if variant.threaded else config.num_workers
        self._numbers = {case_id: number for number, case_id in enumerate(plan.case_ids)}
        self._items = [_item(store, case_id) for case_id in plan.case_ids]
        regions = config.region_numbers(store)
        cached = cached_part(store.manifest, config, regions)
        self._transforms = Compose([*cached, *random_part(store.manifest, config)])
        self._folder = Path(tempfile.mkdtemp(prefix="voxelfeed-monai-"))
        self._remove_folder = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._todo: Todo[tuple[int, int]] = Todo()
        self._store = store
        self._dataset = self._build_dataset(self._items)
        self._loader = self._build_loader()
        self._cached_epoch = 0

    def _build_dataset(self, items: list[Item]) -> Any:
        with naming_lost_files(self._store, self._numbers):
            dataset = self.variant.make(items, self._transforms, self.num_threads, self._folder)
        if isinstance(dataset, SmartCacheDataset):
            weakref.finalize(self, dataset.shutdown)  # its thread would keep it for ever
        return dataset

    @property
    def _is_smart(self) -> bool:
        return isinstance(self._dataset, SmartCacheDataset)

    def _build_loader(self) -> DataLoader:
        """Tune the DataLoader as MONAI and PyTorch document."""
        kind: Any = ThreadDataLoader if self.variant.threaded else DataLoader
        made: DataLoader = kind(
            Seeded(self._dataset),
            batch_sampler=self._todo,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0 and self.variant.persistent,
            pin_memory=self.device.type == "cuda",
        )
        return made

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:
        with self.stages.waiting("preprocessing_s"):
            self._turn_cache(epoch)
        steps = range(first_step, len(self))
        plan, lanes, numbers, store = self.plan, self.lanes, self._numbers, self._store  # not self: see TorchLoader
        self._todo.batches = ([_draw(plan, numbers, epoch, step, lane) for lane in lanes] for step in steps)
        with self.stages.waiting("preprocessing_s"):
            made = iter(self._loader)
        for _ in steps:
            with self.stages.waiting("preprocessing_s"), naming_lost_files(store, numbers):
                item = next(made)
            image, label = (item[name].as_subclass(torch.Tensor) for name in ("image", "label"))
            image, label = move(image, label, self.device, self.dtype, self.stages)
            yield Batch(image=image, label=label, samples=(), cases=tuple(item["case_id"]))

    def _turn_cache(self, epoch: int) -> None:
        """Bring SmartCacheDataset to what it holds in ``epoch``: by its own replacing, or anew after a jump."""
        if not self._is_smart:
            return
        if epoch == self._cached_epoch + 1:
            with naming_lost_files(self._store, self._numbers):
                self._dataset.update_cache()
        elif epoch != self._cached_epoch:
            self._dataset.shutdown()
            held = len(self._dataset)
            first = epoch * min(math.ceil(held * REPLACED), len(self._items) - held) % len(self._items)
            self._dataset = self._build_dataset(self._items[first:] + self._items[:first])
            self._loader = self._build_loader()
        self._dataset.start()
        self._cached_epoch = epoch

    def _release(self) -> None:
        end_workers(self._loader)
        if self._is_smart:
            self._dataset.shutdown()
        self._remove_folder()


def _draw(plan: Plan, numbers: Mapping[str, int], epoch: int, step: int, lane: int) -> tuple[int, int]:
    """Return the number of the case that the plan takes here, and the seed of all that MONAI draws."""
    options = plan.options
    (word,) = random_words(options.seed, STREAM_MONAI, epoch, step * options.global_batch + lane, 1)
    return numbers[plan.case_id_at(epoch, step, lane)], int(word >> 32)


def _item(store: Store, case_id: str) -> Item:
    images, label = source_files(store, case_id)
    case = store.case(case_id)
    return {
        "image": [str(path) for path in images],
        "label": str(label),
        "case_id": case_id,
        "origin_dhw": case.origin_dhw,
        "shape_dhw": case.shape_dhw,
    }
