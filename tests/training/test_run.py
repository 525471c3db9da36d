"""Training end to end: what it leaves behind, and going on after an interruption bit for bit."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from preprocessing.errors import InputError, RunError
from preprocessing.phantom import PhantomOptions, make_phantom
from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from training.checkpoint import load_checkpoint, save_checkpoint
from training.loop import Training
from training.record import read_metrics, read_run
from training.run import Options, auto_patch, train
from training.stop import Stopped, StopRequest

EPOCHS = 12
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # patches this small gain nothing from a second thread


def weights(folder: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = load_checkpoint(folder / "checkpoints" / name)["model"]
    return model


def assert_same_weights(left: Path, right: Path) -> None:
    for name in ("last.pt", "best.pt"):
        one, other = weights(left, name), weights(right, name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def figures(folder: Path) -> list[dict[str, Any]]:
    return [{key: line[key] for key in ("epoch", "step", "loss", "lr", "dice")} for line in read_metrics(folder)]


def command(store: Path, folder: Path, *more: str) -> list[str]:
    flags = {
        "--loader": "dali",
        "--shards": str(store),
        "--output": str(folder),
        "--patch": "16,16,16",
        "--epochs": str(EPOCHS),
        "--samples-per-case": "2",
        "--val-every": "4",
        "--device": "cpu",
    }
    return [sys.executable, "-m", "training.run", *(word for pair in flags.items() for word in pair), *more]


@pytest.fixture(scope="module")
def uninterrupted(coordinate_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(coordinate_store, folder), check=True, capture_output=True, env=ONE_THREAD)
    return folder


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_run_resumes_bit_for_bit(
    coordinate_store: Path, tmp_path: Path, uninterrupted: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "run"
    whole = command(coordinate_store, folder)
    with subprocess.Popen(whole, stderr=subprocess.PIPE, text=True, env=ONE_THREAD) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2 "):
                process.send_signal(number)
                break
        said = process.stderr.read()
    assert process.returncode == code
    assert "Traceback" not in said
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["progress"]["epoch"] < EPOCHS  # it was in time
    resumed = command(coordinate_store, folder, "--resume", "auto")
    done = subprocess.run(resumed, check=True, capture_output=True, text=True, env=ONE_THREAD)
    assert "resuming" in done.stderr
    assert_same_weights(folder, uninterrupted)
    assert figures(folder) == figures(uninterrupted)


class StopAt(StopRequest):
    """Ask for a stop at the n-th check: a signal at a chosen instant."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.left = checks

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.signal = signal.SIGTERM
            raise Stopped


