"""Bring patches from memory-mapped shards into a ring of reused buffers with a few threads."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt
import torch

from pipelines.augment.placement import Placement
from pipelines.dali.inputs import input_specs
from pipelines.dali.slots import Cost, Slot, SlotRing, host_buffers, make_slot
from pipelines.plan import Plan, Sample
from pipelines.reference import crop, cut
from preprocessing.shards.case import Case
from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Array

SPARE_MAPS = 1  # for each lane, beside its window: its end and the next one's beginning are read at the same time


class HostPatches(SlotRing):
    """Cut and flip each patch in the copy that brings it from the page cache into its slot.

    A sample that is rotated or scaled feeds its whole mapped volume instead, of which the graph reads a box.
    """

    raw_patches, patch_device = False, "cpu"

    def __init__(
        self,
        store: Store,
        plan: Plan,
        lanes: Sequence[int],
        *,
        num_slots: int,
        num_threads: int,
        device: torch.device,
    ) -> None:
        options, dtype = plan.options, store.manifest.image_dtype
        specs = input_specs(options.augment, options.patch, plan.num_channels, dtype, raw_patches=False)
        self._maps = functools.lru_cache(maxsize=(plan.options.window + SPARE_MAPS) * len(lanes))(self._open)
        pinned = device.type == "cuda"
        slots = [
            make_slot({name: host_buffers(spec, len(lanes), pinned=pinned) for name, spec in specs.items()})
            for _ in range(num_slots)
        ]
        super().__init__(store, plan, lanes, slots, num_threads=num_threads, device=device)

    def close(self) -> None:
        """End the threads, drop the buffers and the maps."""
        super().close()
        self._maps.cache_clear()

    def _start(self, slot: Slot, samples: list[Sample]) -> list[Future[Cost]]:
        return [self._threads.submit(self._fill, slot, index, sample) for index, sample in enumerate(samples)]

    def _fill(self, slot: Slot, index: int, sample: Sample) -> Cost:
        begin = time.perf_counter()
        slot.wait()
        case, image, label = self._maps(sample.case_id)
        case.check_files()  # they were mapped for an earlier patch
        patches = slot.buffers["image"][index], slot.buffers["label"][index]
        placement = self._place(sample, case)
        if placement is not None:
            patches, placement = _readable(image, label, patches[0].dtype, placement)
        else:
            cut(image, sample, patches[0])
            cut(label, sample, patches[1])
        slot.fed["image"][index], slot.fed["label"][index] = patches
        self._fill_parameters(slot, index, sample, case, placement)
        return time.perf_counter() - begin, _num_bytes(patches, placement)

    def _open(self, case_id: str) -> tuple[Case, Array, npt.NDArray[np.uint8]]:
        """Map a case. The maps of cases in use are kept: a new one for every patch means 400 page faults for each.

        (Those took 1 of 38 ms of processor time per patch, and slowed the copy down by another: 2 cores, 128^3 x 4
        int16, 2026-11-24.)
        """
        case = self.store.case(case_id)
        label = case.label()
        assert label is not None  # the plan draws from labelled cases only
        return case, case.image(), label


def _readable(
    image: Array, label: npt.NDArray[np.uint8], dtype: np.dtype[np.generic], placement: Placement
) -> tuple[tuple[Array, Array], Placement]:
    """Return what the graph can read the box from: the mapped volumes, or a copy of the box where dtypes differ."""
    if image.dtype == dtype:
        return (image, label), placement
    box = np.empty((*placement.shape_dhw, image.shape[3]), dtype)
    box_label = np.empty((*placement.shape_dhw, 1), np.uint8)
    start = placement.start_dhw
    copied = Placement(start_dhw=(0, 0, 0), shape_dhw=placement.shape_dhw, matrix=placement.matrix)
    return (crop(image, start, box), crop(label, start, box_label)), copied


def _num_bytes(patches: tuple[Array, Array], placement: Placement | None) -> int:
    if placement is None:
        return patches[0].nbytes + patches[1].nbytes
    voxel = patches[0].shape[3] * patches[0].itemsize + 1
    return math.prod(placement.shape_dhw) * int(voxel)
