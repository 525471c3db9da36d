"""Train for some steps from one loader on some processor cores, to compare with a loader that costs nothing."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measure import endless
from benchmarks.rows import Row
from pipelines.batch import Batch
from pipelines.loaders import LoaderBuilder, open_plan
from training.inference import ModelSpec
from training.losses import build_loss
from training.options import median_spacing
from training.precision import autocast, choose_amp
from training.recipes import build_optimizer

WARM = 8  # steps: the compute library chooses its kernels, the loader has read ahead


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """What to train, from which loader, and how long: ``runs`` times ``steps`` after the warm-up."""

    row: Row
    build: LoaderBuilder
    net: str
    num_cores: int
    steps: int
    runs: int
    worker_start_method: str


def train(task: TrainingTask) -> dict[str, Any]:
    """Return for each run patches/s and the share of the time spent waiting for a batch; meant for a fresh process.

    Each step ends with a synchronisation, as in ``training.run``, so what a batch makes the GPU wait for is seen.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.num_cores])
    multiprocessing.set_start_method(task.worker_start_method, force=True)  # a spawned process would spawn them
    torch.set_num_threads(task.num_cores)
    config = task.row.config
    device = torch.device("cuda" if config.device == "gpu" else "cpu")
    store, plan = open_plan(config)
    spec = ModelSpec.of_store(store.manifest, task.net, config.patch, median_spacing(store))
    network, loss = spec.build().to(device), build_loss("dice_ce", spec.task)
    optimizer, amp = build_optimizer("adamw", network, 1e-4, 0.0), choose_amp("auto", device)

    def step(batch: Batch) -> None:
        image, label = batch.image.to(device, non_blocking=True), batch.label.to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, amp):
            logits = network(image)
        loss(logits.float(), label).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    with task.build(store, plan, config, 0, 1) as loader:
        batches = endless(loader)
        for _ in range(WARM):
            step(next(batches))
        runs = []
        for _ in range(task.runs):
            begin, waited = time.perf_counter(), 0.0
            for _ in range(task.steps):
                asked = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asked
                step(batch)
            wall_s = time.perf_counter() - begin
            runs.append({"patches_per_s": task.steps * config.batch_size / wall_s, "waiting": waited / wall_s})
    peak = torch.cuda.max_memory_reserved() if device.type == "cuda" else 0
    return {"runs": runs, "gpu_memory_mb": peak / 1e6}