@pytest.mark.parametrize("loader", ["dali", "torch"])
def test_stopping_at_every_safe_place_changes_nothing(
    tiny_options: Options, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    """Places: after each of 4 steps, after the one validation case and after saving, in each of 3 epochs."""
    from training import run

    whole = tiny_run
    if loader != tiny_options.loader:  # batches of different loaders differ in the last bit of the normalisation
        whole = tmp_path / "whole"
        train(dataclasses.replace(tiny_options, output=whole, loader=loader))
    options = dataclasses.replace(tiny_options, output=tmp_path / "run", loader=loader)
    inner = run._prepare

    def prepare(*arguments: Any) -> Training:
        training = inner(*arguments)
        training.stop = StopAt(checks=2)  # one step further than the last time, then stop
        return training

    with monkeypatch.context() as patch:
        patch.setattr(run, "_prepare", prepare)
        for _ in range(20):
            train(options)
            options = dataclasses.replace(options, resume="auto")
            if load_checkpoint(options.output / "checkpoints" / "last.pt")["progress"]["epoch"] == options.epochs:
                break
    assert load_checkpoint(options.output / "checkpoints" / "last.pt")["progress"]["epoch"] == options.epochs
    assert_same_weights(options.output, whole)
    assert figures(options.output) == figures(whole)


def test_a_run_leaves_options_split_figures_and_checkpoints(tiny_run: Path) -> None:
    run, lines = read_run(tiny_run), read_metrics(tiny_run)
    assert len(run["cases"]["training"]) == 4
    assert len(run["cases"]["validation"]) == 1
    assert not set(run["cases"]["training"]) & set(run["cases"]["validation"])
    assert run["options"]["patch"] == [16, 16, 16]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [4, 8, 12]
    for line in lines:
        assert set(line["dice"]) == {"WT", "TC", "ET", "mean"}
        split = {name: value for name, value in line["split"].items() if name.endswith("_s")}
        assert all(seconds >= 0 for seconds in split.values())
        assert line["split"]["steps"] == 4
    best = load_checkpoint(tiny_run / "checkpoints" / "best.pt")
    assert best["dice"]["mean"] == max(line["dice"]["mean"] for line in lines)
    assert not list(tiny_run.rglob("*.tmp"))


def test_the_time_split_adds_up_to_the_wall_time(
    tiny_options: Options, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import time

    begin = time.perf_counter()
    with caplog.at_level(logging.INFO):
        train(dataclasses.replace(tiny_options, output=tmp_path / "run", val_every=3))
    wall = time.perf_counter() - begin
    lines = read_metrics(tmp_path / "run")
    booked = sum(sum(v for k, v in line["split"].items() if k.endswith("_s")) for line in lines)
    assert 0 < booked < wall
    assert any(record.getMessage().startswith("Limited by") for record in caplog.records)


@pytest.mark.parametrize("loader", ["torch", "synthetic"])
def test_every_loader_trains(tiny_options: Options, tmp_path: Path, loader: str) -> None:
    options = dataclasses.replace(tiny_options, output=tmp_path / "run", loader=loader, epochs=1)
    assert train(options) == 0
    assert math.isfinite(read_metrics(options.output)[0]["loss"])


def test_loaders_train_the_same_network(tiny_options: Options, tiny_run: Path, tmp_path: Path) -> None:
    """The same plan gives the same batches, and those the same weights, up to the rounding of the normalisation."""
    options = dataclasses.replace(tiny_options, output=tmp_path / "run", loader="torch")
    train(options)
    losses = [[line["loss"] for line in read_metrics(folder)] for folder in (tiny_run, options.output)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_a_run_learns(tiny_options: Options, tmp_path: Path) -> None:
    make_phantom(PhantomOptions(output=tmp_path / "data", cases=4, test_cases=0, shape=(24, 28, 24)))
    assert convert(ConvertOptions(input=tmp_path / "data", output=tmp_path / "store", workers=1)) == 0
    options = dataclasses.replace(
        tiny_options, shards=tmp_path / "store", output=tmp_path / "run", epochs=16, lr=4e-3, val_every=16
    )
    train(options)
    losses = [line["loss"] for line in read_metrics(options.output)]
    assert losses[-1] < 0.8 * losses[0]


def test_resuming_with_other_options_names_the_first_that_differs(tiny_options: Options, tiny_run: Path) -> None:
    for changes, message in (
        ({"lr": 5e-4}, r"--lr 0.001, this command says 0.0005"),
        ({"net": "unet"}, r"--net segresnet, this command says unet"),
        ({"samples_per_case": 3}, r"--samples-per-case 2, this command says 3"),
    ):
        options = dataclasses.replace(tiny_options, output=tiny_run, resume="auto", **changes)
        with pytest.raises(InputError, match=message):
            train(options)


def test_a_run_is_never_overwritten(tiny_options: Options, tiny_run: Path) -> None:
    before = (tiny_run / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="holds a run; go on with --resume auto"):
        train(dataclasses.replace(tiny_options, output=tiny_run))
    assert (tiny_run / "metrics.jsonl").read_bytes() == before


def test_resuming_what_is_finished_changes_nothing(tiny_options: Options, tiny_run: Path) -> None:
    before = (tiny_run / "metrics.jsonl").read_bytes(), weights(tiny_run)
    assert train(dataclasses.replace(tiny_options, output=tiny_run, resume="auto")) == 0
    assert (tiny_run / "metrics.jsonl").read_bytes() == before[0]
    assert all(torch.equal(value, before[1][key]) for key, value in weights(tiny_run).items())


def test_nothing_to_resume_is_said(tiny_options: Options, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        train(dataclasses.replace(tiny_options, output=tmp_path / "run", resume="auto", epochs=1))
    assert "nothing to resume" in caplog.text
    with pytest.raises(InputError, match="say which run with --output"):
        train(dataclasses.replace(tiny_options, resume="auto"))


def test_damaged_checkpoints_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    whole = (tiny_run / "checkpoints" / "last.pt").read_bytes()
    path = tmp_path / "broken.pt"
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"broken.pt: damaged or not a checkpoint"):
            load_checkpoint(path)
    save_checkpoint(path, {"weights": 1})
    with pytest.raises(InputError, match="not a checkpoint of this version"):
        load_checkpoint(path)


def test_a_pickled_object_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"version": 1, "model": Planted()}, tmp_path / "planted.pt")
    with pytest.raises(InputError, match="damaged or not a checkpoint"):
        load_checkpoint(tmp_path / "planted.pt")
    assert not (tmp_path / "executed").exists()


def test_a_loss_that_is_not_finite_ends_the_run(tiny_options: Options, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss is nan at step \d+; lower --lr"):
        train(dataclasses.replace(tiny_options, output=tmp_path / "run", lr=1e30))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loader": "dahli"}, "unknown loader 'dahli'; known: dali, torch, synthetic"),
        ({"net": "vnet"}, "--net vnet: unknown; known: segresnet, unet, dynunet"),
        ({"preset": "slow"}, "--preset slow: unknown; known: fast, article"),
        ({"device": "tpu"}, "--device tpu: unknown; known: auto, cpu, cuda"),
        ({"amp": "int4"}, "--amp int4: unknown; known: auto, bf16, fp16, off"),
        ({"patch": (16, 16, 20)}, "--patch 16,16,20: segresnet needs multiples of 8; use 16,16,24"),
        ({"epochs": -1}, "are 0 .choose. or positive"),
        ({"shards": Path("nowhere")}, "nowhere: no manifest.json there; make a store with"),
        ({"resume": "nowhere.pt"}, "nowhere.pt: no such checkpoint"),
        ({"patch": (4000, 4000, 4000)}, "needs about .* GiB, .* GiB are free; lower --patch"),
    ],
)
def test_wrong_options_are_one_clear_line(
    tiny_options: Options, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(tiny_options, output=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_the_command_line_ends_in_one_line_and_code_2(coordinate_store: Path, tmp_path: Path) -> None:
    wrong = command(coordinate_store, tmp_path / "run", "--loader", "dahli")
    done = subprocess.run(wrong, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: unknown loader 'dahli'; known: dali, torch, synthetic"]


@pytest.mark.parametrize(
    ("median", "stride", "limit", "expected"),
    [
        ((36, 50, 35), 8, 64**3, (40, 56, 40)),
        ((140, 180, 150), 8, 64**3, (64, 64, 64)),
        ((140, 180, 150), 16, 128**3, (128, 128, 128)),
        ((20, 300, 300), 16, 128**3, (32, 256, 256)),
        ((1, 1, 1), 8, 64**3, (8, 8, 8)),
    ],
)
def test_auto_patch(median: tuple[int, int, int], stride: int, limit: int, expected: tuple[int, int, int]) -> None:
    assert auto_patch(median, stride, limit) == expected
