"""The data a benchmark works on where the user names none, and as many cases of it as an experiment needs."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measuring.origin import describe_data
from benchmarks.measuring.replicate import replicate
from pipelines.config import LoaderConfig
from preprocessing import to_shards
from preprocessing.console.errors import InputError
from preprocessing.layouts.dataset import Dataset
from preprocessing.layouts.known import read_dataset
from preprocessing.phantom import DEFAULT_FOLDER, PhantomOptions, make_phantom
from preprocessing.shards.store import Store, open_store
from preprocessing.volumes.grid import Int3

STEP, LARGEST = 16, 128  # sides of a patch are multiples of the one and at most the other


def ensure_source(source: Path) -> Path:
    """Return ``source``; the default one, the synthetic phantom, is made where it does not exist."""
    if source == DEFAULT_FOLDER and not source.exists():
        make_phantom(PhantomOptions(output=source))
    return source


def read_labelled(source: Path) -> Dataset:
    """Read the labelled cases of the data set at ``source``, which has one image file each: MSD layout.

    Raises ``InputError`` for another layout, and where no case has a label.
    """
    try:
        dataset = read_dataset(ensure_source(source), "msd")
    except InputError as error:
        raise InputError(f"--source {source} has to be in MSD layout: {error}") from error
    labelled = [case for case in dataset.sources if case.label is not None]
    if not labelled:
        raise InputError(f"--source {source}: no labelled case in it")
    return dataclasses.replace(dataset, sources=labelled)


def ensure_store(shards: Path) -> Store:
    """Open a store; the default one is made of the synthetic phantom where it does not exist."""
    to_shards.ensure_phantom(shards)
    return open_store(shards)


@contextlib.contextmanager
def repeat_cases(store: Store, num_cases: int) -> Iterator[Store]:
    """Yield a store of ``num_cases``: ``store`` if it has so many, else a copy beside it, gone afterwards.

    In the copy the cases repeat, as hard links.
    """
    if len(store.labelled_ids) == num_cases:
        yield store
        return
    root = Path(store.root).resolve()
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:  # where hard links reach
        copy = Path(folder) / root.name
        replicate(root, copy, num_cases)
        yield open_store(copy)


def make_store(source: Path, num_cases: int, folder: Path) -> Store:
    """Convert ``num_cases`` cases into a store in ``folder``, those of ``source`` (MSD layout) again and again.

    The nii.gz are hard links of the originals; the shards are files of their own, each with its place in the page
    cache.
    """
    copies, shards = folder / "nii", folder / "shards"
    replicate(ensure_source(source), copies, num_cases)
    to_shards.convert_all(to_shards.Options(input=copies, output=shards))
    return open_store(shards)


def median_patch(store: Store) -> Int3:
    """Return a patch within the median volume: (130, 171, 136) gives (128, 128, 128), (36, 50, 35) (32, 48, 32)."""
    d, h, w = (max(min(LARGEST, side) // STEP, 1) * STEP for side in describe_data(store)["shape_dhw"]["median"])
    return d, h, w


def patch_bytes(store: Store, config: LoaderConfig) -> int:
    """Return the bytes of one patch as it lies in the store, image and label."""
    voxel = len(store.manifest.channel_names) * np.dtype(store.manifest.image_dtype).itemsize + 1
    return math.prod(config.patch) * voxel


def forget(files: Iterable[Path]) -> None:
    """Drop files from the page cache: what is in it already belongs to whoever read it first, limited or not.

    The kernel keeps pages that somebody has mapped.
    """
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages not yet on disk cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def parse_numbers(flag: str, text: str, least: int) -> list[int]:
    """Read ``"1,2,8"`` as whole numbers, each once; raises ``InputError`` for anything else or less than ``least``."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise InputError(f"{flag} {text}: give a whole number from {least} on, or several with commas between them")
    return list(dict.fromkeys(numbers))


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Where the data is, where the result goes, how often it is measured."""

    source: Path = DEFAULT_FOLDER
    """Data set folder in MSD layout. The default is the synthetic phantom, made on first use."""
    output: Path = Path("benchmarks/results")
    """Folder for article-EXPERIMENT_MACHINE_DATE.json, .md and .png."""
    runs: int = 3
    """Measured runs (epochs, where there are epochs) after a first one."""
