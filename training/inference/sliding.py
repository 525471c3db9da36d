"""Slide a network over whole volumes, prepared as training prepares patches: for validation and ``predict``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from pipelines.reference import Intensity, Slices, crop, normalize, overlap
from preprocessing.volumes.grid import Int3
from training.inference.decode import decode
from training.model.compute import autocast, layout_on
from training.model.spec import Labels, ModelSpec

MAPS_BYTES = 2**31  # a window's activations and the network still fit on a GPU of 16 GB
FLIPS = [axes for count in range(4) for axes in combinations((2, 3, 4), count)]  # of [N,C,D,H,W], none of them first


@dataclass(frozen=True, kw_only=True)
class Sliding:
    """How windows follow each other, and what is computed in each.

    Windows overlap by the fraction ``overlap`` and are blended with Gaussian weights (MONAI's
    ``sliding_window_inference``). ``mirror`` averages each over the eight ways to flip it, as nnU-Net does when
    testing: eight times the time, a little more accuracy for networks that were trained with flips.
    """

    overlap: float
    amp: torch.dtype | None
    mirror: bool = False


def predict_volume(
    network: nn.Module, voxels: npt.NDArray[Any], intensity: Intensity, spec: ModelSpec, how: Sliding
) -> Labels:
    """Slide the training patch over a raw volume [D,H,W,C] and return label ids uint8 [D,H,W]."""
    return decode(volume_logits(network, voxels, intensity, spec, how).numpy(), spec)


def volume_logits(
    network: nn.Module, voxels: npt.NDArray[Any], intensity: Intensity, spec: ModelSpec, how: Sliding
) -> torch.Tensor:
    """Slide the training patch over a raw volume [D,H,W,C] and return logits float32 [K,D,H,W] on the CPU."""
    patch = spec.geometry.patch
    image = to_input(voxels, intensity, patch, next(network.parameters()).device)
    _, inside = _placed(voxels.shape, patch)
    return predict_logits(network, image, spec, how)[(slice(None), *inside)]


def volume_bytes(shape_dhw: Int3, spec: ModelSpec) -> int:
    """Count the bytes that ``volume_logits`` holds at once: the network's input, its maps, the sum of the weights."""
    shape, _ = _placed(shape_dhw, spec.geometry.patch)
    return 4 * math.prod(shape) * (spec.task.in_channels + spec.task.out_channels + 1)


def to_input(voxels: npt.NDArray[Any], intensity: Intensity, patch: Int3, device: torch.device) -> torch.Tensor:
    """Normalise a whole volume [D,H,W,C] as training does; returns [1,C,D,H,W].

    One that is smaller than ``patch`` is first set into the middle of raw zeros, as patches are: in a CT that is water
    and no longer zero when it is normalised.
    """
    shape, inside = _placed(voxels.shape, patch)
    if shape != voxels.shape[:3]:
        d, h, w = (-part.start for part in inside)
        voxels = crop(voxels, (d, h, w), np.empty((*shape, voxels.shape[3]), voxels.dtype))
    values = normalize(voxels, intensity, scale=1.0, shift=0.0)
    image = torch.from_numpy(values[None]).permute(0, 4, 1, 2, 3).to(device)
    return image.contiguous(memory_format=layout_on(device))


def _placed(shape: tuple[int, ...], patch: Int3) -> tuple[Int3, Slices]:
    """Return the shape D,H,W that the network sees and where the volume lies in it, as ``Plan`` places patches.

    Along one axis, 5 voxels in a patch of 8 lie in 1 to 6; 9 voxels are seen as they are.
    """
    d, h, w = (max(size, side) for size, side in zip(shape, patch, strict=False))
    before = [(seen - size) // 2 for seen, size in zip((d, h, w), shape, strict=False)]
    _, inside, _ = overlap((-before[0], -before[1], -before[2]), shape, (d, h, w))
    return (d, h, w), inside


@torch.inference_mode()
def predict_logits(network: nn.Module, image: torch.Tensor, spec: ModelSpec, how: Sliding) -> torch.Tensor:
    """Slide the training patch over ``image`` [1,C,D,H,W] and return logits float32 [K,D,H,W] on the CPU."""
    network.eval()
    with autocast(image.device, how.amp):
        made = sliding_window_inference(
            image,
            spec.geometry.patch,
            1,
            _mirrored(network) if how.mirror else network,
            overlap=how.overlap,
            mode="gaussian",
            device=where_to_blend(image, spec.task.out_channels),
        )
    assert isinstance(made, torch.Tensor)  # one output, since the network is in eval mode
    return made[0].float().cpu()


def _mirrored(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Average a network over the flips of its input: of one window, so that no map of the volume is held twice."""

    def mean(window: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = network(window).float()
        for axes in FLIPS[1:]:
            total += network(window.flip(axes)).flip(axes)
        return total.div_(len(FLIPS))

    return mean


def where_to_blend(image: torch.Tensor, num_maps: int) -> torch.device:
    """Return the device on which the windows of ``image`` [1,C,D,H,W] become ``num_maps`` maps of its size.

    That is the image's own, unless the float32 maps would take more than ``MAPS_BYTES`` of it: those of a whole-body CT
    with a hundred structures are larger than any GPU.
    """
    size_bytes = 4 * num_maps * math.prod(image.shape[2:])
    return image.device if size_bytes <= MAPS_BYTES else torch.device("cpu")
