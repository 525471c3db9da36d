"""Presets, optimisers, learning-rate schedules, and PyTorch's moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from monai.optimizers import Novograd
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from preprocessing.console.errors import InputError, check_known
from preprocessing.volumes.grid import Float3, Int3

Parameters = Iterable[nn.Parameter]
USUAL_LR = {"adamw": 1e-3, "adam": 1e-3, "sgd": 1e-2, "novograd": 1e-2}  # where it is not the preset's optimiser
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),  # Loshchilov and Hutter 2017
    "poly": lambda done: (1 - done) ** 0.9,  # nnU-Net's
}


def build_average(network: nn.Module, decay: float) -> AveragedModel | None:
    """Build the average that forgets a step's weights at ``1 - decay`` per step; ``None`` when ``decay`` is 0.

    0.999 averages over about the last thousand steps. Raises ``InputError`` outside 0 to 1.
    """
    check_decay(decay)
    if decay == 0:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)  # type: ignore[no-untyped-call]


def check_decay(decay: float) -> None:
    """Raise ``InputError`` outside 0 to 1."""
    if not 0 <= decay < 1:
        raise InputError(f"--ema {decay:g}: 0 (off), or a decay below 1 such as 0.999")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A recipe: network, loss, optimiser with peak learning rate and weight decay, schedule, number of steps.

    ``patch`` and ``spacing_mm`` of a voxel, both D,H,W, where the recipe has some of its own.
    """

    net: str
    loss: str
    optimizer: str
    lr: float
    weight_decay: float
    schedule: str
    warmup_steps: int
    steps: int
    patch: Int3 | None = None
    spacing_mm: Float3 | None = None


PRESETS: dict[str, Preset] = {
    "fast": Preset(
        net="dynunet",
        loss="dice_ce",
        optimizer="adamw",
        lr=1e-2,
        weight_decay=1e-5,
        schedule="cosine",
        warmup_steps=20,
        steps=2400,
    ),
    # Isensee et al. 2021: 1000 epochs of 250 steps
    "nnunet": Preset(
        net="nnunet",
        loss="dice_ce",
        optimizer="sgd",
        lr=1e-2,
        weight_decay=3e-5,
        schedule="poly",
        warmup_steps=0,
        steps=250_000,
    ),
    # AWS's article: UNet 16-32-64-128-256 with 2 residual units, Dice with squared denominator, Adam; it gives sizes
    # in x,y,z: patches of 128,128,64 at 1.5,1.5,2.0 mm
    "article": Preset(
        net="unet",
        loss="dice",
        optimizer="adam",
        lr=1e-3,
        weight_decay=1e-5,
        schedule="cosine",
        warmup_steps=0,
        steps=25_000,
        patch=(64, 128, 128),
        spacing_mm=(2.0, 1.5, 1.5),
    ),
}


def _fused(parameters: list[nn.Parameter]) -> bool:
    """Tell whether one kernel can update all parameters."""
    return all(parameter.is_cuda for parameter in parameters)


def _adamw(parameters: list[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=_fused(parameters))


def _adam(parameters: list[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, weight_decay=decay, fused=_fused(parameters))


def _sgd(parameters: list[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    fused = _fused(parameters)
    return torch.optim.SGD(parameters, lr=lr, weight_decay=decay, momentum=0.99, nesterov=True, fused=fused)


def _novograd(parameters: list[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    return Novograd(parameters, lr=lr, weight_decay=decay)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter], float, float], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "novograd": _novograd,
}


def build_optimizer(name: str, network: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Build the optimiser ``name`` (a key of ``OPTIMIZERS``) over all parameters; ``InputError`` for another name."""
    check_known("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name](list(network.parameters()), lr, weight_decay)


def build_schedule(
    name: str, optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Build a linear warm-up followed by the decay ``name`` (a key of ``SCHEDULES``) to zero over ``total_steps``."""
    warmup = min(warmup_steps, total_steps // 10)
    decay = SCHEDULES[name]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return decay(min((step - warmup) / max(total_steps - warmup, 1), 1.0))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
