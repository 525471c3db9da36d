"""TorchIO as a row: its Queue on the NIfTI files, tuned as its documentation advises (extra ``peers``)."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import torch
import torchio as tio

from benchmarks.contenders.table import QUEUE_LENGTH, SAMPLES_PER_VOLUME
from pipelines.augment import parameters as ranges
from pipelines.batch import Batch, Loader
from pipelines.plan import SCALE_RANGE, SHIFT_RANGE, Plan
from pipelines.workers.source_files import source_files
from preprocessing.console.errors import InputError
from preprocessing.shards.store import Store

if TYPE_CHECKING:
    from pipelines.config import LoaderConfig

XYZ = (0, 1, 2)


class CropToStored(tio.Transform):  # type: ignore[misc]
    """Crops to the box that the store keeps; TorchIO's own crop takes the same number of voxels from every subject."""

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Crop image and label."""
        return tio.Crop(subject["outside"])(subject)


def standardise(image: torch.Tensor) -> torch.Tensor:
    """Standardise each channel by its nonzero voxels and leave zero as it is, which ZNormalization does not."""
    made = image.float()
    for channel in made:
        mask = channel != 0
        values = channel[mask]
        if len(values):
            channel[mask] = (values - values.mean()) / values.std(correction=0).clamp_min(1e-8)
    return made


def scale_and_shift(image: torch.Tensor) -> torch.Tensor:
    """Draw one factor and one offset; TorchIO has no such transform."""
    scale, shift = (torch.rand(2) * 2 - 1).tolist()
    made: torch.Tensor = image * (1 + SCALE_RANGE * scale) + SHIFT_RANGE * shift
    return made


class TorchioLoader(Loader):
    """Load and augment whole volumes in the queue's workers, cut four patches from each, pop them in this process."""

    def __init__(self, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> None:
        super().__init__(plan, rank, world_size)
        if store.manifest.modality == "ct":
            raise InputError("torchio is compared on MR only; leave it out with --loaders")
        self.device = torch.device("cpu" if config.device == "cpu" else "cuda")
        torch.manual_seed(config.seed)
        items = [_subject(store, case_id) for case_id in plan.case_ids]
        rounds = -(-len(self) * config.batch_size // (len(items) * SAMPLES_PER_VOLUME))
        labels = max(store.manifest.label_names)
        shares = dict.fromkeys(range(1, labels + 1), config.foreground / labels)
        self._queue = tio.Queue(
            tio.SubjectsDataset(items * rounds, transform=_transforms(store, config)),
            max_length=QUEUE_LENGTH,
            samples_per_volume=SAMPLES_PER_VOLUME,
            sampler=tio.LabelSampler(config.patch[::-1], "label", {0: 1 - config.foreground, **shares}),
            num_workers=config.num_workers,
        )
        self._loader = tio.SubjectsLoader(self._queue, batch_size=config.batch_size, num_workers=0, drop_last=True)

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:  # noqa: ARG002  # the queue has its own
        """Take as many batches as any loader's epoch has; the queue goes on where it is, whatever the epoch."""
        left = len(self) - first_step
        while left:
            for _, made in zip(range(left), self._loader, strict=False):
                image, label = (made[name][tio.DATA].permute(0, 1, 4, 3, 2) for name in ("image", "label"))
                left -= 1
                image = image.to(self.device, non_blocking=True)
                label = label.to(self.device, torch.uint8, non_blocking=True)
                yield Batch(image=image, label=label, samples=(), cases=tuple(made["case_id"]))

    def _release(self) -> None:
        self._queue._subjects_iterable = None  # noqa: SLF001  # it has no other way to end its workers


def _subject(store: Store, case_id: str) -> tio.Subject:
    images, label = source_files(store, case_id)
    paths: Any = images if len(images) > 1 else images[0]
    case = store.case(case_id)
    box = zip(case.origin_dhw[::-1], case.shape_dhw[::-1], case.source_shape_dhw[::-1], strict=True)
    outside = tuple(count for start, size, whole in box for count in (start, whole - start - size))
    return tio.Subject(image=tio.ScalarImage(paths), label=tio.LabelMap(label), case_id=case_id, outside=outside)


def _transforms(store: Store, config: LoaderConfig) -> tio.Compose:
    steps: list[Any] = [CropToStored()]
    if store.manifest.label_remap:
        steps.append(tio.RemapLabels(store.manifest.label_remap))
    steps += [_PadTo(config.patch[::-1]), tio.Lambda(standardise, types_to_apply=[tio.INTENSITY])]
    if config.augment != "none":
        steps.append(tio.RandomFlip(axes=XYZ, flip_probability=0.5))
    if config.augment == "basic":
        steps.append(tio.Lambda(scale_and_shift, types_to_apply=[tio.INTENSITY]))
    if config.augment == "full":
        steps += _full()
    return tio.Compose(steps)


class _PadTo(tio.Transform):  # type: ignore[misc]
    """Pads a volume that is smaller than the patch, half of it on either side; a larger one stays."""

    def __init__(self, size_xyz: tuple[int, ...]) -> None:
        super().__init__()
        self.size_xyz = size_xyz
        self.args_names = ["size_xyz"]

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        missing = [max(side - size, 0) for side, size in zip(self.size_xyz, subject.spatial_shape, strict=True)]
        bounds = [part for count in missing for part in (count // 2, count - count // 2)]
        return tio.Pad(tuple(bounds), padding_mode=0)(subject) if any(missing) else subject


def _full() -> list[Any]:
    """List nnU-Net's augmentations as far as TorchIO has them, in the probabilities and ranges of ``augmentation``."""
    moved = 1 - (1 - ranges.ROTATION_P) * (1 - ranges.ZOOM_P)
    return [
        tio.RandomAffine(scales=ranges.ZOOM, degrees=30, isotropic=True, p=moved),
        tio.RandomNoise(std=ranges.NOISE_STD, p=ranges.NOISE_P),
        tio.RandomBlur(std=ranges.BLUR_SIGMA, p=ranges.BLUR_P),
        tio.RandomAnisotropy(downsampling=(1, 2), p=ranges.LOW_RESOLUTION_P),
        tio.RandomGamma(log_gamma=(-0.35, 0.4), p=ranges.GAMMA_P),
    ]
