"""Let DALI read the patches itself (``fn.readers.numpy``), by ``--read dali``, and by ``gds`` past the processor."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import pipeline_def

from pipelines.augment import in_dali as ops
from pipelines.config import LoaderConfig
from pipelines.dali.device_copy import torch_dtype
from pipelines.dali.graph import device_id, keep_from_forks
from pipelines.dali.inputs import PATCHES, InputSpec, input_specs
from pipelines.dali.slots import Cost, Slot, SlotRing, host_buffers, make_slot
from pipelines.plan import Plan, Sample
from preprocessing.console.errors import InputError
from preprocessing.shards.case import Case
from preprocessing.shards.store import Store


class ReaderPatches(SlotRing):
    """Read each batch with a DALI pipeline of its own, in one thread; the patches are flipped by the graph.

    The reader takes its list of files when it is built and reads them in that order, so every epoch, and every restored
    position, builds a new one for the steps that are left (20 ms). It cannot convert: all cases need the store's dtype.
    On a GPU it reads whole files and cuts there, through GPUDirect Storage where the machine has it.
    """

    raw_patches = True

    def __init__(
        self,
        store: Store,
        plan: Plan,
        lanes: Sequence[int],
        config: LoaderConfig,
        *,
        num_slots: int,
        device: torch.device,
    ) -> None:
        self.patch_device, self.lanes = "gpu" if config.read == "gds" else "cpu", lanes
        options, dtype = plan.options, store.manifest.image_dtype
        specs = input_specs(options.augment, options.patch, plan.num_channels, dtype, raw_patches=True)
        slots = [make_slot({name: self._buffers(name, spec) for name, spec in specs.items()}) for _ in range(num_slots)]
        super().__init__(store, plan, lanes, slots, num_threads=1, device=device)
        self._num_dali_threads = config.num_threads
        if config.read == "gds":
            self._check_gds()
        self._voxel_bytes = plan.num_channels * np.dtype(dtype).itemsize + 1
        self._reader: Any = None

    def begin(self, epoch: int, step: int) -> None:
        """Build the reader of the steps from here to the end of the epoch."""
        steps = range(step, self.plan.steps_per_epoch)
        ids = (self.plan.case_id_at(epoch, later, lane) for later in steps for lane in self.lanes)
        self._reader = self._build([self._files(self.store.case(case_id)) for case_id in ids])

    def close(self) -> None:
        """End the thread and the reader."""
        super().close()
        self._reader = None

    def _start(self, slot: Slot, samples: list[Sample]) -> list[Future[Cost]]:
        return [self._threads.submit(self._read, self._reader, slot, samples)]

    def _read(self, reader: Any, slot: Slot, samples: list[Sample]) -> Cost:
        begin = time.perf_counter()
        slot.wait()
        boxes = []
        for index, sample in enumerate(samples):
            case = self.store.case(sample.case_id)
            case.check_files()  # DALI maps them as well
            placement = self._place(sample, case)
            self._fill_parameters(slot, index, sample, case, placement)
            first, shape = (
                (sample.position_dhw, self.plan.options.patch)
                if placement is None
                else (placement.start_dhw, placement.shape_dhw)
            )
            boxes.append(np.array([first, shape], np.int32))
        reader.feed_input("box", boxes)
        try:
            outputs = reader.run()
        except RuntimeError as error:
            named = ", ".join(dict.fromkeys(sample.case_id for sample in samples))
            reason = str(error).strip().splitlines()[-1]
            raise InputError(
                f"case {named}: a volume is missing or damaged ({reason}); run preprocessing.check"
            ) from error
        slot.fed |= dict(zip(PATCHES, outputs, strict=True))
        return time.perf_counter() - begin, sum(math.prod(shape) for _, shape in boxes) * self._voxel_bytes

    def _check_gds(self) -> None:
        """Read a case through GPUDirect Storage, or its compatibility mode; raises ``InputError`` where neither works.

        Both need libcufile, and a file system that opens files with ``O_DIRECT``.
        """
        case = self.store.case(self.plan.case_ids[0])
        reader = self._build([self._files(case)] * len(self.lanes))
        reader.feed_input("box", [np.array([(0, 0, 0), case.shape_dhw], np.int32)] * len(self.lanes))
        try:
            reader.run()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"--read gds does not work on this machine ({reason}); take --read mmap") from error

    def _buffers(self, name: str, spec: InputSpec) -> list[Any]:
        """Make what is fed before anything was read: on a GPU the patches, back to back."""
        if name not in PATCHES or self.patch_device == "cpu":
            return list(host_buffers(spec, len(self.lanes), pinned=False))
        return list(torch.zeros((len(self.lanes), *spec.shape), dtype=torch_dtype(spec.dtype), device="cuda"))

    def _files(self, case: Case) -> tuple[str, str]:
        """Return the paths of image and label."""
        entry, dtype = case.entry, self.store.manifest.image_dtype
        assert entry.label is not None  # the plan draws from labelled cases only
        if entry.image_dtype != dtype:
            raise InputError(
                f"case {case.case_id}: stored as {entry.image_dtype}, the store as {dtype}, which DALI's reader cannot "
                "convert; take --read mmap"
            )
        return f"{case.folder}/{entry.image.name}", f"{case.folder}/{entry.label.name}"

    def _build(self, files: Sequence[tuple[str, str]]) -> Any:
        @pipeline_def(  # type: ignore[call-overload, untyped-decorator]  # DALI's stub is behind: no exec_dynamic, no CPU
            batch_size=len(self.lanes),
            num_threads=self._num_dali_threads,
            device_id=device_id(self.patch_device),
            prefetch_queue_depth=1,
            exec_dynamic=True,  # its outputs stay valid as long as somebody holds them
        )
        def reads() -> tuple[DataNode, ...]:
            box = fn.external_source(name="box")
            return tuple(
                fn.readers.numpy(
                    device=self.patch_device,
                    files=list(paths),
                    roi_start=box[0],
                    roi_shape=box[1],
                    roi_axes=ops.SPACE,
                    out_of_bounds_policy="pad",
                    fill_value=0,
                    prefetch_queue_depth=1,
                )
                for paths in zip(*files, strict=True)
            )

        reader = reads()
        reader.build()
        keep_from_forks(reader)
        return reader
