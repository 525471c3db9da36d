"""Check the flags of a run and look at this machine without starting anything.

``python -m training.trainer.preflight FLAGS-OF-training.run`` prints one JSON object; a flag that cannot be is one line
on stderr and exit code 2.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipelines.loaders import MONAI
from preprocessing.console.errors import EXIT_DONE, EXIT_USAGE, InputError
from preprocessing.console.flags import parse
from preprocessing.console.places import is_remote
from preprocessing.shards.store import open_store
from training.distributed.group import Group
from training.distributed.world import World
from training.options import Options, check_options
from training.trainer.build import AUTO_WORKERS
from training.trainer.resolve import resolve

WITH_WORKERS = ("torch", *(name for name in MONAI if name != "monai-thread"))  # loaders that start worker processes
WAITING = 2  # batches that each worker process holds ready, PyTorch's default


@dataclass(frozen=True, kw_only=True)
class PreflightOptions(Options):
    """The flags of ``training.run``, and how many processes of it this machine is to start."""

    processes: int = 0
    """Training processes on this machine; 0 is one for each GPU, or one without GPUs."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What a run finds on this machine: GPUs that torch can use, and the training ``processes`` that it would start.

    ``device`` and ``loader`` are the flags as given, ``cuda`` is the version that torch was built for, and ``warning``
    what torch said when it looked for GPUs. ``shared_bytes`` is the shared memory in which the worker processes of all
    loaders keep batches; 0 where there are none, or the store cannot be opened.
    """

    num_gpus: int
    processes: int
    device: str
    cuda: str | None
    warning: str
    loader: str
    shared_bytes: int


def look(options: PreflightOptions) -> Preflight:
    """Check the flags and look at the machine; raises ``InputError`` for flags that ``training.run`` refuses."""
    check_options(options)
    # device_count alone would not do: it asks the driver's management library, which answers when CUDA cannot start
    with warnings.catch_warnings(record=True) as caught:
        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    processes = options.processes or num_gpus or 1
    device = torch.device("cuda" if num_gpus and options.device != "cpu" else "cpu")
    return Preflight(
        num_gpus=num_gpus,
        processes=processes,
        device=options.device,
        cuda=torch.version.cuda,
        warning=" ".join(" ".join(str(warning.message) for warning in caught).split()),
        loader=options.loader,
        shared_bytes=processes * _shared_bytes(options, processes, device),
    )


def _shared_bytes(options: Options, processes: int, device: torch.device) -> int:
    """Estimate what the batches of one training process take that its loader's worker processes hold ready."""
    if options.loader not in WITH_WORKERS or is_remote(options.shards):
        return 0
    try:
        store = open_store(options.shards)
    except (InputError, OSError):
        return 0  # the run itself says what is wrong with the store
    if not store.labelled_ids:
        return 0
    group = Group(world=World(rank=0, local_rank=0, world_size=1, local_size=processes), device=device)
    voxels = math.prod(resolve(options, store, 1, group).geometry.patch)
    batch_bytes = options.batch_size * voxels * (4 * len(store.manifest.channel_names) + 1)  # float32, uint8 labels
    return (options.workers or min(group.world.num_cores, AUTO_WORKERS)) * WAITING * batch_bytes


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    try:
        sys.stdout.write(json.dumps(dataclasses.asdict(look(parse(PreflightOptions, arguments)))) + "\n")
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USAGE
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
