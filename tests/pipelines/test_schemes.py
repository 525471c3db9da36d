"""Channels are not alike: each is normalised by its own scheme, in every loader and in prediction."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader
from pipelines.reference import intensity_for, intensity_of, normalize
from preprocessing.console.errors import InputError
from preprocessing.layouts.dataset import scheme_of
from preprocessing.shards.store import Store, open_store
from preprocessing.to_shards import Options, convert
from preprocessing.volumes.image import read_images
from training.inference.inputs import prepare
from training.inference.sliding import to_input
from training.model.networks import InputGrid
from training.model.spec import ModelSpec

NAMES = ["CT", "PET", "zscore", "rescale_to_0_1", "noNorm"]
SCHEMES = ["ct", "zscore-nonzero", "zscore", "rescale-0-1", "none"]
SHAPES = [(22, 20, 18), (16, 26, 20), (12, 18, 24)]  # the last is thinner than a patch
PATCH = (16, 16, 16)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three cases with a channel of each scheme; the PET is empty outside a box, the CT is not."""
    root, random = tmp_path_factory.mktemp("mixed"), np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    for case, shape in enumerate(SHAPES):
        image = random.integers(1, 900, (*shape, len(NAMES))).astype(np.int16)
        image[..., 0] -= 1000
        image[:4, ..., 1] = 0
        image[random.random(shape) < 0.1] = 0  # every channel has zeros; what they mean differs
        label = np.zeros(shape, np.uint8)
        label[5:9, 5:9, 5:9] = 1
        for channel in range(len(NAMES)):
            save(image[..., channel], root / "imagesTr" / f"case{case}_{channel:04d}.nii")
        save(label, root / "labelsTr" / f"case{case}.nii")
    described = {"channel_names": {str(n): name for n, name in enumerate(NAMES)}, "file_ending": ".nii"}
    (root / "dataset.json").write_text(json.dumps(described | {"labels": {"background": 0, "x": 1}}))
    return root


