"""What every loader delivers, how every loader behaves, and the seconds it spends on each stage."""

from __future__ import annotations

import dataclasses
import logging
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import torch
from typing_extensions import Self

from pipelines.plan import Plan, Sample, check_state

Wait = Literal["disk_s", "preprocessing_s", "transfer_s"]
log = logging.getLogger(__name__)


@dataclass
class StageSeconds:
    """Seconds the consumer waited, by cause, and busy seconds of the workers behind it; sums since the start.

    ``disk_s`` + ``preprocessing_s`` + ``transfer_s`` is time in which training stood still: for what the files
    hold (reading is copying: the files are mapped), for making batches of it, and for copies to a GPU (but those that
    ``dali`` makes belong to its reading or its graph). ``read_s`` and ``graph_s`` are work done meanwhile by other
    threads or processes (``graph_s`` only where it can be told apart).
    """

    disk_s: float = 0.0
    preprocessing_s: float = 0.0
    transfer_s: float = 0.0
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


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch on the loader's device.

    ``image`` float32 (float16 when asked for) [N,C,D,H,W] with channels_last_3d strides, normalised; ``label`` uint8
    [N,1,D,H,W] class ids, or [N,R,D,H,W] region masks when the loader was asked for regions (R+1 where the data set has
    an ignore label: the last is the map of the voxels that do not count); ``samples`` is what the plan drew, in order.
    Loaders that draw for themselves (MONAI's) leave ``samples`` empty and fill ``cases``; their images are contiguous.
    """

    image: torch.Tensor
    label: torch.Tensor
    samples: Sequence[Sample]
    cases: Sequence[str] = ()

    @property
    def case_ids(self) -> list[str]:
        """The case of each sample."""
        return list(self.cases) or [sample.case_id for sample in self.samples]

    def clone(self) -> Batch:
        """Copy the tensors, so that the batch outlives the next one even with ``reuse_buffers``."""
        return dataclasses.replace(self, image=self.image.clone(), label=self.label.clone())

    def as_dict(self) -> dict[str, Any]:
        """Return the form that MONAI's engines take; for its transforms ``decollate_batch`` cuts it up."""
        return {"image": self.image, "label": self.label, "case_ids": self.case_ids}


def channels_first(batch: torch.Tensor) -> torch.Tensor:
    """View a [N,D,H,W,C] batch as [N,C,D,H,W]: the same memory is what torch calls channels_last_3d."""
    return batch.permute(0, 4, 1, 2, 3)


@dataclass
class Loader(ABC):
    """Base of all loaders: where it stands in the plan, how it is saved and closed.

    Iterating continues where the last iteration stopped, and a finished epoch is followed by the next one; with
    ``start_anew`` every iteration delivers the whole epoch that ``set_epoch`` chose. A subclass implements ``_batches``
    (and ``_release`` when it holds threads, processes or memory).
    """

    plan: Plan
    rank: int
    world_size: int
    stages: StageSeconds = field(default_factory=StageSeconds, init=False)
    start_anew: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.lanes = self.plan.lanes_of(self.rank, self.world_size)
        self._epoch, self._step, self._closed = 0, 0, False
        self._active: weakref.ref[Generator[Batch]] | None = None

    def __len__(self) -> int:
        """Batches per epoch; the same on every rank."""
        return self.plan.steps_per_epoch

    @property
    def epoch(self) -> int:
        """The epoch that it stands in."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the first batch of ``epoch``; an iteration under way ends, and its iterator has no more batches."""
        self._stop()
        self._epoch, self._step = epoch, 0

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch, or all of it with ``start_anew``."""
        if self._closed:
            raise RuntimeError("this loader is closed; build a new one")
        self._stop()
        if self.start_anew:
            self._step = 0
        elif self._step >= len(self):
            self.set_epoch(self._epoch + 1)
        batches = self._batches(self._epoch, self._step)
        # Held weakly: in a cycle with the loader it would be collected in any order, DALI's pipeline perhaps first.
        self._active = weakref.ref(batches)
        for batch in batches:
            self._step += 1
            yield batch

    def _stop(self) -> None:
        """End an iteration that was left half-way, so that what it had started is settled."""
        active = None if self._active is None else self._active()
        if active is not None:
            active.close()

    def as_dicts(self) -> DictLoader:
        """Return this loader as Lightning's, MONAI's, Ignite's and other people's loops take one."""
        return DictLoader(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the exact position: the next batch to come, and the key of the plan it belongs to."""
        return {"plan": self.plan.key, "epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position; an iteration under way ends, and its iterator has no more batches.

        Raises ``InputError`` when the position belongs to another plan; nothing has changed then.
        """
        epoch, step = check_state(self.plan, state)
        self._stop()
        self._epoch, self._step = epoch, step

    def close(self) -> None:
        """Free threads, processes and buffers; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._stop()
            self._release()

    def __enter__(self) -> Self:
        """Enter a block at whose end the loader is closed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the loader."""
        self.close()

    @abstractmethod
    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:
        """Yield the batches of one epoch from ``first_step`` on; clean up when closed early."""

    def _release(self) -> None:  # noqa: B027  # a loader that holds nothing leaves it as it is
        """Free what the loader holds."""


@dataclass
class DictLoader:
    """A loader in other people's loops: it yields plain dictionaries, and has what they ask of a ``DataLoader``.

    A batch is ``{"image": tensor, "label": tensor, "case_ids": list}``. Its position is saved and restored by
    ``state_dict`` and ``load_state_dict``, exactly, which Lightning calls by itself.
    """

    loader: Loader

    @property
    def batch_size(self) -> int:
        """Patches in a batch of this rank."""
        return len(self.loader.lanes)

    @property
    def dataset(self) -> range:
        """Numbers of this rank's patches in an epoch: its length is what loops ask for."""
        return range(len(self.loader) * self.batch_size)

    @property
    def sampler(self) -> Self:
        """What loops call ``set_epoch`` of."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the first batch of ``epoch``, unless the loader stands in it: there it goes on."""
        if self.loader.epoch != epoch:
            self.loader.set_epoch(epoch)

    def __len__(self) -> int:
        """Batches per epoch; the same on every rank."""
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rest of the current epoch."""
        return (batch.as_dict() for batch in self.loader)

    def state_dict(self) -> dict[str, Any]:
        """Return the exact position, as ``Loader.state_dict`` does."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position, as ``Loader.load_state_dict`` does."""
        self.loader.load_state_dict(state)

    def close(self) -> None:
        """Free threads, processes and buffers."""
        self.loader.close()
