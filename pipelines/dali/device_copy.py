"""Copies to and within a device that are finished when they return, on side streams that nothing else waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from pipelines.reference import overlap
from preprocessing.volumes.grid import Array, Int3


def use_device(device: torch.device) -> None:
    """Make a GPU the calling thread's: a new thread has GPU 0, and takes memory there just by waiting for an event."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


class DeviceCopies:
    """Copy from the calling thread; each thread has a stream of its own, and a pinned staging buffer once it uploads.

    Only the calling thread waits, for an event behind its own copies. So a thread's result is there when the thread is
    done, and nobody needs a stream to know that: DALI takes shared GPU memory as it is, without waiting for a stream
    (``InputOperator::ForwardCurrentData``, 2.4.0).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._own = threading.local()

    def upload(self, source: Array, target: torch.Tensor) -> None:
        """Copy an array of the host into a contiguous tensor of the device, whose dtype may be wider."""
        if self.device.type == "cpu":
            np.copyto(target.numpy(), source, casting="safe")
            return
        self._begin_thread()
        staging = self._staging(target.nbytes).view(target.dtype).view(target.shape)
        np.copyto(staging.numpy(), source, casting="safe")
        with self.finished():
            target.copy_(staging, non_blocking=True)

    @contextmanager
    def finished(self) -> Iterator[None]:
        """Let what is launched inside run on this thread's stream, and wait for it at the end."""
        if self.device.type == "cpu":
            yield
            return
        self._begin_thread()
        with torch.cuda.stream(self._own.stream):
            yield
            self._own.done.record()
        self._own.done.synchronize()

    def _begin_thread(self) -> None:
        """Give a new thread its device, stream and event."""
        if not hasattr(self._own, "stream"):
            use_device(self.device)
            self._own.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            self._own.done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def _staging(self, num_bytes: int) -> torch.Tensor:
        """Return pinned memory of this thread, which grows to the largest volume."""
        if not hasattr(self._own, "staging") or self._own.staging.nbytes < num_bytes:
            self._own.staging = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        staging: torch.Tensor = self._own.staging[:num_bytes]
        return staging


def torch_dtype(name: str) -> torch.dtype:
    """Translate numpy's name of a dtype."""
    return torch.from_numpy(np.empty(0, name)).dtype


def crop_tensor(volume: torch.Tensor, position_dhw: Int3, out: torch.Tensor) -> None:
    """Copy the box of ``volume`` [D,H,W,C] at ``position_dhw`` to ``out``, as ``reference.crop`` does on arrays."""
    source, target, is_padded = overlap(position_dhw, volume.shape, out.shape)
    if is_padded:
        out.zero_()
    out[target].copy_(volume[source], non_blocking=True)
