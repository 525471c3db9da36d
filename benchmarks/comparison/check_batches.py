"""Check what loaders deliver, so that a broken one cannot look fast: against plan and reference where it has a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from benchmarks.comparison.check_drawn import CheckError, DrawnPatches
from benchmarks.comparison.contenders import CEILING
from benchmarks.comparison.rows import Row
from pipelines.batch import Batch
from pipelines.loaders import open_plan
from pipelines.plan import Sample
from pipelines.reference import intensity_of, make_sample

__all__ = ["CheckError", "Specification"]
TOLERANCE = 1e-5  # of one standard deviation; of the value itself where that is larger than 1
FULL_TOLERANCE = 1e-2  # where DALI interpolates in single precision; 3e-3 is the worst seen at 128^3 (2026-11-24)
PATIENCE = 4  # times the usual number of batches, of which chance may have moved every patch
MOVED_LABELS = 1e-3  # the share of rotated or scaled labels whose nearest voxel rounding may decide


class Specification:
    """What the batches of ``row`` have to be. Batches are counted from the start of an epoch and on into the next."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.store, self.plan = open_plan(row.config)
        self._drawn = None if row.follows_plan or row.loader == CEILING else DrawnPatches(row, self.store, self.plan)
        channels = len(self.store.manifest.channel_names)
        self._shape = (row.config.batch_size, channels, *row.config.patch)
        self._buffers = (
            np.empty((*row.config.patch, channels), self.store.manifest.image_dtype),
            np.empty((*row.config.patch, 1), np.uint8),
        )

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass the batches on; those that follow no plan are counted by case."""
        return batches if self._drawn is None else self._drawn.counted(batches)

    def warm_up(self, batches: Iterator[Batch]) -> None:
        """Take batches until every case has been met, where that fills a cache."""
        while self.row.fills_lazily and self._drawn is not None and not self._drawn.has_seen_all():
            next(batches)

    def check_first(self, batches: Iterator[Batch], count: int) -> None:
        """Take ``count`` batches from the start of epoch 0 and check every voxel; raises ``CheckError``."""
        for number in range(PATIENCE * count):
            self.check(next(batches), 0, number)
            if number + 1 >= count and (self._drawn is None or self._drawn.num_found):
                return
        raise CheckError(f"none of the first {PATIENCE * count} batches' patches lies in the volume of its case")

    def check(self, batch: Batch, first_epoch: int, number: int, slots: Sequence[int] | None = None) -> None:
        """Check batch ``number`` since the start of ``first_epoch``, voxels in ``slots`` (default: all of them).

        The ceiling is checked for shape and dtype only. Raises ``CheckError``.
        """
        self._check_form(batch, number)
        chosen = range(self.row.config.batch_size) if slots is None else slots
        if self._drawn is not None:
            self._drawn.check(batch, number, chosen)
            self._drawn.check_share()
        elif self.row.follows_plan:
            self._check_planned(batch, first_epoch, number, chosen)

    def _check_planned(self, batch: Batch, first_epoch: int, number: int, slots: Sequence[int]) -> None:
        epochs, step = divmod(number, self.plan.steps_per_epoch)
        wanted = self.plan.batch(first_epoch + epochs, step, range(self.row.config.batch_size))
        if list(batch.samples) != wanted:
            raise CheckError(f"batch {number}: its samples are not those the plan drew")
        for slot in slots:
            self._check_voxels(batch, slot, wanted[slot], f"batch {number}, slot {slot}, case {wanted[slot].case_id}")

    def _check_form(self, batch: Batch, number: int) -> None:
        label_shape = (self._shape[0], 1, *self._shape[2:])
        for name, tensor, shape, dtype in (
            ("image", batch.image, self._shape, torch.float32),
            ("label", batch.label, label_shape, torch.uint8),
        ):
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise CheckError(f"batch {number}: {name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {shape}")
        if len(batch.case_ids) != self._shape[0]:
            raise CheckError(f"batch {number}: it names {len(batch.case_ids)} cases for {self._shape[0]} patches")

    def _check_voxels(self, batch: Batch, slot: int, sample: Sample, where: str) -> None:
        case = self.store.case(sample.case_id)
        image, label = make_sample(case, sample, intensity_of(case, self.store.manifest), self._buffers, None)
        different = int((batch.label[slot].permute(1, 2, 3, 0).cpu().numpy() != label).sum())
        augmentation = sample.augmentation
        if different > (MOVED_LABELS * label.size if augmentation and augmentation.is_spatial else 0):
            raise CheckError(f"{where}: {different} label voxels differ from the reference")
        error = np.abs(batch.image[slot].permute(1, 2, 3, 0).cpu().numpy() - image)
        worst = float((error / np.maximum(np.abs(image), 1)).max())
        allowed = FULL_TOLERANCE if augmentation else TOLERANCE
        if not worst <= allowed:  # catches NaN
            raise CheckError(f"{where}: image differs from the reference by {worst:.3g}, allowed are {allowed:g}")
