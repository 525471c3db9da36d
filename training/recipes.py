"""Networks, losses and optimisers: MONAI's and PyTorch's, chosen by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from monai.losses import DiceCELoss, DiceLoss
from monai.networks.nets import DynUNet, SegResNet, UNet
from torch import nn

from pipelines.plan import Int3
from preprocessing.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is predicted: ``out_channels`` regions (sigmoid, may overlap) or classes with background (softmax)."""

    in_channels: int
    out_channels: int
    has_regions: bool


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A recipe: network, number of steps, peak learning rate, weight decay, loss variant and warm-up."""

    net: str
    steps: int
    lr: float
    weight_decay: float
    squared_dice: bool
    warmup_steps: int


PRESETS: dict[str, Preset] = {
    "fast": Preset(net="dynunet", steps=2400, lr=1e-2, weight_decay=1e-5, squared_dice=False, warmup_steps=20),
    # AWS's article: UNet 16-32-64-128-256 with 2 residual units, Dice with squared denominator, Adam
    "article": Preset(net="unet", steps=25_000, lr=1e-3, weight_decay=1e-5, squared_dice=True, warmup_steps=0),
}


def _segresnet(task: Task) -> nn.Module:
    return SegResNet(
        spatial_dims=3,
        init_filters=8,
        in_channels=task.in_channels,
        out_channels=task.out_channels,
        blocks_down=(1, 2, 2, 4),
        blocks_up=(1, 1, 1),
    )


def _unet(task: Task) -> nn.Module:
    return UNet(
        spatial_dims=3,
        in_channels=task.in_channels,
        out_channels=task.out_channels,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )


def _dynunet(task: Task) -> nn.Module:
    return DynUNet(
        spatial_dims=3,
        in_channels=task.in_channels,
        out_channels=task.out_channels,
        kernel_size=[3, 3, 3, 3],
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2, 2, 2],
        filters=[16, 32, 64, 128],
        res_block=True,
    )


NETWORKS: dict[str, Callable[[Task], nn.Module]] = {"segresnet": _segresnet, "unet": _unet, "dynunet": _dynunet}
STRIDE = {"segresnet": 8, "unet": 16, "dynunet": 8}


def build_network(name: str, task: Task, patch: Int3) -> nn.Module:
    """Build the network ``name`` (a key of ``NETWORKS``) in channels_last_3d.

    Raises ``InputError`` for an unknown name or a patch whose sides the network cannot halve evenly.
    """
    if name not in NETWORKS:
        raise InputError(f"--net {name}: unknown; known: {', '.join(NETWORKS)}")
    if any(side % STRIDE[name] for side in patch):
        sides = ",".join(str(-(-side // STRIDE[name]) * STRIDE[name]) for side in patch)
        raise InputError(f"--patch {','.join(map(str, patch))}: {name} needs multiples of {STRIDE[name]}; use {sides}")
    network = NETWORKS[name](task)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


def build_loss(task: Task, preset: Preset) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Build the loss of network output [N,K,D,H,W] and label uint8 [N,1 or R,D,H,W].

    Dice plus cross-entropy for classes, Dice plus binary cross-entropy for regions (nnU-Net's pair), or for regions
    with ``squared_dice`` Dice alone (the article's). MONAI's ``DiceCELoss(sigmoid=True)`` would not do for regions:
    with more than one channel its cross-entropy is a softmax, which overlapping regions can never satisfy.
    """
    smooth = 1e-5
    if not task.has_regions:
        classes = DiceCELoss(
            softmax=True,
            to_onehot_y=True,
            include_background=False,
            squared_pred=preset.squared_dice,
            smooth_nr=smooth,
            smooth_dr=smooth,
        )
        return lambda logits, label: classes(logits, label.long())
    dice = DiceLoss(sigmoid=True, squared_pred=preset.squared_dice, smooth_nr=smooth, smooth_dr=smooth)
    entropy = nn.BCEWithLogitsLoss()

    def regions(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        wanted = label.to(logits.dtype)
        loss: torch.Tensor = dice(logits, wanted)
        return loss if preset.squared_dice else loss + entropy(logits, wanted)

    return regions


def build_optimizer(network: nn.Module, lr: float, preset: Preset) -> torch.optim.Optimizer:
    """Build AdamW over all parameters of ``network``."""
    return torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=preset.weight_decay)


def build_schedule(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Build a linear warm-up followed by a cosine to zero over ``total_steps`` steps (Loshchilov and Hutter 2017)."""
    warmup = min(warmup_steps, total_steps // 10)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total_steps - warmup, 1)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
