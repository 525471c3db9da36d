"""The flags of the training commands, which scripts and SageMaker jobs rely on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tyro

from training import evaluate, options, predict, report

COMMANDS: dict[str, tuple[Any, list[str]]] = {
    "run": (
        options.Options,
        [
            "loader",
            "shards",
            "output",
            "patch",
            "batch-size",
            "epochs",
            "samples-per-case",
            "foreground",
            "augment",
            "device",
            "amp",
            "net",
            "preset",
            "loss",
            "optimizer",
            "lr",
            "ema",
            "accumulate",
            "compile",
            "seed",
            "val-every",
            "resume",
            "init-from",
            "backend",
            "gpu-cache",
            "crop",
            "read",
            "sticky",
        ],
    ),
    "predict": (
        predict.Options,
        ["checkpoint", "input", "output", "device", "amp", "cases", "mirror", "overlap", "max-volume-gib"],
    ),
    "evaluate": (evaluate.Options, ["predictions", "labels", "output", "images", "tolerance-mm"]),
    "report": (report.Options, ["run", "evaluation"]),
}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_the_set_of_flags_is_this(command: str) -> None:
    command_options, flags = COMMANDS[command]
    assert [field.name.replace("_", "-") for field in dataclasses.fields(command_options)] == flags


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_explains_every_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    command_options, flags = COMMANDS[command]
    with pytest.raises(SystemExit) as ended:
        tyro.cli(command_options, args=["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for flag in flags:
        assert f"--{flag} " in shown
    assert "--no-" not in shown


def test_sagemaker_style_arguments_drive_the_same_flags() -> None:
    """Hyperparameters arrive as flat strings, with underscores if they were written in Python."""
    words = "--batch_size 4 --samples_per_case 2 --amp true --patch 32,48,64 --lr 1e-3 --val-every 5"
    words += " --compile TRUE --accumulate 2 --ema 0.99 --init_from best.pt --backend gloo --optimizer sgd"
    given = tyro.cli(options.Options, args=words.split())
    assert (given.batch_size, given.samples_per_case, given.amp) == (4, 2, "true")
    assert (given.compile, given.accumulate, given.ema, given.init_from) == (True, 2, 0.99, Path("best.pt"))
    assert (given.patch, given.lr, given.val_every) == ((32, 48, 64), 1e-3, 5)