def save(array: np.ndarray, path: Path) -> None:
    nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), np.eye(4)), path)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def store(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("store") / "shards"
    assert convert(Options(input=source, output=root, workers=1)) == 0
    return open_store(root)


def test_names_say_the_scheme() -> None:
    assert [scheme_of(name) for name in NAMES] == SCHEMES
    assert [scheme_of(name) for name in ("ct scan", "T1w", "FLAIR", "rgb_to_0_1")] == [
        *SCHEMES[:2],
        SCHEMES[1],
        SCHEMES[3],
    ]


def test_the_manifest_records_the_schemes_and_nothing_is_cropped(store: Store) -> None:
    assert store.manifest.channel_schemes == store.manifest.schemes == SCHEMES
    assert not store.manifest.options["crop_foreground"]
    assert [store.case(name).shape_dhw for name in store.case_ids] == SHAPES


def test_the_words_on_screen(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert convert(Options(input=source, output=tmp_path / "store", workers=1)) == 0
    said = ", ".join(f"{name} {scheme}" for name, scheme in zip(NAMES, SCHEMES, strict=True))
    assert f"each channel is normalised by its own scheme: {said}" in caplog.messages
    assert "CT is stored whole: 0 is water there, not background" in caplog.messages


def test_a_shard_of_other_schemes_is_not_taken_over(source: Path, tmp_path: Path) -> None:
    """Made before channels had schemes: whole, and yet with the statistics of MR."""
    options = Options(input=source, output=tmp_path / "store", workers=1, crop_foreground=False)
    assert convert(options) == 0
    (tmp_path / "store" / "manifest.json").unlink()
    index = tmp_path / "store" / "shard-00000" / "index.json"
    content = json.loads(index.read_text())
    assert content["made_from"].pop("schemes") == SCHEMES
    index.write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=r"shard-00000 was made by another version of voxelfeed; delete the shard folders"
    ):
        convert(options)


def wanted(store: Store, case_id: str) -> np.ndarray:
    """Normalise a whole case by the words of each scheme, float64 [D,H,W,C]."""
    image = store.case(case_id).image().astype(np.float64)
    pairs = [(store.case(name).image()[..., 0], store.case(name).label()) for name in store.case_ids]
    tissue = np.concatenate([ct[label[..., 0] > 0] for ct, label in pairs if label is not None]).astype(np.float64)
    low, high = store.manifest.channels[0].percentile_00_5, store.manifest.channels[0].percentile_99_5
    assert tissue.min() <= low < high <= tissue.max()
    ct = (np.clip(image[..., 0], low, high) - tissue.mean()) / tissue.std()
    filled = image[..., 1] != 0
    pet = np.where(filled, (image[..., 1] - image[..., 1][filled].mean()) / image[..., 1][filled].std(), 0)
    zscore = (image[..., 2] - image[..., 2].mean()) / image[..., 2].std()
    rescaled = (image[..., 3] - image[..., 3].min()) / np.ptp(image[..., 3])
    return np.stack([ct, pet, zscore, rescaled, image[..., 4]], axis=-1)


def test_each_channel_becomes_what_its_scheme_says(store: Store) -> None:
    for name in store.case_ids:
        case = store.case(name)
        made = normalize(case.image(), intensity_of(case, store.manifest), 1.0, 0.0)
        np.testing.assert_allclose(made, wanted(store, name), rtol=0, atol=2e-4)


@pytest.mark.parametrize("augment", ["none", "basic", "full"])
def test_the_graph_does_what_the_reference_does(store: Store, augment: str) -> None:
    config = LoaderConfig(store=Path(store.root), patch=PATCH, samples_per_case=4, num_workers=0, augment=augment)
    with build_loader("dali", config) as dali, build_loader("torch", config) as workers:
        for left, right in zip(dali, workers, strict=True):
            unit = torch.tensor([1.0, 1, 1, 1, 900])[:, None, None, None]  # the last is not normalised
            tolerance = 5e-3 if augment == "full" else 2e-5
            torch.testing.assert_close(left.image / unit, right.image / unit, rtol=0, atol=tolerance)


def test_monai_standardises_alike(store: Store) -> None:
    """Whole volumes, which no patch pads: each is the reference's up to MONAI's own order of adding up."""
    config = LoaderConfig(
        store=Path(store.root), patch=PATCH, batch_size=1, samples_per_case=1, num_workers=0, augment="none"
    )
    with build_loader("monai", config) as loader:
        batches = list(loader)
    assert len(batches) == 3
    for batch in batches:
        whole = wanted(store, batch.case_ids[0])
        if min(whole.shape[:3]) < PATCH[0]:
            continue
        found = batch.image[0].permute(1, 2, 3, 0).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(whole[..., 4], PATCH)
        places = np.argwhere(np.isclose(windows, found[..., 4], atol=1e-3).all(axis=(3, 4, 5)))
        d, h, w = places[0]
        np.testing.assert_allclose(found, whole[d : d + 16, h : h + 16, w : w + 16], rtol=0, atol=2e-4)


def test_prediction_prepares_files_as_the_store_was(store: Store, source: Path) -> None:
    spec = ModelSpec.from_plain(ModelSpec.of_store(store.manifest, "unet", InputGrid(patch=PATCH)).to_plain())
    for name in store.case_ids:
        files = [source / "imagesTr" / f"{name}_{channel:04d}.nii" for channel in range(len(NAMES))]
        image = prepare(read_images(files, NAMES, spec.convert_options), spec, 1.0)
        assert image.channels[1:] == store.case(name).entry.channels[1:]  # that of CT are the data set's
        intensity = intensity_for(spec.channel_schemes, image.channels, spec.channels)
        made = to_input(image.voxels, intensity, (1, 1, 1), torch.device("cpu"))[0].permute(1, 2, 3, 0)
        np.testing.assert_allclose(made, wanted(store, name), rtol=0, atol=2e-4)


def test_a_checkpoint_and_a_store_made_before_say_it_by_their_modality(store: Store) -> None:
    spec = ModelSpec.of_store(store.manifest, "unet", InputGrid(patch=PATCH))
    before = {name: value for name, value in spec.to_plain().items() if name != "schemes"}
    assert ModelSpec.from_plain(before).channel_schemes == ["zscore-nonzero"] * 5
    assert ModelSpec.from_plain(before | {"modality": "ct"}).channel_schemes == ["ct"] * 5
