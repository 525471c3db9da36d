"""The ``dali`` loader: patches through the host path into the DALI graph, batches out without a copy."""

from __future__ import annotations

import atexit
import functools
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

from torch.utils.dlpack import from_dlpack

from pipelines.batch import Batch, Loader, channels_first
from pipelines.config import LoaderConfig
from pipelines.dali_graph import LAYOUTS, GraphOptions, build_graph, fill_background
from pipelines.host_path import Filled, HostPath, Slot
from pipelines.plan import Plan
from preprocessing.shards import Store

GRAPH_AHEAD = 2  # batches inside DALI: one being made while the consumer works on the other


class DaliLoader(Loader):
    """Read and flip with threads, normalise and augment with DALI on the CPU or the GPU.

    Three stages run at once: threads cut the patches of step t+2, DALI works on t+1, the consumer on t.
    """

    def __init__(self, store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> None:
        super().__init__(plan, rank, world_size)
        on_gpu = config.device != "cpu"
        self.reuse_buffers = config.reuse_buffers or on_gpu
        self.host = HostPath(
            store,
            plan,
            self.lanes,
            num_slots=2 * GRAPH_AHEAD + 1,
            num_threads=config.num_threads,
            pinned=on_gpu,
        )
        options = GraphOptions(
            batch_size=len(self.lanes),
            patch=config.patch,
            num_channels=plan.num_channels,
            image_dtype=store.manifest.image_dtype,
            augment=config.augment,
            dtype=config.dtype,
            keep_zero=store.manifest.modality != "ct",
            regions=config.region_numbers(store),
            device="gpu" if on_gpu else "cpu",
            num_threads=config.num_threads,
            prefetch=GRAPH_AHEAD,
        )
        self._leaves_background = options.leaves_background
        self.pipeline: Any = build_graph(options)
        self._at_exit = functools.partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)
        self._warm_up()

    def _warm_up(self) -> None:
        """Run the graph on empty slots, so that all its buffers are there before the first real batch.

        DALI's first ``schedule_run`` runs as many batches as its queue is deep, whether or not an epoch has that many.
        """
        slots = self.host.empty_slots(GRAPH_AHEAD)
        for slot in slots:
            self._feed_slot(slot)
        self.pipeline.schedule_run()
        for slot in slots:
            self.pipeline.outputs()
            self.host.give_back(slot)

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:
        steps = iter(range(first_step, len(self)))
        in_graph: deque[Filled] = deque()
        delivered: Filled | None = None
        try:
            self._read_ahead(epoch, steps)
            while True:
                while len(in_graph) < GRAPH_AHEAD and self.host.num_pending:
                    in_graph.append(self._feed())
                    self._read_ahead(epoch, steps)
                if not in_graph:
                    return
                begin = time.perf_counter()
                outputs = self.pipeline.outputs()  # invalidates the batch delivered before
                delivered = in_graph.popleft()
                batch = self._batch(delivered, *outputs)
                self.stages.wait_graph_s += time.perf_counter() - begin
                yield batch
                self.host.give_back(delivered.slot)
                delivered = None
                self._read_ahead(epoch, steps)
        finally:
            if delivered is not None:
                self.host.give_back(delivered.slot)
            self._drain(in_graph)

    def _read_ahead(self, epoch: int, steps: Iterator[int]) -> None:
        while self.host.has_free_slot:
            step = next(steps, None)
            if step is None:
                return
            self.host.submit(epoch, step)

    def _feed(self) -> Filled:
        begin = time.perf_counter()
        filled = self.host.take()
        self.stages.wait_read_s += time.perf_counter() - begin
        self.stages.read_s += filled.read_s
        self.stages.read_bytes += filled.read_bytes
        self._feed_slot(filled.slot)
        self.pipeline.schedule_run()
        return filled

    def _feed_slot(self, slot: Slot) -> None:
        for name, arrays in slot.fed.items():
            self.pipeline.feed_input(name, arrays, layout=LAYOUTS.get(name, ""))

    def _batch(self, filled: Filled, *outputs: Any) -> Batch:
        image, label = (from_dlpack(output.as_tensor()) for output in outputs)
        if self._leaves_background:
            fill_background(image.numpy(), filled.slot.fed["image"], [sample.shift for sample in filled.samples])
        batch = Batch(image=channels_first(image), label=channels_first(label), samples=filled.samples)
        return batch if self.reuse_buffers else batch.clone()

    def _drain(self, in_graph: deque[Filled]) -> None:
        """Finish what was started when an epoch is left early, so that the next one starts clean."""
        while in_graph:
            self.pipeline.outputs()
            self.host.give_back(in_graph.popleft().slot)
        self.host.abandon()

    def _release(self) -> None:
        self.host.close()
        self.pipeline = None
        atexit.unregister(self._at_exit)


def _close(loader: weakref.ref[DaliLoader]) -> None:
    """Close a loader that is open when Python ends, before DALI's own exit handler takes its pipeline away."""
    open_loader = loader()
    if open_loader is not None:
        open_loader.close()
