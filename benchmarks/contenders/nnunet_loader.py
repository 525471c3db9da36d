"""nnU-Net v2 as a row: its blosc2 files, its dataloader, batchgeneratorsv2 and its augmenter (extra ``peers``)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.intensity.brightness import (
    BrightnessAdditiveTransform,
    MultiplicativeBrightnessTransform,
)
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from benchmarks.contenders.table import NUM_CACHED
from pipelines.augment.parameters import ROTATION_RAD
from pipelines.batch import Batch, Loader
from pipelines.plan import SCALE_RANGE, SHIFT_RANGE, Plan
from pipelines.reference import intensity_of, normalize
from preprocessing.shards.case import Case
from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Array, Int3

if TYPE_CHECKING:
    from pipelines.config import LoaderConfig

AXES = (0, 1, 2)
SCALE_FOR_SIZE = (0.85, 1.25)  # nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size
SHIFT_SIGMA = SHIFT_RANGE / 5  # its additive brightness is Gaussian: as good as never out of range
WAIT_S = 0.002  # nnUNetTrainer.get_dataloaders


class NnunetLoader(Loader):
    """Deliver what ``nnUNetTrainer.get_dataloaders`` would, in its process settings; cases are drawn with replacement.

    The files are written first, as ``nnUNetv2_preprocess`` writes them: cropped, standardised float32 in blosc2, with
    the voxels of each label beside them. ``full`` is nnU-Net's own list, cut larger and rotated; ``basic`` mirrors and
    changes brightness only.
    """

    def __init__(self, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> None:
        super().__init__(plan, rank, world_size)
        self.device = torch.device("cpu" if config.device == "cpu" else "cuda")
        self._folder = Path(tempfile.mkdtemp(prefix="voxelfeed-nnunet-"))
        for case_id in plan.case_ids:
            _write(self._folder, store.case(case_id), store, config)
        names = store.manifest.label_names
        source = nnUNetDataLoader(
            nnUNetDatasetBlosc2(str(self._folder)),
            config.batch_size,
            _first_patch(config),
            config.patch,
            LabelManager({"background": 0} | {name: number for number, name in names.items() if number}, None),
            oversample_foreground_percent=config.foreground,
            probabilistic_oversampling=True,
            transforms=_transforms(config),
        )
        if config.num_workers:
            seeds = [config.seed + number for number in range(config.num_workers)]
            self._batches_made: Any = NonDetMultiThreadedAugmenter(
                source, None, config.num_workers, NUM_CACHED, seeds, self.device.type == "cuda", WAIT_S
            )
        else:
            np.random.seed(config.seed)  # noqa: NPY002  # where nnU-Net draws from
            torch.manual_seed(config.seed)
            self._batches_made = SingleThreadedAugmenter(source, None)

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:  # noqa: ARG002  # the stream has no epochs
        for _ in range(first_step, len(self)):
            made = next(self._batches_made)
            image = made["data"].to(self.device, non_blocking=True)
            label = made["target"].to(self.device, torch.uint8, non_blocking=True)
            yield Batch(image=image, label=label, samples=(), cases=tuple(map(str, made["keys"])))

    def _release(self) -> None:
        if isinstance(self._batches_made, NonDetMultiThreadedAugmenter):
            self._batches_made._finish()  # noqa: SLF001  # as nnUNetTrainer.on_train_end does
        shutil.rmtree(self._folder, ignore_errors=True)


def _write(folder: Path, case: Case, store: Store, config: LoaderConfig) -> None:
    """Write one case as nnU-Net's DefaultPreprocessor does; its chunks suit the patch."""
    image = normalize(case.image(), intensity_of(case, store.manifest), 1.0, 0.0).transpose(3, 0, 1, 2)
    label = case.label()
    assert label is not None  # the plan has labelled cases only
    channels_first = np.zeros((1, *label.shape[:3]), np.int16)
    channels_first[0] = label[..., 0]
    locations = {
        number: np.concatenate([np.zeros((len(voxels), 1), np.int64), voxels.astype(np.int64)], axis=1)
        for number, voxels in case.foreground().items()
    }
    save_blosc2(folder / case.case_id, (image, channels_first), {"class_locations": locations}, config.patch)


def save_blosc2(path: Path, arrays: tuple[Array, Array], properties: dict[str, Any], patch: Int3) -> None:
    """Write image and label, channels first, as ``nnUNetv2_preprocess`` does, in chunks that suit the patch."""
    (blocks, chunks), (blocks_seg, chunks_seg) = (comp_blosc2_params(one.shape, patch, one.itemsize) for one in arrays)
    sizes = {"chunks": chunks, "blocks": blocks, "chunks_seg": chunks_seg, "blocks_seg": blocks_seg}
    nnUNetDatasetBlosc2.save_case(*arrays, properties, str(path), **sizes)


def _first_patch(config: LoaderConfig) -> Any:
    """Return the size that is cut: larger than the patch where it is rotated afterwards."""
    if config.augment != "full":
        return config.patch
    rotation = (-ROTATION_RAD, ROTATION_RAD)
    return get_patch_size(config.patch, rotation, rotation, rotation, SCALE_FOR_SIZE)


def _transforms(config: LoaderConfig) -> Any:
    if config.augment == "full":
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # half of nnU-Net, for one list

        rotation = (-ROTATION_RAD, ROTATION_RAD)
        return nnUNetTrainer.get_training_transforms(config.patch, rotation, None, AXES, do_dummy_2d_data_aug=False)
    steps: list[Any] = []
    if config.augment == "basic":
        factors = (1 - SCALE_RANGE, 1 + SCALE_RANGE)
        steps = [
            MirrorTransform(AXES),
            MultiplicativeBrightnessTransform(factors, synchronize_channels=True, p_per_channel=1),
            BrightnessAdditiveTransform(0.0, SHIFT_SIGMA, synchronize_channels=True, p_per_channel=1),
        ]
    return ComposeTransforms([*steps, RemoveLabelTansform(-1, 0)])
