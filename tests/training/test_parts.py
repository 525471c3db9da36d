"""The trainer's small parts: split, schedule, precision, ranks, time split, signals."""

from __future__ import annotations

import itertools
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.batch import StageSeconds
from preprocessing.errors import InputError
from training.distributed import choose_device, read_world
from training.precision import choose_amp, has_amx
from training.recipes import NETWORKS, PRESETS, Task, build_loss, build_network, build_optimizer, build_schedule
from training.stop import Stopped, listen_for_stop
from training.timing import Split, StepTimer, describe_limit
from training.validate import mean_scores, split_cases

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
    means = mean_scores({"a": {"WT": 1.0, "ET": 0.5}, "b": {"WT": 0.5, "ET": 0.0}})
    assert means == {"WT": 0.75, "ET": 0.25, "mean": 0.5}


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("has_regions", [True, False])
def test_networks_and_losses_fit_together(name: str, has_regions: bool) -> None:
    task = Task(in_channels=2, out_channels=3, has_regions=has_regions)
    network = build_network(name, task, (16, 32, 16))
    image = torch.randn(2, 2, 16, 32, 16).to(memory_format=torch.channels_last_3d)
    highest = 1 if has_regions else 2
    label = torch.randint(0, highest + 1, (2, 3 if has_regions else 1, 16, 32, 16), dtype=torch.uint8)
    logits = network(image)
    assert logits.shape == (2, 3, 16, 32, 16)
    one_hot = label if has_regions else torch.nn.functional.one_hot(label[:, 0].long(), 3).permute(0, 4, 1, 2, 3)
    exact = 20 * one_hot.float() - 10
    for preset in PRESETS.values():
        loss = build_loss(task, preset)
        assert loss(exact, label) < 0.01 < loss(logits, label)


def test_schedule_warms_up_and_ends_at_zero() -> None:
    network = torch.nn.Linear(1, 1)
    optimizer = build_optimizer(network, 1.0, PRESETS["fast"])
    schedule = build_schedule(optimizer, total_steps=100, warmup_steps=10)
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


def test_ranks_come_from_torchrun_or_are_one_process() -> None:
    assert read_world({}).world_size == 1
    world = read_world({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})
    assert (world.rank, world.local_rank) == (0, 0)
    with pytest.raises(InputError, match="started as 2 processes"):
        read_world({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"})
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


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        (Split(disk_s=6, model_s=4, read_bytes=10**9), "Limited by disk I/O (60 % of each step waits on it"),
        (Split(preprocessing_s=3, model_s=7), "Limited by preprocessing (30 %"),
        (Split(transfer_s=2, model_s=8), "Limited by CPU-to-GPU transfer (20 %"),
        (Split(disk_s=0.1, model_s=9.9), "Limited by the model: it waits for data 1.0 % of the time."),
    ],
)
def test_the_closing_sentence_names_the_slowest_part(split: Split, sentence: str) -> None:
    assert describe_limit(split).startswith(sentence)


def test_the_timer_books_waits_where_the_loader_says_they_came_from() -> None:
    stages = StageSeconds()
    timer = StepTimer(stages, CPU)
    timer.start()
    stages.wait_read_s += 1e9  # more than can have passed: the part is bounded by the wall time
    stages.read_bytes += 123
    timer.batch_arrived()
    timer.transferred()
    timer.stepped()
    taken = timer.take()
    assert 0 < taken.disk_s < 1
    assert taken.preprocessing_s == taken.other_s == 0
    assert (taken.steps, taken.read_bytes) == (1, 123)
    assert timer.take() == Split()
    assert taken.plus(taken).wall_s == pytest.approx(2 * taken.wall_s)


def test_signals_become_a_request_and_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listen_for_stop() as stop:
        stop.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check()
        assert stop.exit_code == 0
    assert signal.getsignal(signal.SIGTERM) is before
    with listen_for_stop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
