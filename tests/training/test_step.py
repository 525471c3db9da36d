"""One step of training: what happens to a batch on its way into the network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from preprocessing.shards import open_store
from training.distributed import read_world
from training.group import Group
from training.networks import NETWORKS
from training.options import Options
from training.prepare import prepare
from training.step import take_step
from training.stop import StopRequest


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("net", list(NETWORKS))
def test_a_batch_of_dali_goes_to_the_first_convolution_without_a_copy(
    tiny_options: Options, tmp_path: Path, net: str, device: str
) -> None:
    options = dataclasses.replace(tiny_options, net=net, device=device, patch=(16, 16, 32), output=tmp_path / "run")
    group = Group(world=read_world({}), device=torch.device(device))
    training = prepare(options, open_store(options.shards), options.output, group, StopRequest())
    seen: list[torch.Tensor] = []
    for module in training.learned.network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with training.learned.loader as loader:
        batch = next(iter(loader))
        take_step(batch, training.setup, training.learned)
        assert seen[0].shape == batch.image.shape
        assert seen[0].data_ptr() == batch.image.data_ptr()
        assert seen[0].is_contiguous(memory_format=torch.channels_last_3d)
