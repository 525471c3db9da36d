"""Presets, optimisers and schedules."""

from __future__ import annotations

import itertools

import pytest
import torch

from training.model.losses import LOSSES
from training.model.networks import NETWORKS
from training.model.recipes import OPTIMIZERS, PRESETS, SCHEDULES, build_optimizer, build_schedule


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_schedules_warm_up_and_end_at_zero(name: str) -> None:
    network = torch.nn.Linear(1, 1)
    optimizer = build_optimizer("adamw", network, 1.0, 0.0)
    schedule = build_schedule(name, optimizer, total_steps=100, warmup_steps=10)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in (9, 10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_go_downhill(name: str) -> None:
    network = torch.nn.Linear(3, 1)
    optimizer = build_optimizer(name, network, 1e-3, 0.0)
    image = torch.eye(3)
    losses = []
    for _ in range(20):
        loss = (network(image) - 1).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


def test_presets_name_what_there_is() -> None:
    for preset in PRESETS.values():
        assert preset.net in NETWORKS
        assert preset.loss in LOSSES
        assert preset.optimizer in OPTIMIZERS
        assert preset.schedule in SCHEDULES
