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


def run_script(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, as users do: here warnings are errors, and other people's imports warn."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(Path(__file__).with_name(name)), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def cases_of(loader: Loader, epochs: int) -> list[str]:
    """Write down the cases that the plan draws, a line a batch."""
    steps = ((epoch, step) for epoch in range(epochs) for step in range(len(loader)))
    batches = (loader.plan.batch(epoch, step, loader.lanes) for epoch, step in steps)
    return [" ".join(sample.case_id for sample in batch) for batch in batches]


@pytest.mark.skipif(find_spec("ignite") is None, reason="MONAI's trainers need pytorch-ignite")
def test_monais_engines(loader: Loader, coordinate_store: Path) -> None:
    done = run_script("monai_trainer.py", coordinate_store)
    assert done.returncode == 0, done.stderr
    *seen, scored = done.stdout.splitlines()
    assert seen == cases_of(loader, epochs=2)  # ignite asks for one epoch after the other, and gets them
    name, value = scored.split()
    assert name == "dice"
    assert 0 < float(value) < 1


@pytest.mark.skipif(find_spec("lightning") is None, reason="needs lightning")
def test_lightning_goes_on_exactly_where_it_was_killed(loader: Loader, coordinate_store: Path, tmp_path: Path) -> None:
    """Lightning keeps the loader's position in its checkpoints by itself: here in the middle of the first epoch."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run_script("lightning_trainer.py", coordinate_store, tmp_path / "whole", 0)
    first = run_script("lightning_trainer.py", coordinate_store, tmp_path / "killed", 4)
    second = run_script("lightning_trainer.py", coordinate_store, tmp_path / "killed", 0)
    assert (whole.returncode, first.returncode, second.returncode) == (0, 9, 0), whole.stderr + second.stderr
    *seen, weights = whole.stdout.splitlines()
    assert seen == cases_of(loader, epochs=2)
    assert first.stdout.splitlines() + second.stdout.splitlines() == [*seen, weights]


def test_what_loops_ask_of_a_data_loader(loader: Loader) -> None:
    given = loader.as_dicts()
    assert (len(given), given.batch_size, len(given.dataset)) == (len(loader), 2, 2 * len(loader))
    batches = iter(given)
    first = next(batches)
    assert set(first) == {"image", "label", "case_ids"}
    assert type(first["image"]) is torch.Tensor
    given.sampler.set_epoch(0)  # as loops do at the start of every epoch, also of one that is resumed
    assert given.state_dict() == loader.state_dict()
    assert given.state_dict()["step"] == 1
    given.sampler.set_epoch(3)
    assert (given.state_dict()["epoch"], given.state_dict()["step"]) == (3, 0)
