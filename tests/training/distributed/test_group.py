"""Leaving a group of processes so that it cannot become a wait for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.training.distributed.test_distributed import processes
from training.distributed.group import Group
from training.distributed.world import World

LEAVE = """
import json, os, weakref
import torch.distributed as dist
from training.distributed.world import read_world
from training.distributed.group import join
num_threads = lambda: len(os.listdir("/proc/self/task"))
counts, destroy = {"alone": num_threads()}, dist.destroy_process_group
def destroy_and_look():
    counts["joined"], group = num_threads(), weakref.ref(dist.group.WORLD)
    destroy()
    counts["destroyed"], counts["groups"] = num_threads(), int(group() is not None)
dist.destroy_process_group = destroy_and_look
with join(read_world(), "gloo", "cpu"):
    pass
print(json.dumps(counts | {"left": num_threads()}))
"""


def test_the_group_does_not_end_gloos_threads(tmp_path: Path) -> None:
    """PyTorch 2.4 would keep Python's lock meanwhile, which one of them may wait for: some runs never ended."""
    with processes(tmp_path / "meet", [["-c", LEAVE]] * 2) as started:
        outputs = [process.communicate(timeout=60) for process in started]
    for output, said in outputs:
        counts = json.loads(output or said)
        assert counts["alone"] < counts["joined"] == counts["destroyed"]
        assert counts["groups"] == 0
        assert counts["left"] == counts["alone"]


@pytest.fixture
def one_of_two(tmp_path: Path) -> Iterator[Group]:
    """Be a process that believes in a second one."""
    store = dist.FileStore(str(tmp_path / "meet"), 1)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield Group(world=World(rank=0, local_rank=0, world_size=2), device=torch.device("cpu"))
    dist.destroy_process_group()


@pytest.mark.parametrize("is_compiled", [False, True])
def test_gradients_stay_here_until_the_last_part_of_a_batch(one_of_two: Group, is_compiled: bool) -> None:
    network = torch.nn.Linear(3, 1, bias=False)
    shared = one_of_two.share(network)
    assert isinstance(shared, DistributedDataParallel)
    forward: Any = torch.compile(shared, backend="eager") if is_compiled else shared
    for is_last in (False, False, True):
        with one_of_two.no_sync_until_last(forward, is_last=is_last):
            assert shared.require_backward_grad_sync == is_last
            forward(torch.ones(2, 3)).sum().backward()
    assert network.weight.grad is not None
    assert network.weight.grad.tolist() == [[6, 6, 6]]
