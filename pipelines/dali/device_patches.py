"""Cut patches from volumes that lie on the device: the processor only starts copies."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.augment.placement import Placement
from pipelines.dali.device_copy import crop_tensor, torch_dtype
from pipelines.dali.inputs import PATCHES, input_specs
from pipelines.dali.slots import Cost, Filled, Slot, SlotRing, host_buffers, make_slot
from pipelines.dali.volume_pool import PooledVolume, VolumePool
from pipelines.plan import Sample
from preprocessing.volumes.grid import Int3


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A sample to cut out of its volume: its box where it is moved, and image and label to fill."""

    sample: Sample
    volume: PooledVolume
    placement: Placement | None
    patches: list[torch.Tensor]


class DevicePatches(SlotRing):
    """Fill slots of device memory from a ``VolumePool``; patches are flipped by the graph.

    DALI shares GPU memory only when the samples of a batch lie back to back (a list of separate tensors is copied into
    such a batch first, ``InputOperator::ShareUserData``, 2.4.0). So the cut does not happen in the graph, which would
    move whole volumes, but here, packing the patches: each of its own shape where samples are rotated or scaled.
    """

    raw_patches = True

    def __init__(self, pool: VolumePool, *, num_slots: int, num_threads: int) -> None:
        self._pool = pool
        self.patch_device = "cpu" if pool.copies.device.type == "cpu" else "gpu"
        slots = [_packed_slot(pool) for _ in range(num_slots)]
        super().__init__(pool.store, pool.plan, pool.lanes, slots, num_threads=num_threads, device=pool.copies.device)

    def begin(self, epoch: int, step: int) -> None:
        """Say that this step is submitted next, and then one after the other."""
        self._pool.begin(epoch, step)

    def take(self) -> Filled:
        """Wait for the oldest fill; what was read is what was uploaded meanwhile."""
        filled = super().take()
        seconds, size = self._pool.take_costs()
        return dataclasses.replace(filled, read_s=filled.read_s + seconds, read_bytes=size)

    def close(self) -> None:
        """End the threads, drop the buffers and the volumes."""
        self._pool.close()
        super().close()

    def _start(self, slot: Slot, samples: list[Sample]) -> list[Future[Cost]]:
        volumes = self._pool.volumes(samples)
        placements = [self._place(sample, self.store.case(sample.case_id)) for sample in samples]
        patch = self.plan.options.patch
        shapes = [patch if placement is None else placement.shape_dhw for placement in placements]
        patches = _pack(slot, shapes)
        fills = []
        for index, (sample, volume, placement) in enumerate(zip(samples, volumes, placements, strict=True)):
            cut = Cut(sample=sample, volume=volume, placement=placement, patches=patches[index])
            fill = self._threads.submit(self._fill, slot, index, cut)
            volume.add_reader(fill)
            fills.append(fill)
        return fills

    def _fill(self, slot: Slot, index: int, cut: Cut) -> Cost:
        begin = time.perf_counter()
        sample, placement = cut.sample, cut.placement
        slot.wait()
        cut.volume.uploaded.result()
        position = sample.position_dhw if placement is None else placement.start_dhw
        with self._pool.copies.finished():
            for volume, patch in zip((cut.volume.image, cut.volume.label), cut.patches, strict=True):
                crop_tensor(volume, position, patch)
        self._fill_parameters(slot, index, sample, self.store.case(sample.case_id), placement)
        return time.perf_counter() - begin, 0


def _packed_slot(pool: VolumePool) -> Slot:
    """Make room for patches; where they may be moved, for boxes of the largest volume."""
    options, batch_size, dtype = pool.plan.options, len(pool.lanes), pool.store.manifest.image_dtype
    specs = input_specs(options.augment, options.patch, pool.plan.num_channels, dtype, raw_patches=True)
    voxels = max(math.prod(options.patch), pool.budget.largest_voxels if options.augment == "full" else 0)
    buffers: dict[str, list[Any]] = {}
    for name, spec in specs.items():
        if name in PATCHES:
            shape = batch_size * voxels, spec.shape[3]
            buffers[name] = [torch.zeros(shape, dtype=torch_dtype(spec.dtype), device=pool.copies.device)]
        else:
            buffers[name] = list(host_buffers(spec, batch_size, pinned=False))
    slot = make_slot(buffers)
    _pack(slot, [options.patch] * batch_size)
    return slot


def _pack(slot: Slot, shapes: Sequence[Int3]) -> list[list[torch.Tensor]]:
    """Make room for patches of ``shapes`` back to back, and feed them; returns image and label [d,h,w,C] of each.

    Memory of the host is fed as arrays: of a tensor's framework DALI asks the CUDA stream, which may not be there.
    """
    patches = []
    for name in PATCHES:
        memory = slot.buffers[name][0]
        sizes = [math.prod(shape) * memory.shape[1] for shape in shapes]
        parts = torch.split(memory.view(-1)[: sum(sizes)], sizes)
        made = [part.view(*shape, memory.shape[1]) for part, shape in zip(parts, shapes, strict=True)]
        slot.fed[name] = [patch.numpy() for patch in made] if memory.device.type == "cpu" else made
        patches.append(made)
    return [list(pair) for pair in zip(*patches, strict=True)]
