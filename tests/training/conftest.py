"""A tiny trained run that several tests read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from training.options import Options
from training.run import train

TINY = Options(
    loader="dali",
    patch=(16, 16, 16),
    epochs=3,
    samples_per_case=2,
    net="segresnet",
    lr=1e-3,
    val_every=1,
    device="cpu",
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute on one thread: patches this small gain nothing from a second one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_options(coordinate_store: Path) -> Options:
    """Options of a run that takes a second."""
    return dataclasses.replace(TINY, shards=coordinate_store)


@pytest.fixture(scope="session")
def tiny_run(tiny_options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for three epochs; returns the run folder."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    assert train(dataclasses.replace(tiny_options, output=folder)) == 0
    return folder
