"""Check batches: against the plan and the reference, or, where a loader draws itself, by finding each patch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from benchmarks.contenders.table import BY_PLAN, BY_SEARCH, SAMPLES_PER_VOLUME
from benchmarks.measuring.find_patch import Found, Label, find_patch
from benchmarks.measuring.rows import Row
from pipelines.batch import Batch
from pipelines.loaders import open_plan
from pipelines.plan import SCALE_RANGE, SHIFT_RANGE, Plan, Sample
from pipelines.reference import Float, crop, intensity_of, make_sample, normalize
from preprocessing.console.errors import RunError
from preprocessing.shards.store import Store

DRAWN_TOLERANCE = 1e-3  # of a standard deviation: peers add up their statistics in single precision
ALIKE = 0.8  # correlation from which a patch with nnU-Net's augmentation is taken as found
FULL_RANGE = 0.6, 1.0  # of factor and offset: brightness and contrast together
SIGMAS = 5.0  # by which the patches of one case may be off their even share
TOLERANCE = 1e-5  # of one standard deviation; of the value itself where that is larger than 1
FULL_TOLERANCE = 1e-2  # where DALI interpolates in single precision; 3e-3 is the worst seen at 128^3 (2026-11-24)
PATIENCE = 4  # times the usual number of batches, of which chance may have moved every patch
MOVED_LABELS = 1e-3  # the share of rotated or scaled labels whose nearest voxel rounding may decide


class CheckError(RunError):
    """Say in which batch a loader differs from its specification, and how."""


class DrawnPatches:
    """What a peer's batches have to be: patches of the cases they name, and of all cases alike."""

    def __init__(self, row: Row, store: Store, plan: Plan) -> None:
        self.row, self.store, self.plan = row, store, plan
        self.num_found = 0
        self._counts: Counter[str] = Counter()
        self._seen: set[bytes] = set()

    def counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass the batches on and count their cases."""
        for batch in batches:
            self._counts.update(batch.case_ids)
            yield batch

    def has_seen_all(self) -> bool:
        """Tell whether every case has come, or as many patches as should do for that."""
        cases, drawn = len(self.plan.case_ids), sum(self._counts.values())
        return len(self._counts) == cases or drawn >= 4 * cases

    def check(self, batch: Batch, number: int, slots: Sequence[int]) -> None:
        """Check the patches in ``slots``; raises ``CheckError``."""
        for slot in slots:
            case_id = batch.case_ids[slot]
            where = f"batch {number}, slot {slot}, case {case_id}"
            if case_id not in self.plan.case_ids:
                raise CheckError(f"{where}: not one of the {len(self.plan.case_ids)} cases asked for")
            image, label = (part[slot].permute(1, 2, 3, 0).cpu().numpy() for part in (batch.image, batch.label))
            self._check_new(image, where)
            if not np.isfinite(image).all():
                raise CheckError(f"{where}: image holds nan or infinity")
            found = find_patch(image, label, *self._volumes(case_id))
            if found is None:
                continue
            # most patches are neither rotated nor zoomed by nnU-Net's list, and their labels fit exactly
            lies_still = found.alike >= ALIKE and not found.wrong_labels and bool(label.any())
            if self.row.config.augment != "full" or lies_still:
                self._check_found(found, where)

    def _check_new(self, image: Float, where: str) -> None:
        """Notice voxels that were delivered before: chance does not repeat all its numbers."""
        sparse = np.ascontiguousarray(image[::4, ::4, ::4]).tobytes()
        if sparse in self._seen and self.row.config.augment != "none":
            raise CheckError(f"{where}: the same voxels as in an earlier batch")
        self._seen.add(sparse)

    def _check_found(self, found: Found, where: str) -> None:
        full = self.row.config.augment == "full"
        self.num_found += 1
        scale, shift = FULL_RANGE if full else (SCALE_RANGE, SHIFT_RANGE)
        if not full and not found.error <= DRAWN_TOLERANCE:
            raise CheckError(f"{where}: image differs from every place of the volume by {found.error:.3g} or more")
        if abs(found.scale - 1) > scale + DRAWN_TOLERANCE or abs(found.shift) > shift + DRAWN_TOLERANCE:
            raise CheckError(
                f"{where}: image is {found.scale:.3g} times the standardised volume plus {found.shift:.3g}, "
                f"allowed are {1 - scale:g} to {1 + scale:g} and {-shift:g} to {shift:g}"
            )
        if found.wrong_labels:
            raise CheckError(f"{where}: {found.wrong_labels} label voxels are not those of its place in the volume")

    def check_share(self) -> None:
        """Check that every case comes about as often as any other; raises ``CheckError``."""
        if not self.row.contender.draws_evenly:
            return
        drawn = sum(self._counts.values())
        expected = drawn / len(self.plan.case_ids)
        # several patches of one case may come at a time
        allowed = SIGMAS * (SAMPLES_PER_VOLUME * expected) ** 0.5 + SAMPLES_PER_VOLUME
        for case_id in self.plan.case_ids:
            if abs(self._counts[case_id] - expected) > allowed:
                raise CheckError(
                    f"case {case_id} gave {self._counts[case_id]} of {drawn} patches, {expected:.0f} would be its share"
                )

    def _volumes(self, case_id: str) -> tuple[Float, Label]:
        """Standardise the whole case, padded to a patch, and as far as the loader reaches over the border."""
        case = self.store.case(case_id)
        raw, label = case.image(), case.label()
        assert label is not None  # the plan has labelled cases only
        before, after, reaches = [], [], self.row.contender.reaches_over
        for side, size in zip(self.row.config.patch, label.shape, strict=False):
            missing = max(side - size, 0)
            before.append(missing // 2 + reaches)  # nnU-Net halves an odd number either way
            after.append(missing - missing // 2 + (side // 2 + 1) * reaches)
        shape = [sum(sides) for sides in zip(before, label.shape, after, strict=False)]
        start = -before[0], -before[1], -before[2]
        image = crop(raw, start, np.zeros((*shape, raw.shape[3]), raw.dtype))
        labels = crop(label, start, np.zeros((*shape, 1), np.uint8))
        return normalize(image, intensity_of(case, self.store.manifest), 1.0, 0.0), labels


class Specification:
    """What the batches of ``row`` have to be. Batches are counted from the start of an epoch and on into the next."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.store, self.plan = open_plan(row.config)
        is_drawn = row.contender.checked == BY_SEARCH
        self._drawn = DrawnPatches(row, self.store, self.plan) if is_drawn else None
        channels = len(self.store.manifest.channel_names)
        self._shape = (row.config.batch_size, channels, *row.config.patch)
        image = np.empty((*row.config.patch, channels), self.store.manifest.image_dtype)
        self._buffers = image, np.empty((*row.config.patch, 1), np.uint8)

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass the batches on; those that follow no plan are counted by case."""
        return batches if self._drawn is None else self._drawn.counted(batches)

    def warm_up(self, batches: Iterator[Batch]) -> None:
        """Take batches until every case has come, where that fills a cache."""
        while self.row.contender.fills_lazily and self._drawn is not None and not self._drawn.has_seen_all():
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
        elif self.row.contender.checked == BY_PLAN:
            epochs, step = divmod(number, self.plan.steps_per_epoch)
            wanted = self.plan.batch(first_epoch + epochs, step, range(self.row.config.batch_size))
            if list(batch.samples) != wanted:
                raise CheckError(f"batch {number}: its samples are not those the plan drew")
            for slot in chosen:
                where = f"batch {number}, slot {slot}, case {wanted[slot].case_id}"
                self._check_voxels(batch, slot, wanted[slot], where)

    def _check_form(self, batch: Batch, number: int) -> None:
        size, channels, *patch = self._shape
        wanted = {"image": ((size, channels, *patch), torch.float32), "label": ((size, 1, *patch), torch.uint8)}
        for name, (shape, dtype) in wanted.items():
            tensor: torch.Tensor = getattr(batch, name)
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
