"""The ``dali`` loader: patches from the host or from the device into the DALI graph, batches out without a copy."""

from __future__ import annotations

import atexit
import ctypes
import functools
import sys
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.dlpack import from_dlpack

from pipelines.batch import Batch, Loader, channels_first
from pipelines.config import LoaderConfig
from pipelines.dali.device_copy import DeviceCopies
from pipelines.dali.device_patches import DevicePatches
from pipelines.dali.graph import LAYOUTS, GraphOptions, build_graph, fill_background
from pipelines.dali.host_patches import HostPatches
from pipelines.dali.pool_budget import choose_budget, free_bytes, measure_need
from pipelines.dali.reader_patches import ReaderPatches
from pipelines.dali.slots import Filled, Slot, SlotRing
from pipelines.dali.volume_pool import VolumePool
from pipelines.plan import Plan
from preprocessing.console.settings import settings_from
from preprocessing.shards.store import Store

HUGE_PAGE_BYTES = 2 << 20  # of x86-64, and of arm64 with pages of 4 KiB
MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25  # Linux 2.6.38 and 6.1; the same numbers on every architecture with huge pages
GRAPH_AHEAD = 2  # batches inside DALI: one being made while the consumer works on the other


def use_huge_pages(buffer: npt.NDArray[np.generic]) -> None:
    """Move a contiguous buffer that has been written to, to huge pages, as far as the system lets it.

    Its content stays. Where huge pages are off, or Linux is older than 6.1, nothing is lost: the buffer stays as it is,
    or is moved in the background. NumPy asks the same for its own arrays, but nobody does for those of DALI.
    """
    first = -(-buffer.ctypes.data // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    size = (buffer.ctypes.data + buffer.nbytes) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES - first
    if sys.platform != "linux" or size <= 0:
        return
    for advice in (MADV_HUGEPAGE, MADV_COLLAPSE):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), advice)


