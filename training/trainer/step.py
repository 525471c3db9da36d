"""One step of training: forward, backward, optimiser."""

from __future__ import annotations

import torch
from torch import nn

from pipelines.batch import Batch
from training.model.compute import autocast, layout_on
from training.trainer.state import RunSetup, TrainState

MAX_NORM = 12.0  # nnU-Net's bound on the gradient


def take_step(batch: Batch, setup: RunSetup, state: TrainState) -> float:
    """Train on one batch, which lies on the device; returns its loss, which this process has waited for."""
    # On a CPU all but MONAI's batches have this layout from the start and go to the first convolution without a copy.
    # On CUDA it is a copy of 67 MB for 128^3 x 4; left as it is, the first convolution would turn all others around.
    image = batch.image.to(memory_format=layout_on(batch.image.device))
    state.optimizer.zero_grad(set_to_none=True)
    loss = _backward(image, batch.label, setup, state)
    state.scaler.unscale_(state.optimizer)
    nn.utils.clip_grad_norm_(state.network.parameters(), max_norm=MAX_NORM)
    before = state.scaler.get_scale()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.scaler.get_scale() >= before:  # else gradients overflowed and the optimiser left the step out
        state.schedule.step()
    if state.average is not None:
        state.average.update_parameters(state.network)
    if loss.is_cuda:  # reading it would spin, and take a core from the loader
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record()
        done.synchronize()
    return float(loss)


def _backward(image: torch.Tensor, label: torch.Tensor, setup: RunSetup, state: TrainState) -> torch.Tensor:
    """Add up the gradients of the batch part by part; returns the loss of the whole batch."""
    num, group = setup.accumulate, setup.group
    parts = zip(image.chunk(num), label.chunk(num), strict=True)
    total = torch.zeros((), device=image.device)
    for index, (part, wanted) in enumerate(parts):
        with group.no_sync_until_last(state.forward, is_last=index == num - 1):
            with autocast(group.device, setup.amp):
                logits = state.forward(part)
            loss = setup.loss(logits.float(), wanted) / num
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total
