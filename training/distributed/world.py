"""The only reader of rank variables: which process this is among how many, on which device, over which backend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from preprocessing.console.errors import InputError, check_known

LAUNCHERS = {
    "torchrun": ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    "mpirun": tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "LOCAL_RANK", "SIZE", "LOCAL_SIZE")),
}
DEVICES = ("auto", "cpu", "cuda")
BACKENDS = ("auto", "gloo", "nccl", "smddp")


@dataclass(frozen=True, kw_only=True)
class World:
    """Place of this process: ``rank`` among ``world_size``, ``local_rank`` among the ``local_size`` of its machine.

    ``meeting_place`` is where the processes find each other: ``env://`` (``MASTER_ADDR`` and ``MASTER_PORT``, which
    torchrun sets), or ``file:///...`` on a shared file system.
    """

    rank: int
    local_rank: int
    world_size: int
    local_size: int = 1
    meeting_place: str = "env://"

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    @property
    def num_cores(self) -> int:
        """Processor cores that fall to this process, at least one."""
        return max(len(os.sched_getaffinity(0)) // self.local_size, 1)


def read_world(environment: Mapping[str, str] = os.environ) -> World:
    """Read what ``torchrun`` or ``mpirun`` set; without either this is the only process.

    ``VOXELFEED_RENDEZVOUS=file:///shared/name``, a file that is not there yet, replaces ``MASTER_ADDR`` and
    ``MASTER_PORT``. Raises ``InputError``
    for several processes that cannot find each other.
    """
    names = next((names for names in LAUNCHERS.values() if names[0] in environment), LAUNCHERS["torchrun"])
    rank, local_rank, world_size, local_size = (
        int(environment.get(name, missing)) for name, missing in zip(names, "0011", strict=True)
    )
    place = environment.get("VOXELFEED_RENDEZVOUS", "env://")
    if world_size > 1 and place == "env://":
        absent = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if absent:
            raise InputError(
                f"started as {world_size} processes without {' and '.join(absent)}; start with torchrun, or export "
                "them (the first machine's name and a free port)"
            )
    return World(rank=rank, local_rank=local_rank, world_size=world_size, local_size=local_size, meeting_place=place)


def choose_device(wanted: str, world: World) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into this process's device.

    Raises ``InputError`` for another name, for ``cuda`` where there is none, or for more processes than devices.
    """
    check_known("device", wanted, DEVICES)
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is visible here; use --device cpu or auto")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    index = device_index(world.local_rank, torch.cuda.device_count())
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def device_index(local_rank: int, num_visible: int, environment: Mapping[str, str] = os.environ) -> int:
    """Return which of the visible devices is this process's: its ``local_rank``.

    A batch system such as SLURM may show each process one device only, its own. Raises ``InputError`` for more
    processes than devices.
    """
    if local_rank < num_visible:
        return local_rank
    if num_visible == 1 and "SLURM_LOCALID" in environment:
        return 0
    raise InputError(
        f"process {local_rank} of this machine has no device: {num_visible} visible; start as many processes as there "
        "are devices"
    )


def choose_backend(wanted: str, device: torch.device, environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return the name of the collectives' backend and why it was taken.

    With CUDA ``auto`` takes smddp where mpirun started the processes (under torchrun its AllReduce falls back) and
    SageMaker's library can be imported, else nccl; without CUDA gloo. Importing is what registers smddp with PyTorch.
    Raises ``InputError`` for an unknown name, or one that cannot work here.
    """
    check_known("backend", wanted, BACKENDS)
    if wanted == "auto":
        return _best_for(device, environment)
    if wanted == "smddp" and (reason := _why_not_smddp()):
        raise InputError(f"--backend smddp: SageMaker's library cannot be loaded ({reason}); use --backend nccl")
    if device.type not in dist.Backend.backend_capability[wanted]:
        raise InputError(f"--backend {wanted}: cannot work on {device}, where this run is; use --backend gloo")
    return wanted, "asked for"


def _best_for(device: torch.device, environment: Mapping[str, str]) -> tuple[str, str]:
    if device.type != "cuda":
        return "gloo", f"the run is on {device}"
    if LAUNCHERS["mpirun"][0] not in environment:
        return "nccl", "CUDA devices, and not started by mpirun, as smddp has to be"
    reason = _why_not_smddp()
    if reason is None:
        return "smddp", "SageMaker's library is here"
    return "nccl", f"CUDA devices, and no SageMaker library ({reason})"


def _why_not_smddp() -> str | None:
    try:
        import smdistributed.dataparallel.torch.torch_smddp  # noqa: F401
    except Exception as error:  # noqa: BLE001  # on unsupported machines it fails in ways of its own
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None
