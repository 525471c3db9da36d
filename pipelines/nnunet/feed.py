"""Batches as nnU-Net's loop takes them: an endless iterator of dictionaries, targets made on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import interpolate
from typing_extensions import Self

from pipelines.batch import Batch, Loader
from preprocessing.console.errors import InputError

Target = torch.Tensor | list[torch.Tensor]
MAX_WINDOW = 256  # volumes that are kept mapped for each lane


@dataclass(frozen=True, kw_only=True)
class Targets:
    """How labels become nnU-Net's targets.

    ``scales`` are those of deep supervision along D,H,W, the first 1 (``None``: one target and no list). ``regions``
    are class ids of each target channel, the ignore label last where there is one (``None``: class ids). Of the
    channels ``masked`` what lies outside the nonzero mask is set to 0.
    """

    scales: Sequence[Sequence[float]] | None
    regions: Sequence[tuple[int, ...]] | None
    masked: Sequence[int] = ()

    def make(self, batch: Batch) -> dict[str, Any]:
        """Return image [N,C,D,H,W] float32, contiguous, with its targets and case ids.

        Class ids are int16 [N,1,D,H,W] as in nnU-Net, region masks bool [N,R,D,H,W]; one for each scale.
        """
        image = batch.image.contiguous()  # in DALI's own memory where there is one channel
        ids = batch.label.to(torch.int16) - 1  # the store keeps nnU-Net's -1 as 0
        for channel in self.masked:
            image[:, channel].masked_fill_(ids[:, 0] < 0, 0)
        ids.clamp_(min=0)
        target = ids if self.regions is None else torch.cat([_is_in(ids, numbers) for numbers in self.regions], dim=1)
        scaled: Target = target if self.scales is None else [_at_scale(target, scale) for scale in self.scales]
        return {"data": image, "target": scaled, "keys": batch.case_ids}


def _is_in(ids: torch.Tensor, numbers: tuple[int, ...]) -> torch.Tensor:
    return torch.isin(ids, torch.tensor(numbers, dtype=ids.dtype, device=ids.device))


def _at_scale(target: torch.Tensor, scale: Sequence[float]) -> torch.Tensor:
    if all(share == 1 for share in scale):
        return target
    size = [round(side * share) for side, share in zip(target.shape[2:], scale, strict=True)]
    return interpolate(target.float(), size, mode="nearest-exact").to(target.dtype)


@dataclass(frozen=True, kw_only=True)
class BatchShare:
    """The batch over all ranks: its patches, how many are centred on a label, and this rank's place in it."""

    size: int
    forced: int
    rank: int = 0
    world_size: int = 1


def share_of(parts: list[tuple[int, float]], rank: int) -> BatchShare:
    """Add up the batch size and the oversampled share of every rank.

    Raises ``InputError`` for ranks that have different batch sizes.
    """
    sizes = [size for size, _ in parts]
    if len(set(sizes)) > 1:
        raise InputError(
            f"batch size {sum(sizes)} over {len(sizes)} ranks is {', '.join(map(str, sizes))}; choose a number of GPUs "
            "that divides it"
        )
    forced = sum(size - round(size * (1 - percent)) for size, percent in parts)
    return BatchShare(size=sum(sizes), forced=forced, rank=rank, world_size=len(parts))


def plan_epochs(num_cases: int, global_batch: int, num_iterations: int) -> tuple[int, int]:
    """Return ``window`` and ``samples_per_case`` so that an epoch of the plan has at least ``num_iterations`` steps.

    A window is as many cases as are kept mapped for each lane. Example: 16 cases in batches of 2 are 8 for each lane;
    250 iterations take 32 rounds of them, and 6 steps are left over.
    """
    per_lane = math.ceil(num_cases / global_batch)
    return min(per_lane, MAX_WINDOW), math.ceil(num_iterations / per_lane)


class Feed:
    """Deliver ``num_iterations`` batches of each epoch of the plan, from ``epoch`` on, for ever.

    nnU-Net asks for just as many, so that a run that goes on at an epoch gets the batches that it would have had. On
    the CPU the tensors hold until the next batch is asked for.
    """

    def __init__(self, loader: Loader, targets: Targets, num_iterations: int, epoch: int) -> None:
        self._loader, self._targets = loader, targets
        self._batches = self._all(num_iterations, epoch)

    def __iter__(self) -> Self:
        """Return itself: it has no end."""
        return self

    def __next__(self) -> dict[str, Any]:
        """Return the next batch."""
        return next(self._batches)

    def close(self) -> None:
        """Free threads and memory; a second call does nothing."""
        self._batches.close()
        self._loader.close()

    def _all(self, num_iterations: int, epoch: int) -> Any:
        while True:
            self._loader.set_epoch(epoch)
            batches: Iterator[Batch] = iter(self._loader)
            for _ in range(num_iterations):
                yield self._targets.make(next(batches))
            epoch += 1
