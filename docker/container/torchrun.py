"""Start the processes of a training on the GPUs of all hosts with torchrun, one torchrun a host."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from container.sagemaker_job import HAS_GPU, Job
from container.supervise import Command, Stop
from preprocessing.console.errors import EXIT_USAGE, InputError, RunError

PER_HOST_VARIABLE = "VOXELFEED_PROCESSES_PER_HOST"
PORT_VARIABLE, PORT = "MASTER_PORT", "29500"
ERROR_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"
NCCL_INTERFACE, GLOO_INTERFACE = "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"
FIND_HOST_S = 300.0
SHARED_MEMORY = "/dev/shm"


def torchrun(job: Job, arguments: Sequence[str], error_file: Path, stop: Stop) -> Command:
    """Start as many processes on this host as it has GPUs, one where it has none; raises ``InputError``."""
    wait_for(job.hosts[0], lambda: socket.getaddrinfo(job.hosts[0], None), stop)
    num_processes = processes_per_host(job, arguments)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_processes)]
    words += ["--nnodes", str(len(job.hosts)), "--node-rank", str(job.host_index)]
    words += ["--master-addr", job.hosts[0], "--master-port", os.environ.get(PORT_VARIABLE, PORT)]
    # if torchrun itself gets a signal, it would kill after 30 s, although SageMaker waits 120 s
    timeout = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "110"}
    return Command(
        words=[*words, "-m", "training.run", *arguments],
        environment={**os.environ, **network(job), **timeout, ERROR_FILE_VARIABLE: str(error_file)},
        listeners=children,
    )


def children(pid: int) -> set[int]:
    """Return the processes that torchrun, process ``pid``, has started: the ranks of this host.

    They get the signal directly: torchrun ends with 1 after a signal even where every rank saved and ended with 0.
    """
    try:
        return {child.pid for child in psutil.Process(pid).children()}
    except psutil.NoSuchProcess:
        return set()


def processes_per_host(job: Job, arguments: Sequence[str]) -> int:
    """Return how many processes a host gets, the same on all hosts: one for each GPU, or as many as asked for.

    Raises ``InputError`` when what was asked for is no number, for ``arguments`` that the trainer does not take, for a
    machine with GPUs that torch cannot use (the CPU would train at their price), and for too little shared memory.
    """
    given = os.environ.get(PER_HOST_VARIABLE, "")
    if given and (not given.isdigit() or int(given) < 1):
        raise InputError(f"{PER_HOST_VARIABLE}={given}: expected a number of processes, at least 1")
    found = _preflight([*(["--processes", given] if given else []), *arguments])
    if not found["num_gpus"] and HAS_GPU.match(job.instance_type) and found["device"] != "cpu" and not given:
        raise InputError(
            f"{job.instance_type} has GPUs, but torch, built for CUDA {found['cuda']}, can use none: the driver is too "
            "old (CUDA 13 needs R580, CUDA 12 R525; the image of constraints-v100.txt has 12), or the container sees "
            f"none; --device cpu trains without them; torch says: {found['warning'] or 'nothing'}"
        )
    _check_shared_memory(found)
    return int(found["processes"])


def _preflight(arguments: Sequence[str]) -> dict[str, Any]:
    """Let a process that has torch look at the flags and at the GPUs: once, not once in every rank.

    Raises ``InputError`` for flags that the trainer refuses, in its words.
    """
    words = [sys.executable, "-m", "training.trainer.preflight", *arguments]
    looked = subprocess.run(words, capture_output=True, text=True, check=False)
    *_, last = looked.stderr.splitlines() or [f"the check of the flags ended with exit code {looked.returncode}"]
    if looked.returncode == EXIT_USAGE:
        raise InputError(last.removeprefix("error: "))
    sys.stderr.write(looked.stderr)
    if looked.returncode:
        raise RunError(last)
    found: dict[str, Any] = json.loads(looked.stdout.splitlines()[-1])
    return found


def _check_shared_memory(found: Mapping[str, Any]) -> None:
    """Refuse what would end as "Bus error" in a worker process: containers have 64 MiB unless told otherwise."""
    needed = found["shared_bytes"]
    if needed and needed > (free := shutil.disk_usage(SHARED_MEMORY).free):
        raise InputError(
            f"{SHARED_MEMORY} has {free / 2**20:.1f} MiB free, the worker processes of --loader {found['loader']} need "
            f"about {needed / 2**20:.1f} MiB there; start the container with --shm-size or --ipc=host, lower "
            "--workers, --patch or --batch-size, or use --loader dali, which needs none"
        )


def network(job: Job) -> dict[str, str]:
    """Name the interface between the hosts to those who would have to guess it.

    Raises ``InputError`` for one that is named in the environment and that this machine does not have.
    """
    here = [name for _, name in socket.if_nameindex()]
    for variable in (NCCL_INTERFACE, GLOO_INTERFACE):
        given = os.environ.get(variable, "")
        if given and not _has_interface(here, given, of_nccl=variable == NCCL_INTERFACE):
            raise InputError(
                f"{variable}={given}: no such network interface here, only {', '.join(here)}; leave it out"
            )
    if job.interface is None:
        return {}
    return {name: os.environ.get(name, job.interface) for name in (NCCL_INTERFACE, GLOO_INTERFACE)}


def _has_interface(here: Sequence[str], given: str, *, of_nccl: bool) -> bool:
    """Tell whether one of ``given`` is there; NCCL takes beginnings of names, =NAME whole ones, ^NAME all others."""
    if not of_nccl:
        return bool(set(given.split(",")) & set(here))
    return given.startswith("^") or any(
        name.startswith(start) for name in here for start in given.strip("=").split(",")
    )


def wait_for(host: str, attempt: Callable[[], object], stop: Stop) -> None:
    """Wait until ``attempt`` to reach ``host`` succeeds: hosts of a job start at different times.

    Raises ``InputError`` after five minutes of ``OSError``, or when asked to stop.
    """
    give_up = time.monotonic() + FIND_HOST_S
    while (problem := _problem_of(attempt)) is not None:
        if time.monotonic() > give_up or stop.is_asked:
            raise InputError(f"host {host} of resourceconfig.json cannot be reached ({problem}): did it start?")
        time.sleep(1)


def _problem_of(attempt: Callable[[], object]) -> OSError | None:
    try:
        attempt()
    except OSError as error:
        return error
    return None
