"""How many processes a host starts; a machine whose GPUs torch cannot use does not train on its CPU instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from container.sagemaker_job import Job
from container.torchrun import PER_HOST_VARIABLE, processes_per_host

from preprocessing.console.errors import InputError
from tests.docker.conftest import make_hosts


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv(PER_HOST_VARIABLE, raising=False)


def job_on(machine: str, folder: Path) -> Job:
    (host,) = make_hosts(folder, "train", 1)
    content = {"current_host": host.name, "hosts": [host.name], "current_instance_type": machine}
    host.write("input/config/resourceconfig.json", content)
    return Job.read("train", {"SAGEMAKER_BASE_DIR": str(host.base)})


def test_a_machine_whose_gpus_cannot_be_used_is_refused(tmp_path: Path) -> None:
    said = r"^ml\.p4d\.24xlarge has GPUs, but torch, .* can use none: the driver is too old \(CUDA 13 needs R580"
    with pytest.raises(InputError, match=said):
        processes_per_host(job_on("ml.p4d.24xlarge", tmp_path), ["--epochs", "3"])


@pytest.mark.parametrize(
    ("machine", "flags", "wish", "expected"),
    [
        ("ml.g5.2xlarge", ["--device", "cpu"], "", 1),
        ("ml.g5.2xlarge", [], "3", 3),
        ("ml.m5.4xlarge", [], "", 1),
    ],
)
def test_the_cpu_trains_where_it_is_meant_to(
    machine: str, flags: list[str], wish: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PER_HOST_VARIABLE, wish)
    assert processes_per_host(job_on(machine, tmp_path), flags) == expected


def test_an_odd_wish_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PER_HOST_VARIABLE, "all")
    with pytest.raises(InputError, match=f"^{PER_HOST_VARIABLE}=all: expected a number of processes, at least 1$"):
        processes_per_host(job_on("ml.m5.4xlarge", tmp_path), [])
