"""The loader in somebody else's training loop: plain torch, and MONAI's SupervisedTrainer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import AsDiscreted, Compose, EnsureTyped

from pipelines.batch import Loader
from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader

PATCH = (16, 16, 16)


@pytest.fixture
def loader(coordinate_store: Path) -> Iterator[Loader]:
    config = LoaderConfig(store=coordinate_store, patch=PATCH, samples_per_case=2, augment="basic")
    with build_loader("dali", config) as made:
        yield made


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    network: torch.nn.Module = UNet(
        spatial_dims=3, in_channels=4, out_channels=4, channels=(8, 16), strides=(2,), num_res_units=1
    )
    return network


def test_a_plain_torch_loop(loader: Loader, network: torch.nn.Module) -> None:
    loss_function, optimizer = DiceCELoss(to_onehot_y=True, softmax=True), torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(3):  # three epochs: each iteration goes on with the next one
        for batch in loader:
            loss = loss_function(network(batch.image), batch.label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert len(losses) == 3 * len(loader)
    assert sum(losses[-len(loader) :]) < sum(losses[: len(loader)])
    assert loader.state_dict()["epoch"] == 2


def test_a_batch_is_a_monai_dictionary(loader: Loader) -> None:
    """MONAI's dictionary transforms take the items of a batch as they take those of a data set."""
    change = Compose([EnsureTyped(keys=["image", "label"]), AsDiscreted(keys="label", to_onehot=4)])
    batch = next(iter(loader))
    made: Any = change({name: value[0] for name, value in batch.as_dict().items()})
    assert made["image"].shape == (4, *PATCH)
    assert made["label"].shape == (4, *PATCH)
    assert torch.equal(made["label"].argmax(0), batch.label[0, 0].long())
    assert made["case_ids"] == batch.case_ids[0]


@pytest.mark.skipif(find_spec("ignite") is None, reason="MONAI's trainers need pytorch-ignite")
def test_monais_supervised_trainer(loader: Loader, coordinate_store: Path) -> None:
    """In a process of its own, as users run it: here warnings are errors, and ignite's imports warn."""
    script = Path(__file__).with_name("monai_trainer.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(script), str(coordinate_store)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    wanted = [
        " ".join(sample.case_id for sample in loader.plan.batch(epoch, step, loader.lanes))
        for epoch in range(2)
        for step in range(len(loader))
    ]
    assert done.stdout.splitlines() == wanted  # ignite asks for one epoch after the other, and gets them