class DaliLoader(Loader):
    """Read and cut with threads, normalise and augment with DALI on the CPU or the GPU.

    Three stages run at once: threads cut the patches of step t+2, DALI works on t+1, the consumer on t.
    """

    def __init__(self, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> None:
        super().__init__(plan, rank, world_size)
        self._on_gpu = config.device == "gpu"
        self.reuse_buffers = config.reuse_buffers or self._on_gpu
        self.slots = _make_slots(store, plan, config, self.lanes)
        if self._on_gpu:
            torch.cuda.synchronize()  # side streams do not wait for what filled, or last used, their new memory
        options = settings_from(
            config,
            GraphOptions,
            batch_size=len(self.lanes),
            num_channels=plan.num_channels,
            image_dtype=store.manifest.image_dtype,
            keep_zero=store.manifest.modality == "mr",
            clips=store.manifest.modality == "ct",
            regions=config.region_numbers(store),
            raw_patches=self.slots.raw_patches,
            patch_device=self.slots.patch_device,
            prefetch=GRAPH_AHEAD,
        )
        self._leaves_background = options.leaves_background
        self._filling = ThreadPoolExecutor(config.num_threads, thread_name_prefix="voxelfeed-fill")
        self.pipeline: Any = build_graph(options)
        self._at_exit = functools.partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)
        self._warm_up()

    def _warm_up(self) -> None:
        """Run the graph on empty slots, so that all its buffers are there before the first real batch.

        DALI's first ``schedule_run`` runs as many batches as its queue is deep, whether or not an epoch has that many.
        """
        slots = self.slots.empty_slots(GRAPH_AHEAD)
        for slot in slots:
            self._feed_slot(slot)
        self.pipeline.schedule_run()
        for slot in slots:
            outputs = self._outputs(slot)
            self.slots.give_back(slot)
            if not self._on_gpu:  # the classic executor keeps these very buffers
                for output in outputs:
                    use_huge_pages(np.asarray(output.as_tensor()))

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:
        steps = iter(range(first_step, len(self)))
        in_graph: deque[Filled] = deque()
        delivered: Filled | None = None
        with self.stages.waiting("disk_s"):
            self.slots.begin(epoch, first_step)
        try:
            self._read_ahead(epoch, steps)
            while True:
                while len(in_graph) < GRAPH_AHEAD and self.slots.num_pending:
                    in_graph.append(self._feed())
                    self._read_ahead(epoch, steps)
                if not in_graph:
                    return
                with self.stages.waiting("preprocessing_s", on_gpu=self._on_gpu):
                    outputs = self._outputs(in_graph[0].slot)  # invalidates the batch delivered before
                    delivered = in_graph.popleft()
                    batch = self._batch(delivered, *outputs)
                yield batch
                self.slots.give_back(delivered.slot)
                delivered = None
                self._read_ahead(epoch, steps)
        finally:
            if delivered is not None:
                self.slots.give_back(delivered.slot)
            self._drain(in_graph)

    def _read_ahead(self, epoch: int, steps: Iterator[int]) -> None:
        while self.slots.has_free_slot:
            step = next(steps, None)
            if step is None:
                return
            with self.stages.waiting("disk_s"):
                self.slots.submit(epoch, step)

    def _feed(self) -> Filled:
        with self.stages.waiting("disk_s"):
            filled = self.slots.take()
        self.stages.read_s += filled.read_s
        self.stages.read_bytes += filled.read_bytes
        with self.stages.waiting("preprocessing_s"):
            self._feed_slot(filled.slot)
            self.pipeline.schedule_run()
        return filled

    def _feed_slot(self, slot: Slot) -> None:
        for name, arrays in slot.fed.items():
            self.pipeline.feed_input(name, arrays, layout=LAYOUTS.get(name, ""))

    def _outputs(self, slot: Slot) -> Sequence[Any]:
        """Take the oldest batch, made from ``slot``, out of DALI.

        On a GPU this process does not wait: the current stream does, and passes ``released`` once the batch is made.
        """
        if not self._on_gpu:
            outputs: Sequence[Any] = self.pipeline.outputs()
            return outputs
        stream = torch.cuda.current_stream()
        outputs = self.pipeline.outputs(cuda_stream=stream)
        slot.released = stream.record_event(torch.cuda.Event(blocking=True))  # type: ignore[no-untyped-call]
        return outputs

    def _batch(self, filled: Filled, *outputs: Any) -> Batch:
        image, label = (from_dlpack(output.as_tensor()) for output in outputs)
        if self._leaves_background:
            shifts = [sample.shift for sample in filled.samples]
            list(self._filling.map(fill_background, image.numpy(), filled.slot.fed["image"], shifts))
        batch = Batch(image=channels_first(image), label=channels_first(label), samples=filled.samples)
        return batch if self.reuse_buffers else batch.clone()

    def _drain(self, in_graph: deque[Filled]) -> None:
        """Finish what was started when an epoch is left early, so that the next one starts clean."""
        while in_graph:
            slot = in_graph.popleft().slot
            self._outputs(slot)
            self.slots.give_back(slot)
        self.slots.abandon()

    def _release(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()  # DALI may still read from the slots and the volumes
        self.slots.close()
        self._filling.shutdown()
        self.pipeline = None
        atexit.unregister(self._at_exit)


def _make_slots(store: Store, plan: Plan, config: LoaderConfig, lanes: Sequence[int]) -> SlotRing:
    num_slots, num_threads = 2 * GRAPH_AHEAD + 1, config.num_threads
    device = torch.device("cpu") if config.device == "cpu" else torch.device("cuda", torch.cuda.current_device())
    if config.read != "mmap":
        return ReaderPatches(store, plan, lanes, config, num_slots=num_slots, device=device)
    if config.where_to_crop == "host":
        return HostPatches(store, plan, lanes, num_slots=num_slots, num_threads=num_threads, device=device)
    itemsize = np.dtype(store.manifest.image_dtype).itemsize
    budget = choose_budget(measure_need(plan, lanes, itemsize), config.gpu_cache_gib, free_bytes(device))
    pool = VolumePool(store, plan, lanes, budget, DeviceCopies(device))
    return DevicePatches(pool, num_slots=num_slots, num_threads=num_threads)


def _close(loader: weakref.ref[DaliLoader]) -> None:
    """Close a loader that is open when Python ends, before DALI's own exit handler takes its pipeline away."""
    open_loader = loader()
    if open_loader is not None:
        open_loader.close()
