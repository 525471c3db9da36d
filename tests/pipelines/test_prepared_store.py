"""Images that were normalised before they came: delivered as they are, padded with zeros, augmented like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader
from preprocessing.console.errors import InputError
from preprocessing.conversion.prepared import WriterOptions, write_cases
from preprocessing.conversion.prepared_case import PreparedCase
from preprocessing.layouts.dataset import Dataset

IDS = ("a", "b", "c")
SHAPE = (10, 12, 14)


def image_of(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Make voxels with a mean and a deviation of their own, and some that are exactly zero."""
    values = np.random.default_rng(IDS.index(name)).normal(1, 3, (*SHAPE, 2)).astype(np.float32)
    values[2:4] = 0
    return values


def store_of(root: Path, dtype: str = "float32") -> Path:
    names = {0: "background", 1: "organ"}
    dataset = Dataset(
        name="prepared", root=root, channel_names=["T1", "T2"], label_names=names, modality="prepared", sources=[]
    )
    label = np.zeros((*SHAPE, 1), np.uint8)
    label[3:6, 3:6, 3:6] = 1
    cases = {name: lambda n=name: PreparedCase(case_id=n, image=image_of(n), label=label) for name in IDS}
    write_cases(root / dtype, dataset, cases, WriterOptions(dtype=dtype))
    return root / dtype


def config_for(store: Path, patch: tuple[int, int, int] = (8, 8, 16), augment: str = "none") -> LoaderConfig:
    return LoaderConfig(store=store, patch=patch, batch_size=1, augment=augment, device="cpu", num_workers=0)


@pytest.mark.parametrize("name", ["dali", "torch"])
@pytest.mark.parametrize(("dtype", "largest"), [("float32", 0.0), ("int16", 2.0**-11), ("float16", 2.0**-8)])
def test_numbers_are_delivered_as_they_were_given(tmp_path: Path, name: str, dtype: str, largest: float) -> None:
    with build_loader(name, config_for(store_of(tmp_path, dtype))) as loader:
        for batch in loader:
            first = batch.samples[0].position_dhw
            whole = np.pad(image_of(batch.case_ids[0]), [(0, 0), (0, 0), (1, 1), (0, 0)])
            d, h = (slice(start, start + side) for start, side in zip(first[:2], (8, 8), strict=True))
            found = batch.image[0].permute(1, 2, 3, 0).numpy()
            assert first[2] == -1
            assert np.abs(found - whole[d, h]).max() <= largest
            assert np.array_equal(found == 0, whole[d, h] == 0) or largest


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("augment", ["basic", "full"])
def test_augmentation_is_that_of_the_reference(tmp_path: Path, augment: str, dtype: str) -> None:
    config = config_for(store_of(tmp_path, dtype), (8, 8, 8), augment)
    with build_loader("dali", config) as fast, build_loader("torch", config) as plain:
        for epoch in range(3):
            fast.set_epoch(epoch)
            plain.set_epoch(epoch)
            for one, other in zip(fast, plain, strict=True):
                assert np.allclose(one.image, other.image, atol=2e-3)
                assert np.array_equal(one.label, other.label)


def test_loaders_of_files_say_that_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds arrays that were prepared elsewhere, this loader reads NIfTI files"):
        build_loader("monai", config_for(store_of(tmp_path)))
