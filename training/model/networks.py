"""Networks: MONAI's, chosen by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.networks.nets import DynUNet, SegResNet, UNet
from torch import nn

from preprocessing.console.errors import InputError, check_known
from preprocessing.volumes.grid import Float3, Int3


@dataclass(frozen=True, kw_only=True)
class SegmentationTask:
    """What is predicted: ``out_channels`` regions (sigmoid, may overlap) or classes with background (softmax)."""

    in_channels: int
    out_channels: int
    has_regions: bool


@dataclass(frozen=True, kw_only=True)
class InputGrid:
    """What the network sees: the size of a patch, and of a voxel, in D,H,W order."""

    patch: Int3
    spacing_mm: Float3 = (1.0, 1.0, 1.0)


def _segresnet(task: SegmentationTask, _: InputGrid) -> nn.Module:
    return SegResNet(
        spatial_dims=3,
        init_filters=8,
        in_channels=task.in_channels,
        out_channels=task.out_channels,
        blocks_down=(1, 2, 2, 4),
        blocks_up=(1, 1, 1),
    )


def _unet(task: SegmentationTask, _: InputGrid) -> nn.Module:
    return UNet(
        spatial_dims=3,
        in_channels=task.in_channels,
        out_channels=task.out_channels,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )


def _dynunet(task: SegmentationTask, _: InputGrid) -> nn.Module:
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


def _nnunet(task: SegmentationTask, geometry: InputGrid) -> nn.Module:
    kernels, strides = nnunet_topology(geometry)
    return DynUNet(
        spatial_dims=3,
        in_channels=task.in_channels,
        out_channels=task.out_channels,
        kernel_size=kernels,
        strides=strides,
        upsample_kernel_size=strides[1:],
        deep_supervision=True,
        deep_supr_num=min(3, len(strides) - 2),
    )


def nnunet_topology(geometry: InputGrid, max_levels: int = 6) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """Derive (kernels, strides) of every level from patch and spacing, as nnU-Net does (Isensee et al. 2021).

    An axis is halved while it has at least 8 voxels, an even number of them, and voxels not more than twice as long as
    the shortest; longer voxels are not convolved across either. A patch of (16, 64, 64) at (3, 1, 1) mm gives strides
    (1,1,1) (1,2,2) (2,2,2) (2,2,2) (1,2,2) and kernels (1,3,3) first, (3,3,3) from the second level on.
    """
    sizes, spacing = list(geometry.patch), list(geometry.spacing_mm)
    kernels: list[Sequence[int]] = []
    strides: list[Sequence[int]] = [(1, 1, 1)]
    while len(strides) <= max_levels:
        near = [length <= 2 * min(spacing) for length in spacing]
        stride = [2 if close and size >= 8 and size % 2 == 0 else 1 for close, size in zip(near, sizes, strict=True)]
        if stride == [1, 1, 1]:
            break
        kernels.append(tuple(3 if close else 1 for close in near))
        if len(strides) == max_levels:
            kernels.pop()
            break
        strides.append(tuple(stride))
        sizes = [size // step for size, step in zip(sizes, stride, strict=True)]
        spacing = [length * step for length, step in zip(spacing, stride, strict=True)]
    return [*kernels, (3, 3, 3)], strides


NETWORKS: dict[str, Callable[[SegmentationTask, InputGrid], nn.Module]] = {
    "segresnet": _segresnet,
    "unet": _unet,
    "dynunet": _dynunet,
    "nnunet": _nnunet,
}
STRIDE = {"segresnet": 8, "unet": 16, "dynunet": 8, "nnunet": 16}


def build_network(name: str, task: SegmentationTask, geometry: InputGrid) -> nn.Module:
    """Build the network ``name`` (a key of ``NETWORKS``) in channels_last_3d.

    Raises ``InputError`` for an unknown name, and what ``check_patch`` raises.
    """
    check_known("net", name, NETWORKS)
    check_patch(name, geometry.patch)
    network = NETWORKS[name](task, geometry)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


def check_patch(name: str, patch: Int3) -> None:
    """Raise ``InputError`` for a patch that is too small, or whose sides the network ``name`` cannot halve evenly."""
    if any(side % STRIDE[name] for side in patch):
        sides = ",".join(str(-(-side // STRIDE[name]) * STRIDE[name]) for side in patch)
        raise InputError(f"--patch {','.join(map(str, patch))}: {name} needs multiples of {STRIDE[name]}; use {sides}")
    if math.prod(side // STRIDE[name] for side in patch) < 2:
        raise InputError(
            f"--patch {','.join(map(str, patch))}: {name} needs a side of {2 * STRIDE[name]} voxels at least"
        )
