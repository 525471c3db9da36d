"""Measure a loader inside the trainer's own step: how far from the ceiling it is, and how long the model waits."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import torch

from benchmarks.measuring.rows import Row
from pipelines.batch import Batch, Loader
from preprocessing.shards.store import open_store
from training.distributed.group import Group
from training.distributed.world import read_world
from training.model.compute import build_scaler, choose_amp, use_tensor_cores
from training.model.losses import build_loss
from training.model.networks import InputGrid
from training.model.recipes import PRESETS, build_optimizer, build_schedule
from training.model.spec import ModelSpec
from training.trainer.resolve import median_sizes
from training.trainer.state import RunSetup, TrainState
from training.trainer.step import take_step
from training.trainer.timing import StepTimer

WARM_UP_STEPS = {"cpu": 2, "cuda": 8}  # a GPU's library tries out kernels, and its loader reads further ahead
LEAST_STEPS = 3
ENDLESS = 1_000_000  # steps of the learning rate's schedule


def train(row: Row, net: str, loader: Loader, batches: Iterator[Batch], seconds: float) -> dict[str, float]:
    """Train ``net`` from scratch on the loader's ``batches`` for ``seconds``, after some steps that warm up.

    Returns the steps, patches/s, the share of the time in which the model waited for data and, on a GPU, how busy it
    was in percent and what all processes together hold in its memory.
    """
    setup, state = _prepare(row, net, loader)
    timer = StepTimer(loader.stages)
    state.network.train()
    busy: list[float] = []
    deadline = asked_at = 0.0
    timer.start()
    for number, batch in enumerate(batches, start=1 - WARM_UP_STEPS[setup.group.device.type]):
        timer.batch_arrived()
        take_step(batch, setup, state)
        timer.stepped()
        if number == 0:
            timer.take()
            deadline = time.perf_counter() + seconds
        elif time.perf_counter() >= asked_at + 1:  # the driver takes its time, which is timed as well
            busy += _gpu_utilisation()
            asked_at = time.perf_counter()
        if number >= LEAST_STEPS and time.perf_counter() >= deadline:
            break
    split = timer.take()
    figures = {
        "steps": split.steps,
        "patches_per_s": split.steps * row.config.batch_size / split.wall_s,
        "waiting": split.waiting,
    }
    if busy:
        figures["gpu_utilisation"] = statistics.fmean(busy)
    if row.config.device == "gpu":
        free, total = torch.cuda.mem_get_info()  # of everybody: DALI's memory is not torch's
        figures["gpu_memory_mb"] = (total - free) / 1e6
    return figures


def _prepare(row: Row, net: str, loader: Loader) -> tuple[RunSetup, TrainState]:
    """Build what the trainer's step works with, as a run of the fast preset with another network would."""
    store, preset = open_store(row.config.store), PRESETS["fast"]
    spec = ModelSpec.of_store(store.manifest, net, InputGrid(patch=row.config.patch, spacing_mm=median_sizes(store)[1]))
    spec = dataclasses.replace(spec, regions=None)  # the comparison's labels are class ids
    group = Group(world=read_world({}), device=torch.device("cpu" if row.config.device == "cpu" else "cuda"))
    use_tensor_cores(group.device)
    amp = choose_amp("auto", group.device)
    network = spec.build().to(group.device)
    optimizer = build_optimizer(preset.optimizer, network, preset.lr, preset.weight_decay)
    unused: dict[str, Any] = {"folder": Path(), "validation_cases": (), "epochs": 1, "val_every": 1, "options": {}}
    loss = build_loss(preset.loss, spec.task, spec.ignore_label)
    setup = RunSetup(store=store, spec=spec, group=group, amp=amp, loss=loss, accumulate=1, **unused)
    schedule = build_schedule(preset.schedule, optimizer, ENDLESS, preset.warmup_steps)
    shared: dict[str, Any] = {"network": network, "forward": network, "average": None, "optimizer": optimizer}
    state = TrainState(**shared, schedule=schedule, scaler=build_scaler(group.device, amp), loader=loader)
    return setup, state


def _gpu_utilisation() -> list[float]:
    """Ask the driver how busy the GPU has just been, in percent; nothing without a GPU, or on a slice of one."""
    try:
        return [float(torch.cuda.utilization())] if torch.cuda.is_available() else []
    except pynvml.NVMLError:
        return []
