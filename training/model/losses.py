"""Losses: MONAI's, chosen by name, for overlapping regions (sigmoid) and for classes (softmax).

Every loss is a mean over samples: Dice is taken per sample and not over the batch as one volume. So the mean over the
processes of a run, or over the parts of an accumulated batch, is the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceFocalLoss, DiceLoss
from torch import nn

from preprocessing.console.errors import check_known
from training.model.networks import SegmentationTask

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SMOOTH = 1e-5


def _dice(task: SegmentationTask) -> Loss:
    """Build Dice with squared denominator (the article's)."""
    if task.has_regions:
        return DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    return DiceLoss(
        softmax=True, to_onehot_y=True, include_background=False, squared_pred=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH
    )


def _dice_ce(task: SegmentationTask) -> Loss:
    """Build Dice plus cross-entropy, binary for regions (nnU-Net's pair).

    MONAI's ``DiceCELoss(sigmoid=True)`` would not do for regions: with more than one channel its cross-entropy is a
    softmax, which overlapping regions can never satisfy.
    """
    if not task.has_regions:
        return DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    dice = DiceLoss(sigmoid=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    entropy = nn.BCEWithLogitsLoss()

    def both(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = dice(logits, wanted) + entropy(logits, wanted)
        return total

    return both


def _dice_focal(task: SegmentationTask) -> Loss:
    """Build Dice plus focal loss, for structures of few voxels."""
    if task.has_regions:
        return DiceFocalLoss(sigmoid=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    return DiceFocalLoss(softmax=True, to_onehot_y=True, include_background=False, smooth_nr=SMOOTH, smooth_dr=SMOOTH)


LOSSES: dict[str, Callable[[SegmentationTask], Loss]] = {"dice": _dice, "dice_ce": _dice_ce, "dice_focal": _dice_focal}


def _of_counted_voxels(loss: Loss, task: SegmentationTask, ignore_label: int) -> Loss:
    """Take ``loss`` of the voxels that count, sample by sample, as if there were no others.

    No loss above looks at where a voxel lies, so the voxels that remain may be handed over as one row. Regions come
    with one channel more, the last, of what is to be ignored (nnU-Net's way).
    """

    def counted(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        ignored = wanted[:, -1] > 0 if task.has_regions else wanted[:, 0] == ignore_label
        wanted = wanted[:, :-1] if task.has_regions else wanted
        losses = []
        for made, true, skip in zip(logits, wanted, ignored, strict=True):
            row, truth = (part[:, ~skip][None, :, :, None, None] for part in (made, true))
            losses.append(loss(row, truth) if row.shape[2] else made.sum() * 0)
        return torch.stack(losses).mean()

    return counted


def build_loss(name: str, task: SegmentationTask, ignore_label: int | None = None) -> Loss:
    """Build the loss ``name`` (a key of ``LOSSES``) of network output and label uint8 [N,1 or R,D,H,W].

    The output is [N,K,D,H,W], or [N,S,K,D,H,W] from a network with deep supervision, whose S resolutions weigh 1, 1/2,
    1/4, ... of their sum. Voxels of ``ignore_label`` do not count; with regions their map is one more channel of the
    label. Raises ``InputError`` for an unknown name.
    """
    check_known("loss", name, LOSSES)
    loss = LOSSES[name](task)
    if ignore_label is not None:
        loss = _of_counted_voxels(loss, task, ignore_label)

    def of_output(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        wanted = label.to(logits.dtype)
        if logits.ndim == 5:
            return loss(logits, wanted)
        outputs = list(logits.unbind(dim=1))
        weights = [2.0**-level for level in range(len(outputs))]
        deep = DeepSupervisionLoss(loss, weights=[weight / sum(weights) for weight in weights])  # type: ignore[arg-type]
        total: torch.Tensor = deep(outputs, wanted)
        return total

    return of_output
