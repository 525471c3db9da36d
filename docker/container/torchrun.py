"""Start the processes of a training on the GPUs of all hosts with torchrun, one torchrun a host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from container.sagemaker_job import HAS_GPU, Job
from container.supervise import Command, Stop
from preprocessing.console.errors import InputError

PER_HOST_VARIABLE = "VOXELFEED_PROCESSES_PER_HOST"
PORT_VARIABLE, PORT = "MASTER_PORT", "29500"
ERROR_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"
FIND_HOST_S = 300.0
FRAME = "\u2500\u2502\u256d\u256e\u256f\u2570"  # of the box that tyro draws
# device_count alone would not do: it asks the driver's management library, which answers when CUDA itself cannot start
CHECK = """
import sys, torch, tyro
from training.options import Options
device = tyro.cli(Options, args=sys.argv[1:]).device
print(torch.cuda.device_count() if torch.cuda.is_available() else 0, device, torch.version.cuda, sep="\t")
"""


def torchrun(job: Job, arguments: Sequence[str], error_file: Path, stop: Stop) -> Command:
    """Start as many processes on this host as it has GPUs, one where it has none; raises ``InputError``."""
    wait_for(job.hosts[0], lambda: socket.getaddrinfo(job.hosts[0], None), stop)
    num_processes = processes_per_host(job, arguments)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_processes)]
    words += ["--nnodes", str(len(job.hosts)), "--node-rank", str(job.host_index)]
    words += ["--master-addr", job.hosts[0], "--master-port", os.environ.get(PORT_VARIABLE, PORT)]
    # for a signal to torchrun itself, which would kill after 30 s although SageMaker waits for 120
    patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "110"}
    return Command(
        words=[*words, "-m", "training.run", *arguments],
        environment={**os.environ, **network(job), **patience, ERROR_FILE_VARIABLE: str(error_file)},
        listeners=children,
    )


def children(pid: int) -> set[int]:
    """Return the processes that torchrun, process ``pid``, has started: the ranks of this host.

    They are told to stop directly: torchrun ends with 1 after a signal even where every rank saved and ended with 0.
    """
    try:
        return {child.pid for child in psutil.Process(pid).children()}
    except psutil.NoSuchProcess:
        return set()


def processes_per_host(job: Job, arguments: Sequence[str]) -> int:
    """Return how many processes a host gets, all hosts of a job being alike: one for each GPU, or what is wished.

    Raises ``InputError`` for an odd wish, for ``arguments`` that the trainer does not take, and for a machine with GPUs
    that torch cannot use: the CPU would train at their price.
    """
    wish = os.environ.get(PER_HOST_VARIABLE, "")
    if wish and (not wish.isdigit() or int(wish) < 1):
        raise InputError(f"{PER_HOST_VARIABLE}={wish}: expected a number of processes, at least 1")
    num_gpus, device, cuda, said = _look(arguments)
    if not num_gpus and HAS_GPU.match(job.instance_type) and device != "cpu" and not wish:
        raise InputError(
            f"{job.instance_type} has GPUs, but torch, built for CUDA {cuda}, can use none: the driver is too old "
            "(CUDA 13 needs R580, CUDA 12 R525; the image of constraints-v100.txt has 12), or the container sees none; "
            f"--device cpu trains without them{said and '; torch says: '}{said}"
        )
    return int(wish or num_gpus or 1)


def _look(arguments: Sequence[str]) -> tuple[int, str, str, str]:
    """Let a process that has torch look at GPUs and at the trainer's flags: once, not once in every rank.

    Returns the number of GPUs, ``--device``, the version of CUDA, and what torch had to say.
    """
    checked = subprocess.run([sys.executable, "-c", CHECK, *arguments], capture_output=True, text=True, check=False)
    if checked.returncode:
        raise InputError(" ".join(word for word in checked.stderr.split() if word.strip(FRAME)))
    num_gpus, device, cuda = checked.stdout.splitlines()[-1].split("\t")
    return int(num_gpus), device, cuda, " ".join(checked.stderr.split())


def network(job: Job) -> dict[str, str]:
    """Name the interface between the hosts to those who would have to guess it."""
    names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
    return {} if job.interface is None else {name: os.environ.get(name, job.interface) for name in names}


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
