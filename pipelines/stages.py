"""What a loader's consumer waits for, by cause: on this process's clock and, where the device waits, on the GPU's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch

Wait = Literal["wait_read_s", "wait_graph_s", "wait_transfer_s"]


@dataclass
class StageSeconds:
    """Seconds the consumer waited, by cause, and busy seconds of the workers behind it; sums since the start.

    ``wait_read_s`` + ``wait_graph_s`` + ``wait_transfer_s`` is time in which training stood still: for what the files
    hold (reading is copying: the files are mapped), for making batches of it, and for copies to a GPU (but those that
    ``dali`` makes belong to its reading or its graph). ``read_s`` and ``graph_s`` are work done meanwhile by other
    threads or processes (``graph_s`` only where it can be told apart).
    """

    wait_read_s: float = 0.0
    wait_graph_s: float = 0.0
    wait_transfer_s: float = 0.0
    read_s: float = 0.0
    graph_s: float = 0.0
    read_bytes: int = 0
    _on_gpu: dict[Wait, _GpuWait] = field(default_factory=dict, repr=False, compare=False)

    @contextmanager
    def waiting(self, wait: Wait, *, on_gpu: bool = False) -> Iterator[None]:
        """Book the time that the block takes; with ``on_gpu`` also how long it holds up the current stream after that.

        Only ``settle`` adds the second, and only that of the latest block.
        """
        if on_gpu and wait not in self._on_gpu:
            self._on_gpu[wait] = _GpuWait()
        gpu = self._on_gpu[wait] if on_gpu else None
        begin = time.perf_counter()
        if gpu is not None:
            gpu.begin.record()
        yield
        if gpu is not None:
            gpu.end.record()
        seconds = time.perf_counter() - begin
        setattr(self, wait, getattr(self, wait) + seconds)
        if gpu is not None:
            gpu.booked_s, gpu.is_settled = seconds, False

    def settle(self) -> None:
        """Add how long the GPU waited; called once it is done with the batch, it costs no wait of its own."""
        for wait, gpu in self._on_gpu.items():
            setattr(self, wait, getattr(self, wait) + gpu.settle())


class _GpuWait:
    """Two moments of a stream; a stream that has nothing else to do passes the first one as soon as it is recorded."""

    def __init__(self) -> None:
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self.booked_s, self.is_settled = 0.0, True

    def settle(self) -> float:
        """Return the seconds between the two that are not booked yet."""
        if self.is_settled:
            return 0.0
        self.is_settled = True
        self.end.synchronize()
        return max(float(self.begin.elapsed_time(self.end)) / 1000 - self.booked_s, 0.0)
