"""The MONAI loaders beyond the contract of all loaders: their files, their cases, their caches, and the same work."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from benchmarks.contenders.table import TABLE
from benchmarks.measuring.check import Specification
from benchmarks.measuring.rows import Row
from pipelines.batch import Batch
from pipelines.config import LoaderConfig
from pipelines.loaders import MONAI, build_loader
from pipelines.reference import region_channels
from preprocessing.console.errors import InputError
from preprocessing.shards.files import write_manifest
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert
from tests.conftest import coordinate_image, coordinate_label
from tests.preprocessing.layouts.test_layout_files import write_nnunet

PATCH = (16, 20, 16)


def config_for(store: Path, **changes: object) -> LoaderConfig:
    settings: dict[str, object] = {"batch_size": 2, "samples_per_case": 2, "num_workers": 0}
    return LoaderConfig(store=store, patch=PATCH, **(settings | changes))  # type: ignore[arg-type]


def epoch_of(name: str, config: LoaderConfig, epoch: int = 0) -> list[Batch]:
    with build_loader(name, config) as loader:
        loader.set_epoch(epoch)
        return list(loader)


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    for one, other in zip(left, right, strict=True):
        assert one.case_ids == other.case_ids
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.label, other.label)


@pytest.fixture
def own_store(msd_folder: Path, tmp_path: Path) -> Path:
    """Convert a copy of the coordinate volumes, files and store for this test alone."""
    shutil.copytree(msd_folder, tmp_path / "msd")
    assert convert(Options(input=tmp_path / "msd", output=tmp_path / "shards", workers=1)) == 0
    return tmp_path / "shards"


def test_the_cases_are_the_plans(coordinate_store: Path) -> None:
    """Also those of a rank, and only those asked for."""
    chosen = ("case_001", "case_002", "case_004")
    config = config_for(coordinate_store, cases=chosen)
    with build_loader("monai-cache", config) as loader:
        batches = list(loader)
        planned = [[s.case_id for s in loader.plan.batch(0, step, loader.lanes)] for step in range(len(loader))]
    assert [batch.case_ids for batch in batches] == planned
    assert {case_id for batch in batches for case_id in batch.case_ids} == set(chosen)


@pytest.mark.parametrize("name", ["monai-cache", "monai-smartcache"])
def test_worker_processes_deliver_the_same(coordinate_store: Path, name: str) -> None:
    inline = epoch_of(name, config_for(coordinate_store))
    assert_same(epoch_of(name, config_for(coordinate_store, num_workers=2)), inline)


def test_all_but_smartcache_deliver_the_same(coordinate_store: Path) -> None:
    """It is one list of transforms and one seed, wherever the cached part is kept, but for the order of sums."""
    first, *others = (name for name in MONAI if name != "monai-smartcache")
    wanted = epoch_of(first, config_for(coordinate_store, augment="full"))
    for name in others:
        for one, other in zip(epoch_of(name, config_for(coordinate_store, augment="full")), wanted, strict=True):
            torch.testing.assert_close(one.image, other.image, rtol=1e-5, atol=1e-6)
            assert torch.equal(one.label, other.label)


def test_smartcache_meets_every_case_and_can_jump(coordinate_store: Path) -> None:
    config = config_for(coordinate_store)
    with build_loader("monai-smartcache", config) as loader:
        epochs = [list(loader) for _ in range(6)]
    held = [{case_id for batch in epoch for case_id in batch.case_ids} for epoch in epochs]
    assert all(len(cases) == 2 for cases in held)  # half of five
    assert set().union(*held) == set(open_store(coordinate_store).case_ids)
    assert_same(epoch_of("monai-smartcache", config, epoch=3), epochs[3])


def test_regions_are_made_of_the_same_labels(coordinate_store: Path) -> None:
    regions = list((open_store(coordinate_store).manifest.regions or {}).values())
    classes = epoch_of("monai-cache", config_for(coordinate_store))
    masks = epoch_of("monai-cache", config_for(coordinate_store, regions=True))
    for plain, joined in zip(classes, masks, strict=True):
        wanted = region_channels(plain.label.permute(0, 2, 3, 4, 1).numpy(), regions)
        np.testing.assert_array_equal(joined.label.permute(0, 2, 3, 4, 1).numpy(), wanted)


def test_patches_are_centred_on_labels_when_asked(coordinate_store: Path) -> None:
    """All voxels that are not within half a patch of the border can be centres; the label there decides."""
    for share, everywhere in ((1.0, True), (0.0, False)):
        config = LoaderConfig(
            store=coordinate_store, patch=(9, 9, 9), samples_per_case=8, num_workers=0, foreground=share
        )
        centres = [batch.label[:, 0, 4, 4, 4] > 0 for batch in epoch_of("monai-cache", config)]
        share_found = float(torch.cat(centres).float().mean())
        assert share_found > 0.85 if everywhere else share_found < 0.85


def test_ct_is_clipped_and_standardised_as_in_the_store(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "ct" / folder).mkdir(parents=True)
    generator, entries = np.random.default_rng(0), []
    for number in range(2):
        name = f"ct_{number}.nii.gz"
        label = (generator.random((20, 22, 24)) < 0.2).astype(np.uint8)
        image = generator.normal(100, 300, label.shape).astype(np.int16)
        for folder, voxels in (("imagesTr", image), ("labelsTr", label)):
            path = tmp_path / "ct" / folder / name
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)  # type: ignore[no-untyped-call]
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    described = {"name": "ct", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}}
    (tmp_path / "ct" / "dataset.json").write_text(json.dumps(described | {"training": entries, "test": []}))
    assert convert(Options(input=tmp_path / "ct", output=tmp_path / "shards", workers=1)) == 0
    row = Row(contender=TABLE["monai-cache"], config=config_for(tmp_path / "shards"))
    with row.contender.open(row.config) as loader:
        Specification(row).check_first(iter(loader), len(loader))


def test_channels_of_ct_have_ranges_of_their_own(own_store: Path) -> None:
    write_manifest(own_store, dataclasses.replace(open_store(own_store).manifest, modality="ct"))
    row = Row(contender=TABLE["monai"], config=config_for(own_store))
    with row.contender.open(row.config) as loader:
        Specification(row).check_first(iter(loader), len(loader))


def test_threads_that_fill_a_cache_read_every_channel_of_files_of_their_own(tmp_path: Path) -> None:
    shape = (8, 9, 10)
    volumes = {f"case_{n:03d}": (coordinate_image(shape, n), coordinate_label(shape)) for n in range(12)}
    source = write_nnunet(tmp_path / "set", dict(volumes))
    assert convert(Options(input=source, output=tmp_path / "shards", workers=1)) == 0
    config = LoaderConfig(store=tmp_path / "shards", patch=(8, 8, 8), num_workers=0, num_threads=6)
    for _ in range(5):
        assert all(batch.image.shape[1] == 4 for batch in epoch_of("monai-cache", config))


def test_files_that_are_gone_or_changed_are_named(own_store: Path) -> None:
    image = own_store.parent / "msd" / "imagesTr" / "case_003.nii.gz"
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    with pytest.raises(
        InputError, match=rf"case case_003: {image} has {len(content) + 1} bytes, it had {len(content)}"
    ):
        build_loader("monai-cache", config_for(own_store))
    image.unlink()
    with pytest.raises(InputError, match=f"case case_003: {image} is gone since .* was made; put it back, or convert"):
        build_loader("monai-cache", config_for(own_store))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing": [1.0, 1.0, 2.0]}, "was reoriented or resampled"),
        ({"orientation": "RAS"}, "was reoriented or resampled"),
    ],
)
def test_stores_that_are_not_the_files_are_refused(own_store: Path, changes: dict[str, object], message: str) -> None:
    manifest = open_store(own_store).manifest
    write_manifest(own_store, dataclasses.replace(manifest, options=manifest.options | changes))
    with pytest.raises(InputError, match=message):
        build_loader("monai-cache", config_for(own_store))
    (own_store / "source.json").unlink()
    with pytest.raises(InputError, match="does not say where its NIfTI files are"):
        build_loader("monai-cache", config_for(own_store))


def test_the_persistent_cache_is_removed(
    coordinate_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with build_loader("monai-persistent", config_for(coordinate_store)) as loader:
        next(iter(loader))
        (folder,) = tmp_path.iterdir()
        assert list(folder.glob("*.pt"))
    assert not list(tmp_path.iterdir())
