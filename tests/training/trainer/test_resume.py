"""Going on after an interruption, bit for bit."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from preprocessing.console.errors import InputError
from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from training.model.checkpoint import load_checkpoint, save_checkpoint
from training.options import Options
from training.run import train
from training.trainer.build import prepare as build_all
from training.trainer.loop import Training
from training.trainer.record import read_metrics
from training.trainer.state import with_kernels_of
from training.trainer.stop import Stopped, StopRequest

EPOCHS = 8
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
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGUSR1, 0), (signal.SIGKILL, -signal.SIGKILL)],
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


def stands_at(checkpoint: Path) -> tuple[int, int]:
    progress = load_checkpoint(checkpoint)["progress"]
    return progress["epoch"], progress["step"]


class StopAt(StopRequest):
    """Ask for a stop at the n-th check: a signal at a chosen instant."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.left = checks

    def check(self, votes: Sequence[float]) -> None:  # noqa: ARG002  # there is one process
        self.left -= 1
        if self.left == 0:
            self.signal = signal.SIGTERM
            raise Stopped


@pytest.mark.parametrize("loader", ["dali", "torch", "monai-cache", "monai-smartcache"])
def test_stopping_at_every_safe_place_changes_nothing(
    tiny_options: Options, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    """Places: after each of 4 steps, after the one validation case and after saving, in each of 3 epochs.

    What is saved already when the stop comes is not saved again: a spot instance may not have the time.
    """
    whole = tiny_run
    if loader != tiny_options.loader:  # batches of different loaders differ in the last bit of the normalisation
        whole = tmp_path / "whole"
        train(dataclasses.replace(tiny_options, output=whole, loader=loader))
    options = dataclasses.replace(tiny_options, output=tmp_path / "run", loader=loader)

    def prepare(*arguments: Any) -> Training:
        training = build_all(*arguments)
        training.stop = StopAt(checks=2)  # one step further than the last time, then stop
        return training

    with monkeypatch.context() as patch:
        patch.setattr("training.run.prepare", prepare)
        for _ in range(20):
            train(options)
            options = dataclasses.replace(options, resume="auto")
            previous = options.output / "checkpoints" / "previous.pt"
            assert not previous.exists() or stands_at(previous) != stands_at(previous.with_name("last.pt"))
            if load_checkpoint(options.output / "checkpoints" / "last.pt")["progress"]["epoch"] == options.epochs:
                break
    assert load_checkpoint(options.output / "checkpoints" / "last.pt")["progress"]["epoch"] == options.epochs
    assert_same_weights(options.output, whole)
    assert figures(options.output) == figures(whole)


def test_resuming_with_other_options_names_the_first_that_differs(tiny_options: Options, tiny_run: Path) -> None:
    for changes, message in (
        ({"lr": 5e-4}, r"--lr 0.001, this command says 0.0005"),
        ({"net": "dynunet"}, r"--net segresnet, this command says dynunet"),
        ({"samples_per_case": 3}, r"--samples-per-case 2, this command says 3"),
        ({"loader": "monai-cache"}, r"--loader dali, this command says monai-cache"),
    ):
        options = dataclasses.replace(tiny_options, output=tiny_run, resume="auto", **changes)
        with pytest.raises(InputError, match=message):
            train(options)


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


def test_weights_alone_are_not_gone_on_from(tiny_options: Options, tiny_run: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(
        tiny_options, output=tmp_path / "on", resume=str(tiny_run / "checkpoints" / "best.pt")
    )
    with pytest.raises(InputError, match=r"best\.pt: it holds weights only; give last\.pt, or this one to --init-from"):
        train(options)


def test_another_store_with_the_same_cases_is_refused(
    tiny_options: Options, tiny_run: Path, msd_folder: Path, tmp_path: Path
) -> None:
    """A coarser one, and one that holds the same voxels in other shards; a copy elsewhere is the same store."""
    options = dataclasses.replace(tiny_options, output=shutil.copytree(tiny_run, tmp_path / "run"), resume="auto")
    made = ConvertOptions(input=msd_folder, output=tmp_path / "coarse", workers=1, spacing=(2.0, 2.0, 2.0))
    assert convert(made) == 0
    assert convert(dataclasses.replace(made, output=tmp_path / "apart", spacing=None, cases_per_shard=1)) == 0
    for name, message in (("coarse", r"trained on a store with geometry = .*coarse has"), ("apart", "store_xxh3 = ")):
        with pytest.raises(InputError, match=f"cannot resume.*{message}"):
            train(dataclasses.replace(options, shards=tmp_path / name))
    copied = Path(shutil.copytree(tiny_options.shards, tmp_path / "copied"))
    assert train(dataclasses.replace(options, shards=copied)) == 0


def test_going_on_from_a_file_never_touches_another_run(
    tiny_options: Options, tiny_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = tiny_run / "checkpoints" / "last.pt"
    onward = dataclasses.replace(tiny_options, output=tmp_path / "on", resume=str(last), epochs=4)
    assert train(onward) == 0
    assert [line["epoch"] for line in read_metrics(onward.output)] == [4]
    assert load_checkpoint(onward.output / "checkpoints" / "best.pt")["epoch"] == 4
    with pytest.raises(
        InputError, match=r"on holds another run than --resume .*tiny/checkpoints/last.pt; continue it with"
    ):
        train(onward)
    own = dataclasses.replace(onward, resume=str(onward.output / "checkpoints" / "last.pt"))
    assert train(own) == 0
    assert [line["epoch"] for line in read_metrics(onward.output)] == [4]
    back = shutil.copytree(tiny_run, tmp_path / "back")
    assert train(dataclasses.replace(own, output=back, resume=str(back / "checkpoints" / "previous.pt"))) == 0
    assert not (back / "checkpoints" / "last.damaged").exists()  # the one after it is whole
    with caplog.at_level(logging.INFO):
        assert train(dataclasses.replace(onward, output=tmp_path / "none", epochs=3)) == 0
    assert "no validation gave a mean Dice, so there is no" in caplog.text


def test_a_run_goes_on_in_another_number_format(
    tiny_options: Options,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Saved where no loss scaler was needed, gone on with where one is: an A100's run on a V100."""
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    last = folder / "checkpoints" / "last.pt"
    save_checkpoint(last, load_checkpoint(last) | {"number_format": "float16"})
    monkeypatch.setattr("training.trainer.build.build_scaler", lambda *_: torch.amp.GradScaler("cpu"))
    with caplog.at_level(logging.INFO):
        assert train(dataclasses.replace(tiny_options, output=folder, resume="auto", epochs=4)) == 0
    assert "the run computed in float16 and now continues in" in caplog.text
    assert load_checkpoint(last)["scaler"]["scale"] > 0


def test_an_optimiser_keeps_the_kernels_of_its_device() -> None:
    """A run that was saved on a CPU, without the fused update, goes on with it on a GPU."""
    network = torch.nn.Linear(3, 3)
    saved, on = (torch.optim.AdamW(network.parameters(), lr=lr, fused=lr == 2) for lr in (1, 2))
    network(torch.ones(3)).sum().backward()
    saved.step()
    on.load_state_dict(with_kernels_of(on, saved.state_dict()))
    assert (on.param_groups[0]["fused"], on.param_groups[0]["lr"]) == (True, 1)
    on.step()
    assert all(int(state["step"]) == 2 for state in on.state.values())
