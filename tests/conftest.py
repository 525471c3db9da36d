"""Stores that many tests share: coordinate volumes, whose voxels tell where they come from."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

from preprocessing.to_shards import Options, convert

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what this machine lacks, saying so."""
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("data") and not REAL_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"needs the real volumes at {REAL_DATA}"))


def coordinate_image(shape_dhw: tuple[int, int, int], case: int) -> npt.NDArray[np.int16]:
    """Make an image [D,H,W,4] whose channels are 1 + depth, 1 + height, 1 + width and 1 + case of each voxel."""
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in shape_dhw), indexing="ij"), axis=-1)
    return np.concatenate([grid, np.full((*shape_dhw, 1), case)], axis=-1).astype(np.int16) + np.int16(1)


def coordinate_label(shape_dhw: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Make a label [D,H,W] of 0 to 3 that follows from the coordinates, so that pairing shows."""
    depth, height, width = np.meshgrid(*(np.arange(side) for side in shape_dhw), indexing="ij")
    return ((depth // 3 + 2 * (height // 5) + 3 * (width // 4)) % 4).astype(np.uint8)


def write_msd(root: Path, shapes_dhw: list[tuple[int, int, int]]) -> Path:
    """Write coordinate volumes as an MSD data set with BraTS label names."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    affine = np.diag([-1.0, -1.5, 2.0, 1.0])
    entries = []
    for number, shape in enumerate(shapes_dhw):
        name = f"case_{number:03d}.nii.gz"
        image = coordinate_image(shape, number).transpose(2, 1, 0, 3)
        label = coordinate_label(shape).transpose(2, 1, 0)
        nib.save(nib.Nifti1Image(image, affine), root / "imagesTr" / name)  # type: ignore[no-untyped-call]
        nib.save(nib.Nifti1Image(label, affine), root / "labelsTr" / name)  # type: ignore[no-untyped-call]
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    described = {
        "name": "coordinates",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": entries,
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


SHAPES = [(20, 24, 28), (26, 20, 22), (18, 18, 30), (21, 33, 19), (12, 40, 16)]


@pytest.fixture(scope="session")
def msd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an MSD data set of five coordinate volumes of different shapes."""
    return write_msd(tmp_path_factory.mktemp("msd"), SHAPES)


@pytest.fixture(scope="session")
def coordinate_store(msd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the same five cases to a shard store."""
    root = tmp_path_factory.mktemp("store") / "shards"
    assert convert(Options(input=msd_folder, output=root, workers=1, cases_per_shard=2)) == 0
    return root


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Name the folder of real volumes (marker ``data``)."""
    return REAL_DATA
