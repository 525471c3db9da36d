"""Registers a real group of processes, gloo's, under SMDDP's name, as importing SageMaker's library does.

Like SMDDP it makes one group and no second one beside it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

_made: list[str] = []


def _make(store: Any, rank: int, world_size: int, timeout: timedelta) -> dist.ProcessGroupGloo:
    if _made:
        raise RuntimeError("smddp has one group, which is there already")
    _made.append("smddp")
    return dist.ProcessGroupGloo(store, rank, world_size, timeout)


dist.Backend.register_backend("smddp", _make, devices=["cpu"])
