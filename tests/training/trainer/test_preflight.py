"""The check before a run: flags, GPUs and shared memory, without starting anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.preprocessing.conftest import run_process
from training.options import Options
from training.trainer.preflight import PreflightOptions, look


def test_what_it_prints(coordinate_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ended = run_process("training.trainer.preflight", "--shards", coordinate_store, "--device", "cpu")
    assert (ended.code, ended.errors) == (0, "")
    assert json.loads(ended.output) == {
        "num_gpus": 0,
        "processes": 1,
        "device": "cpu",
        "cuda": torch.version.cuda,
        "warning": "",
        "loader": "dali",
        "shared_bytes": 0,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "many"], "--epochs many: expected a whole number, got 'many'"),
        (["--preset", "unheard"], "--preset unheard: unknown; known: fast, nnunet, article"),
    ],
)
def test_flags_that_cannot_be_are_one_line(words: list[str], message: str) -> None:
    ended = run_process("training.trainer.preflight", *words)
    assert (ended.code, ended.output, ended.errors) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize(
    ("loader", "workers", "processes", "num_batches"),
    [("torch", 3, 2, 12), ("monai-cache", 1, 1, 2), ("monai-thread", 3, 1, 0), ("synthetic", 3, 1, 0)],
)
def test_worker_processes_keep_two_batches_each(
    loader: str, workers: int, processes: int, num_batches: int, coordinate_store: Path
) -> None:
    options = PreflightOptions(
        shards=coordinate_store, loader=loader, workers=workers, processes=processes, patch=(16, 16, 8), batch_size=2
    )
    num_channels = 4
    assert look(options).shared_bytes == num_batches * 2 * 16 * 16 * 8 * (4 * num_channels + 1)


def test_a_store_that_is_not_there_is_left_to_the_run(tmp_path: Path) -> None:
    assert look(PreflightOptions(shards=tmp_path, loader="torch")).shared_bytes == 0


def test_its_flags_are_those_of_the_run_and_one_more() -> None:
    assert set(PreflightOptions.__dataclass_fields__) - set(Options.__dataclass_fields__) == {"processes"}
