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
            "held-out",
            "splits",
            "folds",
            "fold",
            "group-by",
            "val-every",
            "resume",
            "init-from",
            "backend",
            "gpu-cache",
            "crop",
            "read",
            "sticky",
            "workers",
        ],
    ),
    "predict": (
        predict.Options,
        [
            "checkpoint",
            "input",
            "output",
            "device",
            "amp",
            "cases",
            "probabilities",
            "mirror",
            "overlap",
            "like-training",
            "max-volume-gib",
        ],
    ),
    "evaluate": (
        evaluate.Options,
        ["predictions", "labels", "output", "images", "tolerance-mm", "hd95-penalty", "ignore-affine"],
    ),
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


TEXTS: dict[str, tuple[str, Any]] = {
    "loader": ("torch", "torch"),
    "shards": ("/opt/ml/input/data/train", Path("/opt/ml/input/data/train")),
    "output": ("runs/one", Path("runs/one")),
    "patch": ("32,48,64", (32, 48, 64)),
    "batch_size": ("4", 4),
    "epochs": ("7", 7),
    "samples_per_case": ("2", 2),
    "foreground": ("0.25", 0.25),
    "augment": ("full", "full"),
    "device": ("cpu", "cpu"),
    "amp": ("true", "true"),
    "net": ("unet", "unet"),
    "preset": ("article", "article"),
    "loss": ("dice", "dice"),
    "optimizer": ("sgd", "sgd"),
    "lr": ("1e-3", 1e-3),
    "ema": ("0.99", 0.99),
    "accumulate": ("2", 2),
    "compile": ("TRUE", True),
    "seed": ("3", 3),
    "held_out": ("0", 0.0),
    "splits": ("s.json", Path("s.json")),
    "folds": ("5", 5),
    "fold": ("2", 2),
    "group_by": ("(.+)_v", "(.+)_v"),
    "val_every": ("5", 5),
    "resume": ("auto", "auto"),
    "init_from": ("best.pt", Path("best.pt")),
    "backend": ("gloo", "gloo"),
    "gpu_cache": ("0.5", "0.5"),
    "crop": ("host", "host"),
    "read": ("gds", "gds"),
    "sticky": ("yes", True),
    "workers": ("6", 6),
}


def test_validation_is_switched_off_by_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert tyro.cli(options.Options, args=["--val-every", "never"]).val_every is None
    for wrong in ("no", "-1", "1.5"):
        with pytest.raises(SystemExit):
            tyro.cli(options.Options, args=[f"--val-every={wrong}"])
    assert "expected never, or a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(options.Options)])
@pytest.mark.parametrize("dash", ["-", "_"])
def test_every_option_is_driven_by_one_flat_string(name: str, dash: str) -> None:
    """As SageMaker passes hyperparameters."""
    text, value = TEXTS[name]
    given = tyro.cli(options.Options, args=[f"--{name.replace('_', dash)}", text])
    assert given == dataclasses.replace(options.Options(), **{name: value})
    assert given != options.Options()
