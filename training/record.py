"""What a run leaves behind in its folder: options, split, one line of figures per epoch."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from preprocessing.errors import InputError
from preprocessing.shards import write_json

OPTIONS, METRICS = "run.json", "metrics.jsonl"
PACKAGES = ("torch", "monai", "numpy", "nibabel")


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
