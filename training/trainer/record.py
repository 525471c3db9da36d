"""What a run leaves behind: its options, its environment, metrics.jsonl, and TensorBoard's files."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from preprocessing.console.errors import InputError
from preprocessing.shards.files import write_json
from training.inference.scores import VALIDATED
from training.trainer.timing import TimeSplit

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


OPTIONS, METRICS = "run.json", "metrics.jsonl"
PACKAGES = ("torch", "monai", "numpy", "nibabel")
FOLDER = "tensorboard"


def describe_environment() -> dict[str, str]:
    """Name the versions and the processor that the figures of a run depend on; asking for a GPU would start CUDA."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    dali = [d for d in metadata.distributions() if str(d.metadata["Name"]).startswith("nvidia-dali")]
    versions |= {str(d.metadata["Name"]): d.version for d in dali}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_initialized() else "none"  # type: ignore[no-untyped-call]
    return {"python": platform.python_version(), "cpus": str(len(os.sched_getaffinity(0))), "gpu": gpu, **versions}


def write_run(folder: Path, options: Mapping[str, Any], split: Mapping[str, list[str]]) -> None:
    """Keep what the run was asked to do, on which cases, and on what."""
    write_json(
        folder / OPTIONS, {"options": dict(options), "cases": dict(split), "environment": describe_environment()}
    )


def read_run(folder: Path) -> dict[str, Any]:
    """Read what ``write_run`` kept; raises ``InputError`` when ``folder`` is not a run."""
    try:
        content: dict[str, Any] = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no readable {OPTIONS} there; give the --output folder of training.run") from error
    return content


def without_nan(value: Any) -> Any:
    """Replace every NaN in nested dicts by ``None``: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    """Add one line to ``metrics.jsonl``."""
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``, oldest first."""
    path = folder / METRICS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def keep_metrics(folder: Path, count: int) -> None:
    """Drop every line after the first ``count``: what a killed run wrote after its last checkpoint happens again."""
    path = folder / METRICS
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(path)


class Board:
    """One file of events for this process; ``first_step`` hides what a killed process wrote from that step on."""

    def __init__(self, run: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: SummaryWriter = SummaryWriter(str(run / FOLDER), purge_step=first_step)

    def add_epoch(self, line: Mapping[str, Any]) -> None:
        """Add the figures of a finished epoch, as ``metrics.jsonl`` holds them, at its step."""
        for name, value in _scalars(line).items():
            self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def add_pictures(self, pictures: Sequence[Path], step: int) -> None:
        """Add PNG files under their names."""
        from matplotlib.image import imread

        for path in pictures:
            self._writer.add_image(f"validation/{path.stem}", imread(path)[..., :3], step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def _scalars(line: Mapping[str, Any]) -> dict[str, float]:
    split = TimeSplit(**line["split"])
    parts = [part.name for part in fields(TimeSplit) if part.name.endswith("_s")]
    scalars = {name: line[name] for name in ("loss", "lr", "patches_per_s", "waiting")}
    scalars |= {
        f"{metric}/{name}": value
        for metric in VALIDATED
        for name, value in (line[metric] or {}).items()
        if value is not None
    }
    return scalars | {f"time/{part[:-2]}": getattr(split, part) / (split.wall_s or 1.0) for part in parts}
