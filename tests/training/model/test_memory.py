"""The memory of a step, computed before it is taken: against the peak of a process that takes it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from preprocessing.console.errors import InputError
from training.model.memory import check_memory, training_bytes
from training.model.networks import InputGrid, SegmentationTask
from training.model.recipes import PRESETS

TASK = SegmentationTask(in_channels=4, out_channels=4, has_regions=False)
PATCHES = {"fast": (48, 48, 64), "nnunet": (32, 64, 64), "article": (32, 96, 96)}
STEP = """
import json, sys
from pathlib import Path
import torch
from training.model.losses import build_loss
from training.model.networks import InputGrid, SegmentationTask, build_network
from training.model.recipes import PRESETS, build_optimizer
name, patch, batch = json.loads(sys.argv[1])
torch.set_num_threads(1)
preset, task = PRESETS[name], SegmentationTask(in_channels=4, out_channels=4, has_regions=False)
network = build_network(preset.net, task, InputGrid(patch=tuple(patch)))
loss, optimizer = build_loss(preset.loss, task), build_optimizer(preset.optimizer, network, 1e-3, 0.0)
image = torch.randn((batch, 4, *patch)).to(memory_format=torch.channels_last_3d)
label = torch.randint(0, 4, (batch, 1, *patch)).to(torch.uint8)
def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = kib("VmRSS")
for _ in range(2):
    optimizer.zero_grad(set_to_none=True)
    loss(network(image).float(), label).backward()
    optimizer.step()
print(1024 * (kib("VmHWM") - before))
"""


@pytest.mark.parametrize("preset", list(PRESETS))
def test_the_estimate_is_right_within_a_half_for_every_preset(preset: str) -> None:
    patch = PATCHES[preset]
    given = json.dumps([preset, patch, 2])
    done = subprocess.run([sys.executable, "-c", STEP, given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = training_bytes(PRESETS[preset].net, TASK, InputGrid(patch=patch), 2)
    assert 1 / 1.5 < said / int(done.stdout) < 1.5


def test_the_estimate_draws_nothing_and_grows_with_the_batch() -> None:
    before = torch.get_rng_state()
    one, four = (training_bytes("dynunet", TASK, InputGrid(patch=(64, 64, 64)), number) for number in (1, 4))
    assert 2 < four / one < 4
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_that_cannot_fit_is_refused_with_both_numbers() -> None:
    grid = InputGrid(patch=(1024, 1024, 1024))
    with pytest.raises(
        InputError, match=r"--patch 1024,1024,1024, 2 at a time: training dynunet needs about .* GiB, .*"
    ):
        check_memory("dynunet", TASK, grid, 2)
    check_memory("dynunet", TASK, InputGrid(patch=(16, 16, 16)), 1)
