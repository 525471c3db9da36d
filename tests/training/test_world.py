"""Which process this is, among how many, and over which backend they talk."""

from __future__ import annotations

import os

import pytest
import torch

from preprocessing.errors import InputError
from training.distributed import choose_backend, read_world


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 0, 1, 1)),
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, (5, 1, 8, 4)),
        (
            {
                f"OMPI_COMM_WORLD_{name}": value
                for name, value in (("RANK", "3"), ("LOCAL_RANK", "0"), ("SIZE", "4"), ("LOCAL_SIZE", "2"))
            },
            (3, 0, 4, 2),
        ),
    ],
)
def test_the_place_in_the_world_comes_from_the_launcher(
    environment: dict[str, str], place: tuple[int, int, int, int]
) -> None:
    world = read_world({"MASTER_ADDR": "first", "MASTER_PORT": "1", **environment})
    assert (world.rank, world.local_rank, world.world_size, world.local_size) == place
    assert world.num_cores == max(len(os.sched_getaffinity(0)) // place[3], 1)


def test_processes_that_cannot_meet_are_refused() -> None:
    with pytest.raises(InputError, match="started as 2 processes without MASTER_ADDR and MASTER_PORT"):
        read_world({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("wanted", "device", "message"),
    [
        ("mpi", "cpu", "--backend mpi: unknown; known: auto, gloo, nccl, smddp"),
        ("nccl", "cpu", "--backend nccl: cannot work on cpu, where this run is; use --backend gloo"),
        ("smddp", "cuda", "--backend smddp: SageMaker's library cannot be loaded .No module named 'smdistributed'."),
    ],
)
def test_a_backend_that_cannot_work_is_refused(wanted: str, device: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_backend(wanted, torch.device(device))


def test_auto_says_why_it_chose_a_backend() -> None:
    assert choose_backend("auto", torch.device("cpu")) == ("gloo", "the run is on cpu")
    name, reason = choose_backend("auto", torch.device("cuda"), {"OMPI_COMM_WORLD_RANK": "0"})
    assert name == "nccl"
    assert "no SageMaker library (No module named 'smdistributed')" in reason
