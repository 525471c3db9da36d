"""Which rank this process is, on which device and with which backend."""

from __future__ import annotations

import os

import pytest
import torch

from preprocessing.console.errors import InputError
from tests.training.model.test_compute import CPU
from training.distributed.world import choose_backend, choose_device, device_index, read_world


def test_ranks_come_from_torchrun_or_are_one_process() -> None:
    assert read_world({}).world_size == 1
    world = read_world({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})
    assert (world.rank, world.local_rank) == (0, 0)
    assert world.is_main
    assert choose_device("cpu", world) == CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a CUDA device")
def test_cuda_is_not_pretended() -> None:
    with pytest.raises(InputError, match="no CUDA device is visible here"):
        choose_device("cuda", read_world({}))
    assert choose_device("auto", read_world({})) == CPU


@pytest.mark.parametrize(
    ("local_rank", "visible", "environment", "expected"),
    [(3, 8, {}, 3), (0, 1, {}, 0), (3, 1, {"SLURM_LOCALID": "3"}, 0)],
)
def test_a_process_takes_its_own_device(
    local_rank: int, visible: int, environment: dict[str, str], expected: int
) -> None:
    assert device_index(local_rank, visible, environment) == expected


@pytest.mark.parametrize(("visible", "environment"), [(1, {}), (2, {"SLURM_LOCALID": "3"})])
def test_more_processes_than_devices_are_refused(visible: int, environment: dict[str, str]) -> None:
    with pytest.raises(InputError, match=f"process 3 of this machine has no device: {visible} visible; start as many"):
        device_index(3, visible, environment)


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
