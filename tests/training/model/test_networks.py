"""Networks and losses fit together, and nnU-Net's is laid out by patch and spacing."""

from __future__ import annotations

import pytest
import torch

from training.model.losses import LOSSES, build_loss
from training.model.networks import NETWORKS, InputGrid, SegmentationTask, build_network, nnunet_topology


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("has_regions", [True, False])
def test_networks_and_losses_fit_together(name: str, has_regions: bool) -> None:
    task = SegmentationTask(in_channels=2, out_channels=3, has_regions=has_regions)
    network = build_network(name, task, InputGrid(patch=(16, 32, 16), spacing_mm=(1.0, 1.0, 1.0)))
    image = torch.randn(2, 2, 16, 32, 16).to(memory_format=torch.channels_last_3d)
    highest = 1 if has_regions else 2
    label = torch.randint(0, highest + 1, (2, 3 if has_regions else 1, 16, 32, 16), dtype=torch.uint8)
    network.eval()
    logits = network(image)
    assert logits.shape == (2, 3, 16, 32, 16)
    deep = network.train()(image)
    one_hot = label if has_regions else torch.nn.functional.one_hot(label[:, 0].long(), 3).permute(0, 4, 1, 2, 3)
    exact = 20 * one_hot.float() - 10
    for loss in (build_loss(kind, task) for kind in LOSSES):
        assert loss(exact, label) < 0.01 < loss(logits, label)
        assert loss(exact[:, None].expand(-1, 2, -1, -1, -1, -1), label) < 0.01
        halves = [loss(deep[part], label[part]) for part in (slice(0, 1), slice(1, 2))]
        torch.testing.assert_close(torch.stack(halves).mean(), loss(deep, label))  # a mean over samples


@pytest.mark.parametrize(
    ("patch", "spacing", "kernels", "strides"),
    [
        (
            (16, 64, 64),
            (3.0, 1.0, 1.0),
            [(1, 3, 3), *[(3, 3, 3)] * 4],
            [(1, 1, 1), (1, 2, 2), *[(2, 2, 2)] * 2, (1, 2, 2)],
        ),
        ((128, 128, 128), (1.0, 1.0, 1.0), [(3, 3, 3)] * 6, [(1, 1, 1), *[(2, 2, 2)] * 5]),
        ((16, 16, 16), (1.0, 1.0, 1.0), [(3, 3, 3)] * 3, [(1, 1, 1), (2, 2, 2), (2, 2, 2)]),
        ((256, 256, 256), (1.0, 1.0, 1.0), [(3, 3, 3)] * 6, [(1, 1, 1), *[(2, 2, 2)] * 5]),
    ],
)
def test_nnunet_is_laid_out_by_patch_and_spacing(
    patch: tuple[int, int, int],
    spacing: tuple[float, float, float],
    kernels: list[tuple[int, ...]],
    strides: list[tuple[int, ...]],
) -> None:
    assert nnunet_topology(InputGrid(patch=patch, spacing_mm=spacing)) == (kernels, strides)
