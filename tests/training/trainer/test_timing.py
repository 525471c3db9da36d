"""Where the time went: the parts add up, and each stage that is made slow in turn is the one that is named."""

from __future__ import annotations

import dataclasses
import html
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.batch import Batch, Loader, StageSeconds, Wait
from pipelines.config import LoaderConfig
from pipelines.dali.loader import DaliLoader
from pipelines.dali.slots import Slot
from pipelines.loaders import LOADERS, build_loader
from pipelines.plan import Plan, Sample
from pipelines.reference import cut
from preprocessing.shards.case import Case
from preprocessing.shards.store import Store
from training.model.losses import LOSSES, Loss
from training.model.networks import SegmentationTask
from training.options import Options
from training.run import train
from training.trainer.record import read_metrics
from training.trainer.timing import (
    DISK,
    OTHER,
    PREPROCESSING,
    TRANSFER,
    StepTimer,
    TimeSplit,
    describe_limit,
    remedy_for,
)

FEED_SLOT = DaliLoader._feed_slot
SLOW_S = 0.2
READING_S = 0.025
DEVICES = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


class SlowLoader(Loader):
    """The ``dali`` loader with one slow stage, which it books as loaders do; measures the time of its epochs."""

    wall_s = 0.0

    def __init__(self, inner: DaliLoader, stage: str) -> None:
        super().__init__(inner.plan, inner.rank, inner.world_size)
        self.inner, self.stage, self.stages = inner, stage, inner.stages

    def _batches(self, epoch: int, first_step: int) -> Generator[Batch]:
        assert first_step == 0
        self.inner.set_epoch(epoch)
        begin = time.perf_counter()
        for batch in self.inner:
            if hasattr(self.stages, self.stage):
                time.sleep(SLOW_S)
                setattr(self.stages, self.stage, getattr(self.stages, self.stage) + SLOW_S)
            elif self.stage == "nothing that is booked":
                time.sleep(SLOW_S)
            yield batch
        SlowLoader.wall_s = time.perf_counter() - begin

    def _release(self) -> None:
        self.inner.close()


def slow_loss(_: SegmentationTask) -> Loss:
    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        time.sleep(SLOW_S)
        return (logits - label).square().mean()

    return loss


@pytest.mark.parametrize(
    ("stage", "named", "part"),
    [
        ("disk_s", "disk I/O", "disk_s"),
        ("preprocessing_s", "preprocessing", "preprocessing_s"),
        ("transfer_s", "CPU-to-GPU transfer", "transfer_s"),
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
    split = TimeSplit(**read_metrics(options.output)[0]["split"])
    assert split.steps == 8
    assert getattr(split, part) > 7.99 * SLOW_S
    assert split.wall_s == pytest.approx(SlowLoader.wall_s, rel=0.03)


def copies_slowly(volume: Any, sample: Sample, out: Any) -> Any:
    time.sleep(2 * SLOW_S)  # the model works meanwhile, on a busy machine for long
    return cut(volume, sample, out)


def feeds_slowly(loader: DaliLoader, slot: Slot) -> None:
    time.sleep(2 * SLOW_S)
    FEED_SLOT(loader, slot)


@pytest.mark.parametrize(
    ("slow", "named", "remedy"),
    [
        (
            ("pipelines.dali.host_patches.cut", copies_slowly),
            "disk I/O (",
            "raise --samples-per-case, or move the shards",
        ),
        (("pipelines.dali.loader.DaliLoader._feed_slot", feeds_slowly), "preprocessing (", "let DALI work on a GPU"),
        (None, "the model: ", "for more speed use a GPU"),
    ],
)
def test_the_stage_of_dali_that_is_slow_is_named(
    tiny_options: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    slow: tuple[str, Callable[..., Any]] | None,
    named: str,
    remedy: str,
) -> None:
    """The copy of a patch, the start of the graph and the loss take long; the loader books what it sees of them."""
    options = dataclasses.replace(tiny_options, epochs=1, output=tmp_path / "run")
    if slow is None:
        monkeypatch.setitem(LOSSES, "slow", slow_loss)
        options = dataclasses.replace(options, loss="slow")
    else:
        monkeypatch.setattr(*slow)
    with caplog.at_level(logging.INFO):
        assert train(options) == 0
    (said,) = (record.getMessage() for record in caplog.records if record.getMessage().startswith("Limited by"))
    assert said.startswith(f"Limited by {named}")
    assert remedy in said
    assert said in html.unescape((options.output / "report.html").read_text())


def test_remedies_fit_the_run_and_name_flags_that_there_are() -> None:
    flags = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(Options)}
    for part in (DISK, PREPROCESSING, TRANSFER, OTHER, "the model"):
        for loader, on_gpu in itertools.product(LOADERS, (False, True)):
            remedy = remedy_for(part, loader, on_gpu=on_gpu)
            assert set(re.findall(r"--[\w-]+", remedy)) <= flags
            assert "--" in remedy
            assert not (loader == "dali" and "--loader" in remedy)  # what the run has already
            assert not (on_gpu and "--device" in remedy)


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        (TimeSplit(disk_s=6, model_s=4, read_bytes=10**9), "Limited by disk I/O (60 % of each step waits on it"),
        (TimeSplit(other_s=6, model_s=4), "Limited by work outside the steps' stages (60 %"),
        (TimeSplit(preprocessing_s=6, model_s=4), "Limited by preprocessing (60 %"),
        (TimeSplit(transfer_s=6, model_s=4), "Limited by CPU-to-GPU transfer (60 %"),
        (TimeSplit(disk_s=0.1, model_s=9.9), "Limited by the model: it waits for data 1.0 % of the time; "),
        (TimeSplit(), "Limited by the model: it waits for data 0.0 % of the time; "),
    ],
)
def test_the_closing_sentence_names_the_slowest_part(split: TimeSplit, sentence: str) -> None:
    said = describe_limit(split, "dali", on_gpu=True)
    assert said.startswith(sentence)
    assert said.count("Limited by") == 1
    assert "also" not in said


