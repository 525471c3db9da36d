"""The processes of a run as one group: it adds numbers up over them, and starts and ends with all of them."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from preprocessing.console.errors import RunError
from training.distributed.watch import LOOK_EVERY_S, Watch, watched
from training.distributed.world import World, choose_backend, choose_device

log = logging.getLogger(__name__)
ENDED = "voxelfeed/ended"
COLLECTIVE = timedelta(hours=2)  # a long validation of one process keeps the others waiting; the watch finds the dead


@dataclass(frozen=True, kw_only=True)
class Group:
    """Where this process is and on which device, and sums over all processes."""

    world: World
    device: torch.device
    stepped: Callable[[], None] = lambda: None  # tell the watch that all processes have taken a step

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.world.is_main

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up each of ``values`` over all processes; every process gets the sums."""
        if self.world.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.sum([0.0])

    def check_equal(self, name: str, value: int) -> None:
        """Raise ``RunError`` when ``value`` differs between processes."""
        mean = self.sum([float(value)])[0] / self.world.world_size
        if mean != value:
            raise RunError(f"{name} is {value} here and {mean:g} on average over all processes; they must agree")

    def share(self, network: nn.Module) -> nn.Module:
        """Wrap ``network`` so that its gradients are averaged over all processes."""
        if self.world.world_size == 1:
            return network
        # said once of 1x1x1 kernels, whose strides differ in name only
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True)

    def no_sync_until_last(self, network: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
        """Keep gradients in this process until the last part of a batch: one exchange per step."""
        if is_last or not hasattr(network, "no_sync"):  # a compiled one passes the question on to what it wraps
            return nullcontext()
        waiting: AbstractContextManager[None] = network.no_sync()  # type: ignore[operator]
        return waiting


@contextmanager
def join(world: World, backend: str, device: str) -> Iterator[Group]:
    """Join the other processes for the length of the block; alone, there is nobody to join.

    ``backend`` and ``device`` are what the user asked for. An exception in the block, also one that only this process
    raises, ends every process within seconds (``watch.py``). Raises ``InputError`` for names that are unknown or cannot
    work here.
    """
    if world.world_size == 1:
        found = choose_device(device, world)
        choose_backend(backend, found)
        yield Group(world=world, device=found)
        return
    if not world.is_main:
        logging.getLogger().setLevel(logging.WARNING)
    store, _, _ = next(rendezvous(world.meeting_place, world.rank, world.world_size))
    # a connection of its own: the other one may be held by a call that waits
    watch = Watch(world, getattr(store, "clone", lambda: store)())
    with watched(watch):
        group = _start(world, backend, device, store, watch)
        yield group
        _wait_at(store, world)
    _leave(group)


def _leave(group: Group) -> None:
    """End the group once all processes are here: the one that holds the store must not be gone first.

    PyTorch 2.4 drops a group with Python's lock held while it waits for gloo's threads, one of which may need that lock
    to let go of a tensor: neither ever ends (PyTorch's pull request 154976, of June 2025). Gloo itself is dropped
    without the lock, so it has to go last, after every variable that holds the group.
    """
    group.wait()
    gloo = _gloo(group.device)
    dist.destroy_process_group()
    del gloo


def _gloo(device: torch.device) -> object:
    joined = dist.group.WORLD
    assert joined is not None
    return joined._get_backend(device) if dist.get_backend() == "gloo" else None  # noqa: SLF001


def _wait_at(store: Any, world: World) -> None:
    """Wait until every process has ended its block, one of which concludes the run meanwhile.

    Not in a collective: NCCL gives those up after ten minutes, and says nothing of why the other does not come.
    """
    arrived = store.add(ENDED, 1)
    while arrived < world.world_size:
        time.sleep(LOOK_EVERY_S)
        arrived = store.add(ENDED, 0)


def _start(world: World, backend: str, device: str, store: Any, watch: Watch) -> Group:
    found = choose_device(device, world)
    name, reason = choose_backend(backend, found)
    log.info("%d processes, backend %s: %s", world.world_size, name, reason)
    dist.init_process_group(name, store=store, rank=world.rank, world_size=world.world_size, timeout=COLLECTIVE)
    group = Group(world=world, device=found, stepped=watch.stepped)
    group.wait()
    return group
