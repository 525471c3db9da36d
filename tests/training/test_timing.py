"""Where the time went: the parts add up, and each stage that is made slow in turn is the one that is named."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.batch import Batch, Loader, StageSeconds
from pipelines.dali_loader import DaliLoader
from pipelines.loaders import LOADERS, LoaderConfig
from pipelines.plan import Plan
from preprocessing.shards import Store
from training.losses import LOSSES, Loss
from training.networks import Task
from training.options import Options
from training.record import read_metrics
from training.run import train
from training.timing import MODEL_REMEDY, REMEDIES, Split, StepTimer, describe_limit

SLOW_S = 0.2


class SlowToMove(torch.Tensor):
    """A tensor that takes its time on the way to the device."""

    def to(self, *arguments: Any, **_: Any) -> torch.Tensor:
        time.sleep(SLOW_S)
        return self.as_subclass(torch.Tensor).to(arguments[0])


class SlowLoader(Loader):
    """The ``dali`` loader with one slow stage, which it books as loaders do; measures the time of its epochs."""

    wall_s = 0.0

    def __init__(self, inner: DaliLoader, stage: str) -> None:
        super().__init__(inner.plan, inner.rank, inner.world_size)
        self.inner, self.stage = inner, stage

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:
        assert first_step == 0
        self.inner.set_epoch(epoch)
        begin = time.perf_counter()
        for batch in self.inner:
            if hasattr(self.stages, self.stage):
                time.sleep(SLOW_S)
                setattr(self.stages, self.stage, getattr(self.stages, self.stage) + SLOW_S)
            elif self.stage == "transfer":
                batch = dataclasses.replace(batch, image=batch.image.as_subclass(SlowToMove))  # noqa: PLW2901
            elif self.stage == "nothing that is booked":
                time.sleep(SLOW_S)
            yield batch
        SlowLoader.wall_s = time.perf_counter() - begin

    def _release(self) -> None:
        self.inner.close()


def slow_loss(_: Task) -> Loss:
    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        time.sleep(SLOW_S)
        return (logits - label).square().mean()

    return loss


@pytest.mark.parametrize(
    ("stage", "named", "part"),
    [
        ("wait_read_s", "disk I/O", "disk_s"),
        ("wait_graph_s", "preprocessing", "preprocessing_s"),
        ("transfer", "CPU-to-GPU transfer", "transfer_s"),
        ("model", "the model", "model_s"),
        ("nothing that is booked", "work outside the steps' stages", "other_s"),
    ],
)
def test_the_stage_that_is_slow_is_named_and_the_parts_add_up(
    tiny_options: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stage: str,
    named: str,
    part: str,
) -> None:
    def build(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
        return SlowLoader(DaliLoader(store, plan, config, rank, world_size), stage)

    monkeypatch.setitem(LOADERS, "slow", build)
    monkeypatch.setitem(LOSSES, "slow", slow_loss)
    options = dataclasses.replace(tiny_options, loader="slow", epochs=1, samples_per_case=4, output=tmp_path / "run")
    if stage == "model":
        options = dataclasses.replace(options, loss="slow")
    with caplog.at_level(logging.INFO):
        train(options)
    assert f"Limited by {named}" in caplog.text
    split = Split(**read_metrics(options.output)[0]["split"])
    assert split.steps == 8
    assert getattr(split, part) > 7.99 * SLOW_S
    assert split.wall_s == pytest.approx(SlowLoader.wall_s, rel=0.03)


def test_remedies_name_flags_that_there_are() -> None:
    flags = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(Options)}
    for remedy in (*REMEDIES.values(), MODEL_REMEDY):
        assert set(re.findall(r"--[\w-]+", remedy)) <= flags
        assert "--" in remedy


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        (Split(disk_s=6, model_s=4, read_bytes=10**9), "Limited by disk I/O (60 % of each step waits on it"),
        (Split(other_s=6, model_s=4), "Limited by work outside the steps' stages (60 %"),
        (Split(preprocessing_s=6, model_s=4), "Limited by preprocessing (60 %"),
        (Split(transfer_s=6, model_s=4), "Limited by CPU-to-GPU transfer (60 %"),
        (Split(disk_s=0.1, model_s=9.9), "Limited by the model: it waits for data 1.0 % of the time; "),
        (Split(), "Limited by the model: it waits for data 0.0 % of the time; "),
    ],
)
def test_the_closing_sentence_names_the_slowest_part(split: Split, sentence: str) -> None:
    said = describe_limit(split)
    assert said.startswith(sentence)
    assert said.count("Limited by") == 1
    assert "also" not in said


def test_waits_that_are_not_the_largest_part_follow() -> None:
    said = describe_limit(Split(disk_s=0.2, preprocessing_s=2.2, other_s=0.6, model_s=7))
    assert said.startswith("Limited by the model: it waits for data 24.0 % of the time; ")
    waits = re.findall(r"also by ([^(]*) .(\d+) %", said)
    assert waits == [("preprocessing", "22"), ("work outside the steps' stages", "6")]  # 2 % on the disk: not worth it
    said = describe_limit(Split(disk_s=5, transfer_s=2, model_s=3, read_bytes=10**9))
    assert said.startswith("Limited by disk I/O (50 % of each step waits on it, data arriving at 100 MB/s): raise")
    assert "; also by CPU-to-GPU transfer (20 % of each step waits on it): use" in said


def test_the_timer_books_waits_where_the_loader_says_they_came_from() -> None:
    stages = StageSeconds()
    timer = StepTimer(stages, torch.device("cpu"))
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


@pytest.mark.gpu
def test_a_copy_that_the_gpu_waits_for_is_transfer() -> None:
    """The copy is asynchronous: the process goes on at once, the first kernel that needs it waits."""
    device = torch.device("cuda")
    values = torch.ones(2**28, pin_memory=True)  # 1 GiB: 20 ms or more over PCIe
    for _ in range(2):  # the first one also starts CUDA
        timer = StepTimer(StageSeconds(), device)
        timer.start()
        timer.batch_arrived()
        moved = values.to(device, non_blocking=True)
        timer.transferred()
        assert bool(moved[0] == 1)
        timer.stepped()
    split = timer.take()
    assert split.transfer_s > 0.01
    assert split.transfer_s > split.model_s