def test_waits_that_are_not_the_largest_part_follow() -> None:
    said = describe_limit(TimeSplit(disk_s=0.2, preprocessing_s=2.2, other_s=0.6, model_s=7), "torch", on_gpu=True)
    assert said.startswith("Limited by the model: it waits for data 24.0 % of the time; ")
    waits = re.findall(r"also by ([^(]*) .(\d+) %", said)
    assert waits == [("preprocessing", "22"), ("work outside the steps' stages", "6")]  # 2 % on the disk: not worth it
    said = describe_limit(TimeSplit(disk_s=5, transfer_s=2, model_s=3, read_bytes=10**9), "torch", on_gpu=True)
    assert said.startswith("Limited by disk I/O (50 % of each step waits on it, data arriving at 100 MB/s): raise")
    assert "; also by CPU-to-GPU transfer (20 % of each step waits on it): use" in said


def test_the_timer_books_waits_where_the_loader_says_they_came_from() -> None:
    stages = StageSeconds()
    timer = StepTimer(stages)
    timer.start()
    stages.disk_s += 1e9  # more than can have passed: the part is bounded by the wall time
    stages.read_bytes += 123
    timer.batch_arrived()
    timer.stepped()
    taken = timer.take()
    assert 0 < taken.disk_s < 1
    assert taken.preprocessing_s == taken.other_s == 0
    assert (taken.steps, taken.read_bytes) == (1, 123)
    assert timer.take() == TimeSplit()
    assert taken.plus(taken).wall_s == pytest.approx(2 * taken.wall_s)


def split_of_an_epoch(loader: Loader) -> TimeSplit:
    """Time an epoch of a model that does nothing but look at the batch, as the trainer does."""
    timer = StepTimer(loader.stages)
    timer.start()
    for batch in loader:
        timer.batch_arrived()
        float(batch.image[-1, -1, -1, -1, -1])
        timer.stepped()
    return timer.take()


def config_on(store: Path, device: str, **changes: Any) -> LoaderConfig:
    """On a GPU, patches so large that moving and making them takes longer than starting to."""
    patch = (128, 128, 128) if device == "gpu" else (16, 16, 16)
    return LoaderConfig(store=store, patch=patch, samples_per_case=2, num_workers=0, device=device, **changes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loader_name", ["dali", "torch", "monai-cache"])
def test_what_the_loader_does_is_booked_to_it(coordinate_store: Path, loader_name: str, device: str) -> None:
    config = config_on(coordinate_store, device, augment="full" if loader_name == "dali" else "basic")
    with build_loader(loader_name, config) as loader:
        splits = [split_of_an_epoch(loader) for _ in range(5)]  # the first starts threads; another process may cut in
    split = min(splits, key=lambda split: split.other_s + split.model_s)
    assert split.other_s < 0.1 * split.wall_s
    assert split.model_s < 0.2 * split.wall_s
    assert (split.transfer_s > split.model_s) == (device == "gpu" and loader_name != "dali")


def test_drawing_the_samples_is_reading_and_done_ahead(coordinate_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sample of a case reads its foreground; here that takes long, and no consumer hides it."""
    reads_foreground, readers = Case.foreground, []

    def foreground(case: Case) -> Any:
        readers.append(threading.current_thread().name)
        time.sleep(READING_S)
        return reads_foreground(case)

    monkeypatch.setattr(Case, "foreground", foreground)
    with build_loader("dali", config_on(coordinate_store, "cpu", foreground=1.0)) as loader:
        split = split_of_an_epoch(loader)
    assert len(readers) == 5
    assert all(name.startswith("voxelfeed-draw") for name in readers[2:])  # all but the first batch's
    assert split.disk_s > 4.9 * READING_S
    assert split.other_s < 0.1 * split.disk_s


@pytest.mark.gpu
@pytest.mark.parametrize(("wait", "part"), [("preprocessing_s", "preprocessing_s"), ("transfer_s", "transfer_s")])
def test_a_wait_of_the_gpu_is_not_the_models(wait: Wait, part: str) -> None:
    """The process goes on at once, the first kernel that needs the batch waits."""
    stages = StageSeconds()
    timer = StepTimer(stages)
    for _ in range(2):  # the first one also starts CUDA
        timer.take()
        timer.start()
        with stages.waiting(wait, on_gpu=True):
            torch.cuda._sleep(500_000_000)  # type: ignore[no-untyped-call]  # cycles: about a quarter of a second
        timer.batch_arrived()
        float(torch.ones(1, device="cuda"))
        timer.stepped()
    split = timer.take()
    assert getattr(split, part) > 0.05
    assert getattr(split, part) > 9 * split.model_s
    assert split.other_s < 0.05
