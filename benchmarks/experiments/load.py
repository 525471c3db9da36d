"""The article's first table: how long one image takes to load as nii.gz, as nii, and as a patch of a shard."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.converters import Work, remade, voxelfeed
from benchmarks.measuring.data import Experiment, read_labelled
from benchmarks.measuring.rounds import time_rounds
from benchmarks.reporting.result import Record, contents, make_row

GROUP = "loading one image"
PATCH = 128
METHOD = [
    "One process, page cache warm, one warm-up; each load ends with voxels in memory, MONAI's as float32.",
    "A training step needs a patch, not a volume: the shard's row reads what the step needs, the others read all.",
]


@dataclass(frozen=True, kw_only=True)
class Load(Experiment):
    """Time loading one image: nii.gz, nii, npy, and a patch from a memory-mapped shard."""


def measure_load(options: Load) -> Record:
    """Run the experiment; returns data, options, runs, rows and method."""
    dataset = read_labelled(options.source)
    with tempfile.TemporaryDirectory() as scratch:
        folder = remade(Path(scratch) / "case")
        loads = prepare_loads(Work(dataset=dataset, source=dataset.sources[0], folder=folder))
        timed = time_rounds(loads, options.runs, 1)
    milliseconds = {
        name: {which.replace("_s", "_ms"): [1e3 * value for value in values] for which, values in seconds.items()}
        for name, seconds in timed.items()
    }
    rows = [make_row(GROUP, name, values) for name, values in milliseconds.items()]
    return contents({"name": dataset.name, "cases": 1}, {"patch": [PATCH] * 3}, options.runs, rows, METHOD)


def prepare_loads(work: Work) -> dict[str, Callable[[], object]]:
    """Lay one image out in every form; returns what is timed, by name. Each load ends with voxels in memory."""
    import nibabel as nib
    from monai.transforms import LoadImage

    packed = work.source.images[0]
    plain, npy = work.folder / "image.nii", work.folder / "image.npy"
    image: Any = nib.load(packed)
    nib.save(image, plain)
    np.save(npy, np.asanyarray(image.dataobj))
    voxelfeed(work)
    shard = next(work.folder.glob("shard-*/*.image.npy"))

    def with_nibabel(path: Path) -> object:
        loaded: Any = nib.load(path)
        return np.asanyarray(loaded.dataobj).copy(order="K")  # a plain .nii is mapped: the copy reads it

    def patch() -> object:
        voxels = np.load(shard, mmap_mode="r")
        start = [max(side - PATCH, 0) // 2 for side in voxels.shape[:3]]
        return np.array(voxels[tuple(slice(s, s + PATCH) for s in start)])

    load = LoadImage(image_only=True)
    return {
        ".nii.gz, MONAI": lambda: load(str(packed)),
        ".nii.gz, nibabel": lambda: with_nibabel(packed),
        ".nii, MONAI": lambda: load(str(plain)),
        ".nii, nibabel": lambda: with_nibabel(plain),
        ".npy, numpy": lambda: np.load(npy),
        f"patch of {PATCH}^3 from a memory-mapped shard": patch,
    }
