"""Leaving a group of processes so that it cannot become a wait for ever."""

from __future__ import annotations

import json
from pathlib import Path

from tests.training.test_distributed import processes

LEAVE = """
import json, os, weakref
import torch.distributed as dist
from training.distributed import read_world
from training.group import join
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
