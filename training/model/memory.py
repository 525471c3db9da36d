"""How much memory the steps of a training take, computed before any is taken."""

from __future__ import annotations

import torch

from pipelines.dali.pool_budget import free_bytes
from preprocessing.console.errors import InputError
from training.model.networks import InputGrid, SegmentationTask, build_network

BACKWARD = 1.3  # of what the forward pass keeps: gradients that flow back while most of it is still there
LOSS_MAPS = 8  # of the size of the logits: probabilities, one-hot labels, their products
OF_WEIGHTS = 3  # gradients, and up to two moments of the optimiser
MARGIN = 1.25  # by so much an estimate may be too high
BASE_BYTES = 120 * 2**20  # what the first convolution of a process loads


def training_bytes(net: str, task: SegmentationTask, geometry: InputGrid, batch_size: int) -> int:
    """Estimate the bytes that a step in float32 on the CPU takes at its peak, beside the weights and the batch.

    The forward pass runs on PyTorch's meta device, where tensors have sizes and no memory; counted is what it keeps for
    the backward pass. Measured peaks were 0.87 to 1.25 times this for the presets (2 cores, 2026-11-28). Raises what
    ``build_network`` raises.
    """
    with torch.device("meta"):
        network = build_network(net, task, geometry)
        image = torch.empty((batch_size, task.in_channels, *geometry.patch))
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(image.to(memory_format=torch.channels_last_3d))
    weights = {id(weight.untyped_storage()): weight.nbytes for weight in network.parameters()}
    activations = sum(storage.nbytes() for number, storage in kept.items() if number not in weights)
    estimate = BACKWARD * activations + LOSS_MAPS * logits.nbytes + OF_WEIGHTS * sum(weights.values())
    return BASE_BYTES + int(estimate)


def check_memory(
    net: str, task: SegmentationTask, geometry: InputGrid, batch_size: int, num_processes: int = 1
) -> None:
    """Raise ``InputError`` where the steps of ``num_processes`` cannot fit in what is free of this machine's memory.

    The system would end the process without a word.
    """
    needed = training_bytes(net, task, geometry, batch_size) * num_processes
    free = free_bytes(torch.device("cpu"))
    if needed > MARGIN * free:
        patch = ",".join(map(str, geometry.patch))
        raise InputError(
            f"--patch {patch}, {batch_size} at a time: training {net} needs about {needed / 2**30:.2g} GiB, "
            f"{free / 2**30:.2g} GiB are free; lower --patch or --batch-size, or raise --accumulate"
        )
