"""The plan's samples against MONAI's own transforms with the same parameters, on MR-like volumes and a real case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    Flipd,
    NormalizeIntensityd,
    ScaleIntensityd,
    ShiftIntensityd,
    SpatialCropd,
    SpatialPadd,
)

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader
from pipelines.plan import Sample
from preprocessing.shards.case import Case
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert
from preprocessing.volumes.grid import Int3
from tests.conftest import write_msd

KEYS = ["image", "label"]
LOADERS = ["dali", "torch"]


def whole_case(case: Case) -> dict[str, torch.Tensor]:
    """Return image and label as MONAI takes them: [C,D,H,W]."""
    label = case.label()
    assert label is not None
    volumes = {"image": np.array(case.image(), np.float32), "label": np.array(label)}
    return {name: torch.from_numpy(volume).permute(3, 0, 1, 2) for name, volume in volumes.items()}


def cut_as(sample: Sample, patch: Int3) -> list[Any]:
    """List MONAI's transforms that cut and flip as the plan says; a volume smaller than the patch is padded first."""
    start = [max(first, 0) for first in sample.position_dhw]
    axes = [axis for axis, reverse in enumerate(sample.flips_dhw) if reverse]
    return [
        SpatialPadd(KEYS, spatial_size=patch),
        SpatialCropd(KEYS, roi_start=start, roi_end=np.add(start, patch).tolist()),
        Flipd(KEYS, spatial_axis=axes),
    ]


def made_by_monai(case: Case, sample: Sample, patch: Int3) -> dict[str, torch.Tensor]:
    """Standardise the whole volume, then cut, flip, scale and shift the patch."""
    steps = [
        NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        *cut_as(sample, patch),
        ScaleIntensityd("image", minv=None, maxv=None, factor=sample.scale - 1),
        ShiftIntensityd("image", offset=sample.shift),
    ]
    made: dict[str, torch.Tensor] = Compose(steps)(whole_case(case))
    return made


def assert_parity(config: LoaderConfig, loader_name: str) -> set[tuple[bool, bool, bool]]:
    """Compare every sample of an epoch; returns the flips that were seen."""
    store, seen = open_store(config.store), set()
    with build_loader(loader_name, config) as loader:
        for batch in loader:
            for image, label, sample in zip(batch.image, batch.label, batch.samples, strict=True):
                case = store.case(sample.case_id)
                wanted = made_by_monai(case, sample, config.patch)
                torch.testing.assert_close(image, wanted["image"].as_subclass(torch.Tensor), rtol=1e-5, atol=1e-5)
                assert torch.equal(label, wanted["label"].as_subclass(torch.Tensor))
                raw = Compose(cut_as(sample, config.patch))(whole_case(case))["image"].as_subclass(torch.Tensor)
                assert torch.equal(undone(image, case, sample)[raw != 0], raw[raw != 0])
                assert (image[raw == 0] == np.float32(sample.shift)).all()
                seen.add(sample.flips_dhw)
    return seen


def undone(image: torch.Tensor, case: Case, sample: Sample) -> torch.Tensor:
    """Return the whole numbers that lay under a patch before it was standardised, for cuts and flips to be exact."""
    mean, std = (torch.from_numpy(row)[:, None, None, None].double() for row in (case.channel_mean, case.channel_std))
    return ((image.double() - sample.shift) / sample.scale * std + mean).round().float()


@pytest.fixture(scope="module")
def brain_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert three volumes of noisy tissue in empty space, int16, each channel on its own scale."""
    root, generator = tmp_path_factory.mktemp("brains"), np.random.default_rng(0)
    shapes = [(30, 34, 28), (26, 20, 40), (18, 36, 24)]
    folder = write_msd(root / "msd", shapes)
    for number, (depth, height, width) in enumerate(shapes):
        tissue = generator.normal([300, 900, 60, 2000], [80, 150, 40, 300], (width, height, depth, 4))
        grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in tissue.shape[:3]), indexing="ij"))
        tissue[(grid**2).sum(axis=0) > 1] = 0
        path = folder / "imagesTr" / f"case_{number:03d}.nii.gz"
        affine = nib.load(path).affine  # type: ignore[attr-defined]
        nib.save(nib.Nifti1Image(tissue.astype(np.int16), affine), path)  # type: ignore[no-untyped-call]
    assert convert(Options(input=folder, output=root / "store", workers=1)) == 0
    return root / "store"


@pytest.mark.parametrize("loader_name", LOADERS)
@pytest.mark.parametrize("patch", [(16, 12, 20), (32, 16, 24)], ids=["inside", "padded"])
def test_basic_is_monais_normalise_crop_flip_scale_and_shift(brain_store: Path, patch: Int3, loader_name: str) -> None:
    config = LoaderConfig(store=brain_store, patch=patch, samples_per_case=4, num_workers=0)
    assert len(assert_parity(config, loader_name)) > 3


@pytest.mark.data
@pytest.mark.parametrize("loader_name", LOADERS)
def test_basic_is_monais_on_a_real_case(real_brats: Path, loader_name: str) -> None:
    case_id = open_store(real_brats).labelled_ids[0]
    config = LoaderConfig(store=real_brats, patch=(96, 96, 96), cases=(case_id,), samples_per_case=2, num_workers=0)
    assert len(assert_parity(config, loader_name)) > 1


@pytest.fixture(scope="module")
def real_brats(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the real BraTS cases."""
    store = tmp_path_factory.mktemp("real") / "store"
    assert convert(Options(input=real_data / "Task01_BrainTumour", output=store, workers=1)) == 0
    return store
