"""What the host path adds to a plain copy: its threads against two that do nothing but copy the same patches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.reporting.result import Record, make_row
from benchmarks.scaling.throttled_reads import patch_bytes
from pipelines.config import LoaderConfig
from pipelines.dali.host_patches import HostPatches
from pipelines.loaders import open_plan
from pipelines.plan import Plan
from preprocessing.console.errors import RunError
from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Array

GROUP = "host path alone"
THREADS, SLOTS = 2, 5  # as many slots as the dali loader gives it
Pair = tuple[Array, Array]  # image [d,h,w,C] and label [d,h,w,1] of a patch


@dataclass(frozen=True, kw_only=True)
class PlainCopy:
    """A copy loop of ``THREADS`` threads: patch by patch from kept maps into reused buffers, nothing else."""

    maps: Mapping[str, Pair]
    buffers: Sequence[Pair]

    @classmethod
    def of(cls, store: Store, plan: Plan) -> PlainCopy:
        """Map all cases, and touch as many buffers as the host path has."""
        maps: dict[str, Pair] = {}
        for case_id in plan.case_ids:
            case = store.case(case_id)
            label = case.label()
            assert label is not None  # the plan has labelled cases only
            maps[case_id] = case.image(), label
        voxels, channels = plan.options.patch, len(store.manifest.channel_names)
        buffers: list[Pair] = [
            (np.full((*voxels, channels), 0, store.manifest.image_dtype), np.full((*voxels, 1), 0, np.uint8))
            for _ in range(SLOTS * plan.options.global_batch)
        ]
        return cls(maps=maps, buffers=buffers)

    def patches(self, plan: Plan, epoch: int, step: int) -> list[Pair]:
        """Return views of the patches of a step, as they lie in the maps."""
        views = []
        for sample in plan.batch(epoch, step, range(plan.options.global_batch)):
            corners = zip(sample.position_dhw, plan.options.patch, strict=True)
            where = tuple(slice(start, start + side) for start, side in corners)
            image, label = self.maps[sample.case_id]
            views.append((image[where], label[where]))
        return views

    def seconds(self, plan: Plan, epoch: int) -> float:
        """Copy an epoch, whose samples are drawn before; returns the wall seconds."""
        patches = [patch for step in range(plan.steps_per_epoch) for patch in self.patches(plan, epoch, step)]

        def copy(first: int) -> None:
            for number in range(first, len(patches), THREADS):
                for target, source in zip(self.buffers[number % len(self.buffers)], patches[number], strict=True):
                    np.copyto(target, source)

        with ThreadPoolExecutor(THREADS) as threads:
            begin = time.perf_counter()
            list(threads.map(copy, range(THREADS)))
            return time.perf_counter() - begin


def host_path_seconds(path: HostPatches, plain: PlainCopy | None, epoch: int) -> float:
    """Take an epoch from the host path, giving each slot back at once; returns the wall seconds.

    With ``plain`` every patch is compared with what that would copy; raises ``RunError`` where they differ.
    """
    plan, submitted = path.plan, 0
    path.begin(epoch, 0)
    begin = time.perf_counter()
    for step in range(plan.steps_per_epoch):
        while path.has_free_slot and submitted < plan.steps_per_epoch:
            path.submit(epoch, submitted)
            submitted += 1
        slot = path.take().slot
        if plain is not None:
            made = zip(slot.buffers["image"], slot.buffers["label"], strict=True)
            for pair, wanted in zip(made, plain.patches(plan, epoch, step), strict=True):
                if not all(np.array_equal(a, b) for a, b in zip(pair, wanted, strict=True)):
                    raise RunError(f"step {step}: the host path delivers other voxels than lie in the maps")
        path.give_back(slot)
    return time.perf_counter() - begin


def copy_rows(config: LoaderConfig, runs: int) -> Iterator[Record]:
    """Measure both in rounds in this process, an epoch each after one that is checked, the order turned each round.

    Patches are neither flipped nor standardised: reading and copying is all there is to do.
    """
    store, plan = open_plan(config)
    plain, lanes = PlainCopy.of(store, plan), range(plan.options.global_batch)
    path = HostPatches(store, plan, lanes, num_slots=SLOTS, num_threads=THREADS, device=torch.device("cpu"))
    copied: list[float] = []
    fed: list[float] = []
    try:
        plain.seconds(plan, 0)
        host_path_seconds(path, plain, 0)
        for epoch in range(1, runs + 1):
            plain_first = epoch % 2 == 1
            if plain_first:
                copied.append(plain.seconds(plan, epoch))
            fed.append(host_path_seconds(path, None, epoch))
            if not plain_first:
                copied.append(plain.seconds(plan, epoch))
    finally:
        path.close()
    patches, patch_mb = plan.steps_per_epoch * plan.options.global_batch, patch_bytes(store, config) / 1e6
    for label, seconds in ((f"numpy copies, {THREADS} threads", copied), (f"host path, {THREADS} threads", fed)):
        rates = [patches / one for one in seconds]
        values = {"patches_per_s": rates, "mb_per_s": [rate * patch_mb for rate in rates]}
        if seconds is fed:
            values["ratio"] = [theirs / ours for theirs, ours in zip(copied, fed, strict=True)]
        yield make_row(GROUP, label, values)
