"""Exponential moving average of the weights, PyTorch's."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from preprocessing.errors import InputError


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
