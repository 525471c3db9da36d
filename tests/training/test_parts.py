"""The trainer's small parts: split, schedule, precision, ranks, time split, signals."""

from __future__ import annotations

import itertools
import math
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.errors import InputError
from training.distributed import choose_device, read_world
from training.losses import LOSSES, build_loss
from training.networks import NETWORKS, Geometry, Task, build_network, nnunet_topology
from training.precision import choose_amp, has_amx, use_tensor_cores
from training.recipes import OPTIMIZERS, PRESETS, SCHEDULES, build_optimizer, build_schedule
from training.record import without_nan
from training.scores import average, by_structure
from training.stop import Stopped, listen_for_stop
from training.validate import split_cases

CPU = torch.device("cpu")


@given(count=st.integers(2, 300), fraction=st.floats(0.01, 0.9), seed=st.integers(0, 2**31))
def test_split_is_disjoint_complete_and_ordered(count: int, fraction: float, seed: int) -> None:
    cases = [f"case_{number}" for number in range(count)]
    training, validation = split_cases(cases, fraction, seed)
    assert training
    assert validation
    assert sorted([*training, *validation], key=cases.index) == cases
    assert list(training) == [case for case in cases if case in set(training)]
    assert split_cases(cases, fraction, seed) == (training, validation)
    assert abs(len(validation) - fraction * count) <= 1 or len(validation) in (1, count - 1)


def test_splits_of_different_seeds_differ() -> None:
    cases = [f"case_{number}" for number in range(50)]
    assert split_cases(cases, 0.2, 0) != split_cases(cases, 0.2, 1)
    with pytest.raises(InputError, match="1 labelled cases; at least 2 are needed"):
        split_cases(["only"], 0.2, 0)


def test_mean_scores_average_structures_and_cases() -> None:
    one = {"WT": {"dice": 1.0, "hd95_mm": 3.0}, "ET": {"dice": 0.5, "hd95_mm": math.nan}}
    other = {"WT": {"dice": 0.5, "hd95_mm": 5.0}, "ET": {"dice": 0.0, "hd95_mm": math.nan}}
    means = average({"a": one, "b": other})
    assert by_structure(means, "dice") == {"WT": 0.75, "ET": 0.25, "mean": 0.5}
    assert without_nan(by_structure(means, "hd95_mm")) == {"WT": 4.0, "ET": None, "mean": 4.0}


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("has_regions", [True, False])
def test_networks_and_losses_fit_together(name: str, has_regions: bool) -> None:
    task = Task(in_channels=2, out_channels=3, has_regions=has_regions)
    network = build_network(name, task, Geometry(patch=(16, 32, 16), spacing_mm=(1.0, 1.0, 1.0)))
    image = torch.randn(2, 2, 16, 32, 16).to(memory_format=torch.channels_last_3d)
    highest = 1 if has_regions else 2
    label = torch.randint(0, highest + 1, (2, 3 if has_regions else 1, 16, 32, 16), dtype=torch.uint8)
    network.eval()
    logits = network(image)
    assert logits.shape == (2, 3, 16, 32, 16)
    deep = network.train()(image)
    one_hot = label if has_regions else torch.nn.functional.one_hot(label[:, 0].long(), 3).permute(0, 4, 1, 2, 3)
    exact = 20 * one_hot.float() - 10
    for loss in (build_loss(kind, task) for kind in LOSSES):
        assert loss(exact, label) < 0.01 < loss(logits, label)
        assert loss(exact[:, None].expand(-1, 2, -1, -1, -1, -1), label) < 0.01
        halves = [loss(deep[part], label[part]) for part in (slice(0, 1), slice(1, 2))]
        torch.testing.assert_close(torch.stack(halves).mean(), loss(deep, label))  # a mean over samples


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_schedules_warm_up_and_end_at_zero(name: str) -> None:
    network = torch.nn.Linear(1, 1)
    optimizer = build_optimizer("adamw", network, 1.0, 0.0)
    schedule = build_schedule(name, optimizer, total_steps=100, warmup_steps=10)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in (9, 10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_go_downhill(name: str) -> None:
    network = torch.nn.Linear(3, 1)
    optimizer = build_optimizer(name, network, 1e-3, 0.0)
    image = torch.eye(3)
    losses = []
    for _ in range(20):
        loss = (network(image) - 1).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


def test_presets_name_what_there_is() -> None:
    for preset in PRESETS.values():
        assert preset.net in NETWORKS
        assert preset.loss in LOSSES
        assert preset.optimizer in OPTIMIZERS
        assert preset.schedule in SCHEDULES


@pytest.mark.parametrize(
    ("patch", "spacing", "kernels", "strides"),
    [
        (
            (16, 64, 64),
            (3.0, 1.0, 1.0),
            [(1, 3, 3), *[(3, 3, 3)] * 4],
            [(1, 1, 1), (1, 2, 2), *[(2, 2, 2)] * 2, (1, 2, 2)],
        ),
        ((128, 128, 128), (1.0, 1.0, 1.0), [(3, 3, 3)] * 6, [(1, 1, 1), *[(2, 2, 2)] * 5]),
        ((16, 16, 16), (1.0, 1.0, 1.0), [(3, 3, 3)] * 3, [(1, 1, 1), (2, 2, 2), (2, 2, 2)]),
        ((256, 256, 256), (1.0, 1.0, 1.0), [(3, 3, 3)] * 6, [(1, 1, 1), *[(2, 2, 2)] * 5]),
    ],
)
def test_nnunet_is_laid_out_by_patch_and_spacing(
    patch: tuple[int, int, int],
    spacing: tuple[float, float, float],
    kernels: list[tuple[int, ...]],
    strides: list[tuple[int, ...]],
) -> None:
    assert nnunet_topology(Geometry(patch=patch, spacing_mm=spacing)) == (kernels, strides)


def test_ranks_come_from_torchrun_or_are_one_process() -> None:
    assert read_world({}).world_size == 1
    world = read_world({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})
    assert (world.rank, world.local_rank) == (0, 0)
    assert world.is_main
    assert choose_device("cpu", world) == CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a CUDA device")
def test_cuda_is_not_pretended() -> None:
    with pytest.raises(InputError, match="no CUDA device is visible here"):
        choose_device("cuda", read_world({}))
    assert choose_device("auto", read_world({})) == CPU


def test_amp_names() -> None:
    assert choose_amp("auto", CPU) is (torch.bfloat16 if has_amx() else None)
    assert choose_amp("true", CPU) is choose_amp("auto", CPU)
    assert choose_amp("false", CPU) is None
    assert choose_amp("bf16", CPU) is torch.bfloat16
    with pytest.raises(InputError, match="only on a CUDA device"):
        choose_amp("fp16", CPU)


def test_only_a_gpu_trades_bits_for_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, before = torch.backends.cudnn, torch.get_float32_matmul_precision()
    monkeypatch.setattr(cudnn, "benchmark", False)
    monkeypatch.setattr(cudnn, "allow_tf32", False)
    try:
        use_tensor_cores(CPU)
        assert (cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (False, False, before)
        use_tensor_cores(torch.device("cuda"))
        assert (cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (True, True, "high")
    finally:
        torch.set_float32_matmul_precision(before)


def test_signals_become_a_request_and_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listen_for_stop() as stop:
        stop.check(stop.votes())
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check(stop.votes())
        assert stop.exit_code == 0
    assert signal.getsignal(signal.SIGTERM) is before
    with listen_for_stop() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped):
            stop.check(stop.votes())
        assert stop.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
