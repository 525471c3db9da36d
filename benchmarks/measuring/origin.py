"""Describe where numbers come from: machine, commit, package versions. No host name, no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from preprocessing.console.errors import InputError
from preprocessing.shards.entries import CaseEntry
from preprocessing.shards.store import Store

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("voxelfeed", "numpy", "torch", "nvidia-dali-cuda", "monai")  # DALI's name ends with a version of CUDA
FILLER = re.compile(r"\((R|TM)\)|\b(CPU|Processor|with|Graphics)\b|@ *[0-9.]+ *GHz", re.IGNORECASE)
Description = dict[str, Any]


def describe_machine() -> dict[str, Any]:
    """Return processor model, cores this process may use, memory, GPU (``None`` without), system and Python."""
    return {
        "cpu": _cpu_model(),
        "cores": num_cores(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "num_gpus": torch.cuda.device_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def num_cores() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def slug_of(machine: dict[str, Any]) -> str:
    """Name a machine in a file name: ``intel-xeon-2-cores``, with the GPU's name where there is one."""
    words = " ".join(str(part) for part in (machine["cpu"], f"{machine['cores']} cores", machine["gpu"] or ""))
    return re.sub(r"[^a-z0-9]+", "-", FILLER.sub(" ", words).lower()).strip("-")


def describe_commit() -> dict[str, Any] | None:
    """Return the commit's hash and whether files differ from it; ``None`` outside a git checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"hash": commit, "dirty": bool(changed)}


def describe_versions() -> dict[str, str]:
    """Return the versions of the packages that decide the speed, as far as they are installed."""
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    return {name: installed[name] for name in sorted(installed) if name.rstrip("0123456789") in PACKAGES}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def describe_data(store: Store) -> Description:
    """Return the data set's name, its labelled cases, and the least, median and largest side of them along each axis.

    ``distinct`` counts the cases that were made from different files: of 8 hard links or copies of 3 cases it is 3.
    Raises ``InputError`` when no case has a label.
    """
    cases = [store.case(case_id) for case_id in store.labelled_ids]
    if not cases:
        raise InputError(f"{store.root}: no case has a label, there is nothing to train on")
    shapes = np.array([case.shape_dhw for case in cases])
    middle = np.sort(shapes, axis=0)[len(shapes) // 2]
    return {
        "name": store.manifest.name,
        "cases": len(cases),
        "distinct": len({_content(case.entry) for case in cases}),
        "channels": len(store.manifest.channel_names),
        "image_dtype": store.manifest.image_dtype,
        "stored_mb": round(sum(shard.size_bytes for shard in store.manifest.shards) / 1e6, 1),
        "shape_dhw": {"min": shapes.min(0).tolist(), "median": middle.tolist(), "max": shapes.max(0).tolist()},
    }


def _content(entry: CaseEntry) -> tuple[str, ...]:
    return tuple(record.xxh3 for record in entry.sources)


def count_cases(data: Description) -> str:
    """Write how many cases a result has: ``8 cases (3 distinct)``, or ``8 cases`` where all differ.

    Results from before ``distinct`` was counted say nothing of it.
    """
    cases = data["cases"]
    text = f"{cases} case{'' if cases == 1 else 's'}"
    return text if data.get("distinct", cases) == cases else f"{text} ({data['distinct']} distinct)"
