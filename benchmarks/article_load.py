"""The article's first table: how long one image takes to load as nii.gz, as nii, and as a patch of a shard."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.convert_rows import Work, empty, prepare_loads
from benchmarks.default_data import ensure_source
from benchmarks.repeat import time_rounds
from benchmarks.result import Record, make_row
from preprocessing.errors import InputError
from preprocessing.layouts import read_dataset
from preprocessing.phantom import DEFAULT_FOLDER

GROUP = "loading one image"
METHOD = [
    "One process, page cache warm, one warm-up; each load ends with voxels in memory, MONAI's as float32.",
    "A training step needs a patch, not a volume: the shard's row reads what the step needs, the others read all.",
]


@dataclass(frozen=True, kw_only=True)
class Load:
    """Time loading one image: nii.gz, nii, npy, and a patch from a memory-mapped shard."""

    source: Path = DEFAULT_FOLDER
    """Data set in any layout. The default is the synthetic phantom, made on first use."""
    runs: int = 5
    """Timed runs, after a warm-up."""


def measure_load(options: Load) -> Record:
    """Run the experiment; returns data, options, runs, rows and method."""
    dataset = read_dataset(ensure_source(options.source))
    labelled = [source for source in dataset.sources if source.label is not None]
    if not labelled:
        raise InputError(f"{options.source}: no labelled case in it")
    with tempfile.TemporaryDirectory() as scratch:
        folder = empty(Path(scratch) / "case")
        loads = prepare_loads(Work(dataset=dataset, source=labelled[0], folder=folder))
        timed = time_rounds(loads, options.runs, 1)
    return {
        "data": {"name": dataset.name, "cases": 1},
        "options": {},
        "runs": options.runs,
        "rows": [make_row(GROUP, name, seconds) for name, seconds in timed.items()],
        "method": METHOD,
    }
