"""One step of training: what happens to a batch on its way into the network."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch

from pipelines.batch import Loader
from pipelines.config import LoaderConfig
from pipelines.loaders import LOADERS
from pipelines.plan import Plan
from pipelines.workers.torch_loader import SyntheticLoader
from preprocessing.console.errors import RunError
from preprocessing.shards.store import Store, open_store
from training.distributed.group import Group
from training.distributed.world import read_world
from training.model.compute import layout_on
from training.model.networks import NETWORKS
from training.options import Options
from training.trainer.build import prepare
from training.trainer.step import MAX_NORM, take_step
from training.trainer.stop import StopRequest


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("net", list(NETWORKS))
def test_a_batch_of_dali_goes_to_the_first_convolution_without_a_copy(
    tiny_options: Options, tmp_path: Path, net: str, device: str
) -> None:
    options = dataclasses.replace(tiny_options, net=net, device=device, patch=(16, 16, 32), output=tmp_path / "run")
    group = Group(world=read_world({}), device=torch.device(device))
    training = prepare(options, open_store(options.shards), options.output, group, StopRequest())
    seen: list[torch.Tensor] = []
    for module in training.state.network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with training.state.loader as loader:
        batch = next(iter(loader))
        take_step(batch, training.setup, training.state)
        assert seen[0].shape == batch.image.shape
        layout = layout_on(group.device)
        assert seen[0].is_contiguous(memory_format=layout)
        is_as_delivered = seen[0].data_ptr() == batch.image.data_ptr()
        assert is_as_delivered == (layout is torch.channels_last_3d)


def test_a_gradient_is_clipped(tiny_options: Options, tmp_path: Path) -> None:
    options = dataclasses.replace(tiny_options, output=tmp_path / "run")
    group = Group(world=read_world({}), device=torch.device("cpu"))
    training = prepare(options, open_store(options.shards), options.output, group, StopRequest())
    loss, network = training.setup.loss, training.state.network
    setup = dataclasses.replace(training.setup, loss=lambda logits, label: 1e6 * loss(logits, label))
    with training.state.loader as loader:
        take_step(next(iter(loader)), setup, training.state)
    gradients = [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
    assert torch.cat(gradients).norm() == pytest.approx(MAX_NORM, rel=1e-3)


@pytest.mark.parametrize(("scaled", "infinite"), [(True, 10), (True, 11), (False, 1)])
def test_float16_may_overflow_a_few_times(
    tiny_options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scaled: bool, infinite: int
) -> None:
    """GradScaler leaves out a step whose gradients are infinite; without it the first one ends the run."""
    monkeypatch.setattr("training.trainer.build.build_scaler", lambda *_: torch.amp.GradScaler("cpu", enabled=scaled))
    options = dataclasses.replace(tiny_options, output=tmp_path / "run", epochs=3, samples_per_case=4)
    group = Group(world=read_world({}), device=torch.device("cpu"))
    training = prepare(options, open_store(options.shards), options.output, group, StopRequest())
    loss, calls = training.setup.loss, itertools.count(1)

    def overflows(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        made = loss(logits, label)
        return made * float("inf") if next(calls) <= infinite else made

    training.setup = dataclasses.replace(training.setup, loss=overflows)
    with training.state.loader:
        if scaled and infinite <= 10:
            training.run()
            weights = training.state.network.state_dict().values()
            assert all(bool(weight.isfinite().all()) for weight in weights)
        else:
            with pytest.raises(RunError, match=r"^the loss is inf at step \d+; lower --lr"):
                training.run()


@pytest.mark.parametrize(("workers", "cores", "expected"), [(0, 96, 8), (0, 3, 3), (5, 96, 5)])
def test_a_loader_takes_some_of_the_cores(
    tiny_options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, cores: int, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
    seen: list[LoaderConfig] = []

    def build(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
        seen.append(config)
        return SyntheticLoader(store, plan, config, rank, world_size)

    monkeypatch.setitem(LOADERS, "noting", build)
    options = dataclasses.replace(tiny_options, loader="noting", workers=workers, output=tmp_path / "run")
    group = Group(world=read_world({}), device=torch.device("cpu"))
    with prepare(options, open_store(options.shards), options.output, group, StopRequest()).state.loader:
        assert [(config.num_threads, config.num_workers) for config in seen] == [(expected, expected)]
