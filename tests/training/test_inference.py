"""Whole-volume prediction: mirroring is the average over flips, probabilities are probabilities."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from preprocessing.shards import open_store
from training.inference import ModelSpec, predict_logits, predict_volume, probabilities, where_to_blend
from training.networks import Geometry

PATCH = (16, 16, 16)


@pytest.fixture(scope="module")
def spec(coordinate_store: Path) -> ModelSpec:
    return ModelSpec.of_store(open_store(coordinate_store).manifest, "segresnet", Geometry(patch=PATCH))


@pytest.fixture(scope="module")
def network(spec: ModelSpec) -> torch.nn.Module:
    torch.manual_seed(0)
    return spec.build()


def test_mirroring_makes_the_prediction_flip_with_the_image(spec: ModelSpec, network: torch.nn.Module) -> None:
    image = torch.randn(1, 4, *PATCH, generator=torch.Generator().manual_seed(1))
    for axes in ((2,), (3, 4), (2, 3, 4)):
        plain, mirrored = (
            [predict_logits(network, seen, spec, 0.0, None, mirror=mirror) for seen in (image, image.flip(axes))]
            for mirror in (False, True)
        )
        back = [axis - 1 for axis in axes]
        torch.testing.assert_close(mirrored[1].flip(back), mirrored[0], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(plain[1].flip(back), plain[0], rtol=1e-2, atol=1e-2)


def test_mirroring_is_the_mean_of_eight_predictions(spec: ModelSpec, network: torch.nn.Module) -> None:
    image = torch.randn(1, 4, 20, 12, 18, generator=torch.Generator().manual_seed(2))
    ways = [[axis for axis, used in zip((2, 3, 4), f"{number:03b}", strict=True) if used == "1"] for number in range(8)]
    parts = [
        predict_logits(network, image.flip(axes), spec, 0.25, None).flip([axis - 1 for axis in axes]) for axes in ways
    ]
    mirrored = predict_logits(network, image, spec, 0.25, None, mirror=True)
    torch.testing.assert_close(mirrored, torch.stack(parts).mean(0), rtol=1e-4, atol=1e-5)


def test_probabilities_agree_with_the_labels(spec: ModelSpec, network: torch.nn.Module) -> None:
    image = torch.randn(1, 4, *PATCH, generator=torch.Generator().manual_seed(3))
    logits = predict_logits(network, image, spec, 0.0, None)
    assert torch.equal(probabilities(logits, spec) > 0.5, logits > 0)
    whole = (probabilities(logits, spec) > 0.5).any(0).numpy()
    assert ((predict_volume(network, image, spec, 0.0, None) > 0) == whole).all()
    classes = probabilities(logits, dataclasses.replace(spec, regions=None))
    torch.testing.assert_close(classes.sum(0), torch.ones(PATCH))


@pytest.mark.parametrize(
    ("shape", "num_maps", "expected"),
    [
        ((155, 240, 240), 3, "meta"),
        ((1000, 512, 512), 3, "cpu"),
        ((155, 240, 240), 105, "cpu"),
    ],
)
def test_maps_that_are_too_large_for_a_gpu_are_blended_on_the_host(
    shape: tuple[int, int, int], num_maps: int, expected: str
) -> None:
    image = torch.empty(1, 1, *shape, device="meta")
    assert where_to_blend(image, num_maps).type == expected


@pytest.mark.gpu
def test_maps_are_the_same_wherever_they_are_blended(
    spec: ModelSpec, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.randn(1, 4, 20, 24, 28, generator=torch.Generator().manual_seed(4)).cuda()
    on_gpu = copy.deepcopy(network).cuda()
    expected = predict_logits(on_gpu, image, spec, 0.25, None)
    monkeypatch.setattr("training.inference.MAPS_BYTES", 0)
    torch.testing.assert_close(predict_logits(on_gpu, image, spec, 0.25, None), expected, rtol=1e-3, atol=1e-3)
