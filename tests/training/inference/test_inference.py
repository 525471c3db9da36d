"""Whole-volume prediction: what the network sees is what training shows it, mirroring is the average over flips."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader
from pipelines.reference import intensity_of
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert
from tests.conftest import write_msd
from training.inference.decode import decode, probabilities
from training.inference.sliding import Sliding, predict_logits, to_input, volume_logits, where_to_blend
from training.model.networks import InputGrid
from training.model.spec import ModelSpec

PATCH = (16, 16, 16)


def sliding(overlap: float, mirror: bool = False) -> Sliding:
    return Sliding(overlap=overlap, amp=None, mirror=mirror)


@pytest.fixture(scope="module")
def spec(coordinate_store: Path) -> ModelSpec:
    return ModelSpec.of_store(open_store(coordinate_store).manifest, "segresnet", InputGrid(patch=PATCH))


@pytest.fixture(scope="module")
def network(spec: ModelSpec) -> torch.nn.Module:
    torch.manual_seed(0)
    return spec.build()


def test_mirroring_makes_the_prediction_flip_with_the_image(spec: ModelSpec, network: torch.nn.Module) -> None:
    image = torch.randn(1, 4, *PATCH, generator=torch.Generator().manual_seed(1))
    for axes in ((2,), (3, 4), (2, 3, 4)):
        plain, mirrored = (
            [predict_logits(network, seen, spec, sliding(0.0, mirror)) for seen in (image, image.flip(axes))]
            for mirror in (False, True)
        )
        back = [axis - 1 for axis in axes]
        torch.testing.assert_close(mirrored[1].flip(back), mirrored[0], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(plain[1].flip(back), plain[0], rtol=1e-2, atol=1e-2)


def test_mirroring_is_the_mean_of_eight_predictions(spec: ModelSpec, network: torch.nn.Module) -> None:
    image = torch.randn(1, 4, 20, 12, 18, generator=torch.Generator().manual_seed(2))
    ways = [[axis for axis, used in zip((2, 3, 4), f"{number:03b}", strict=True) if used == "1"] for number in range(8)]
    parts = [
        predict_logits(network, image.flip(axes), spec, sliding(0.25)).flip([axis - 1 for axis in axes])
        for axes in ways
    ]
    mirrored = predict_logits(network, image, spec, sliding(0.25, mirror=True))
    torch.testing.assert_close(mirrored, torch.stack(parts).mean(0), rtol=1e-4, atol=1e-5)


def test_probabilities_agree_with_the_labels(spec: ModelSpec, network: torch.nn.Module) -> None:
    image = torch.randn(1, 4, *PATCH, generator=torch.Generator().manual_seed(3))
    logits = predict_logits(network, image, spec, sliding(0.0))
    of_regions = probabilities(logits.clone(), spec)
    assert torch.equal(of_regions > 0.5, logits > 0)
    assert ((decode(logits.numpy(), spec) > 0) == (of_regions > 0.5).any(0).numpy()).all()
    classes = probabilities(logits.clone(), dataclasses.replace(spec, regions=None))
    torch.testing.assert_close(classes, logits.softmax(0))


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
    expected = predict_logits(on_gpu, image, spec, sliding(0.25))
    monkeypatch.setattr("training.inference.sliding.MAPS_BYTES", 0)
    torch.testing.assert_close(predict_logits(on_gpu, image, spec, sliding(0.25)), expected, rtol=1e-3, atol=1e-3)


class Same(torch.nn.Module):
    """Returns what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.weight


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_a_small_volume_is_padded_as_training_pads_it(tmp_path: Path, modality: str) -> None:
    """Raw zeros around it: in a CT these are water, far from the mean of what is labelled."""
    shapes = [(9, 24, 14), (17, 15, 16)]
    folder = write_msd(tmp_path / "set", shapes)
    described = json.loads((folder / "dataset.json").read_text())
    if modality == "ct":
        described["modality"] = {str(number): f"CT{number}" for number in range(4)}
    (folder / "dataset.json").write_text(json.dumps(described))
    assert convert(Options(input=folder, output=tmp_path / "store", workers=1, crop_foreground=False)) == 0
    store = open_store(tmp_path / "store")
    assert store.manifest.modality == modality
    spec = ModelSpec.of_store(store.manifest, "segresnet", InputGrid(patch=PATCH))
    config = LoaderConfig(store=store.root, patch=PATCH, batch_size=1, augment="none", device="cpu")
    with build_loader("dali", config) as loader:
        for batch in loader:
            (sample,), case = batch.samples, store.case(batch.case_ids[0])
            whole = case.image(), intensity_of(case, store.manifest)
            seen = to_input(*whole, PATCH, torch.device("cpu"))
            d, h, w = (max(start, 0) for start in sample.position_dhw)
            torch.testing.assert_close(seen[..., d : d + 16, h : h + 16, w : w + 16], batch.image, rtol=1e-5, atol=1e-5)
            assert seen.is_contiguous(memory_format=torch.channels_last_3d)
            made = volume_logits(Same(), *whole, spec, sliding(0.0))
            for axis, (size, start) in enumerate(zip(case.shape_dhw, sample.position_dhw, strict=True), start=2):
                seen = seen.narrow(axis, max(-start, 0), size)
            torch.testing.assert_close(made, seen[0])
