"""Check batches of loaders that draw for themselves: every patch has to be found in the volume of its case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.comparison.contenders import SMART
from benchmarks.comparison.find_patch import Found, Label, find_patch
from benchmarks.comparison.peer_settings import SAMPLES_PER_VOLUME
from benchmarks.comparison.rows import Row
from pipelines.batch import Batch
from pipelines.plan import SCALE_RANGE, SHIFT_RANGE, Plan
from pipelines.reference import Float, crop, intensity_of, normalize
from preprocessing.errors import RunError
from preprocessing.shards import Store

TOLERANCE = 1e-3  # of a standard deviation: peers add up their statistics in single precision
ALIKE = 0.8  # correlation from which a patch with nnU-Net's augmentation is taken as found
FULL_RANGE = 0.6, 1.0  # of factor and offset: brightness and contrast together
SIGMAS = 5.0  # by which the patches of one case may be off their even share


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
            if found is not None and (self.row.config.augment != "full" or self._lies_still(found, label)):
                self._check_found(found, where)

    def _check_new(self, image: Float, where: str) -> None:
        """Notice voxels that were delivered before: chance does not repeat all its numbers."""
        sparse = np.ascontiguousarray(image[::4, ::4, ::4]).tobytes()
        if sparse in self._seen and self.row.config.augment != "none":
            raise CheckError(f"{where}: the same voxels as in an earlier batch")
        self._seen.add(sparse)

    def _lies_still(self, found: Found, label: Label) -> bool:
        """Tell a patch that nnU-Net's list has not rotated or zoomed: most are not, and their labels fit exactly."""
        return found.alike >= ALIKE and not found.wrong_labels and bool(label.any())

    def _check_found(self, found: Found, where: str) -> None:
        full = self.row.config.augment == "full"
        self.num_found += 1
        scale, shift = FULL_RANGE if full else (SCALE_RANGE, SHIFT_RANGE)
        if not full and not found.error <= TOLERANCE:
            raise CheckError(f"{where}: image differs from every place of the volume by {found.error:.3g} or more")
        if abs(found.scale - 1) > scale + TOLERANCE or abs(found.shift) > shift + TOLERANCE:
            raise CheckError(
                f"{where}: image is {found.scale:.3g} times the standardised volume plus {found.shift:.3g}, "
                f"allowed are {1 - scale:g} to {1 + scale:g} and {-shift:g} to {shift:g}"
            )
        if found.wrong_labels:
            raise CheckError(f"{where}: {found.wrong_labels} label voxels are not those of its place in the volume")

    def check_share(self) -> None:
        """Check that every case comes about as often as any other; raises ``CheckError``."""
        if self.row.loader == SMART:
            return  # it holds some of the cases for a while, then others
        drawn, cases = sum(self._counts.values()), len(self.plan.case_ids)
        expected = drawn / cases
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
        before, after, reaches = [], [], self.row.reaches_over
        for side, size in zip(self.row.config.patch, label.shape, strict=False):
            missing = max(side - size, 0)
            before.append(missing // 2 + reaches)  # nnU-Net halves an odd number either way
            after.append(missing - missing // 2 + (side // 2 + 1) * reaches)
        shape = [sum(sides) for sides in zip(before, label.shape, after, strict=False)]
        start = -before[0], -before[1], -before[2]
        image = crop(raw, start, np.zeros((*shape, raw.shape[3]), raw.dtype))
        labels = crop(label, start, np.zeros((*shape, 1), np.uint8))
        return normalize(image, intensity_of(case, self.store.manifest), 1.0, 0.0), labels
