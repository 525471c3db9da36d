"""Images on grids unlike those of the training set: counted, and brought to them and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from preprocessing.console.errors import InputError
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from tests.conftest import write_msd
from training.model.checkpoint import load_checkpoint, save_checkpoint
from training.model.grids import SeenGrids, code_of
from training.model.networks import InputGrid
from training.model.spec import ModelSpec
from training.options import Options as RunOptions
from training.predict import Options, predict
from training.run import train
from training.trainer.resolve import survey

SHAPE = (20, 22, 24)


def image_of(path: Path) -> Any:
    return nib.load(path)


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(image_of(path).dataobj)


def turned(source: Path, path: Path, code: str) -> Path:
    """Write an image with its axes in another order; nothing is where it was not."""
    image = image_of(source)
    wanted = nib.orientations.axcodes2ornt(tuple(code))  # type: ignore[no-untyped-call]
    steps = nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted)  # type: ignore[no-untyped-call]
    path.parent.mkdir(exist_ok=True)
    nib.save(image.as_reoriented(steps), path)
    return path


def doubled(source: Path, path: Path) -> Path:
    """Write an image with voxels half the size, each twice along every axis."""
    image = image_of(source)
    affine = image.affine.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= affine[:3, :3].sum(axis=1) / 2
    finer = np.asanyarray(image.dataobj).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(finer, affine), path)  # type: ignore[no-untyped-call]
    return path


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Options, Path]:
    """Make a checkpoint of random weights and one image of its training set, LAS with voxels of 1,1.5,2 mm."""
    source = write_msd(tmp_path / "set", [SHAPE] * 3)
    assert convert(ConvertOptions(input=source, output=tmp_path / "S", workers=1)) == 0
    store = open_store(tmp_path / "S")
    spec = ModelSpec.of_store(store.manifest, "segresnet", InputGrid(patch=(24, 24, 24)), survey(store)[1])
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "best.pt", {"model": spec.build().state_dict(), "spec": spec.to_plain()})
    image = source / "imagesTr" / "case_000.nii.gz"
    options = Options(checkpoint=tmp_path / "best.pt", input=image, output=tmp_path / "P", device="cpu")
    assert predict(options) == 0
    assert len(np.unique(voxels(options.output / image.name))) > 1
    return options, image


def test_a_training_set_is_summed_up(tmp_path: Path) -> None:
    source = write_msd(tmp_path / "set", [SHAPE] * 3)
    for folder in ("imagesTr", "labelsTr"):
        turned(source / folder / "case_002.nii.gz", source / folder / "case_002.nii.gz", "IPR")
    assert convert(ConvertOptions(input=source, output=tmp_path / "S", workers=1)) == 0
    store = open_store(tmp_path / "S")
    shape, seen = survey(store)
    assert shape == SHAPE
    assert seen.orientations == {"LPS": 2, "IPR": 1}
    assert (seen.spacing, seen.smallest, seen.largest) == ((1.0, 1.5, 2.0), (1.0, 1.5, 1.0), (2.0, 1.5, 2.0))
    spec = ModelSpec.of_store(store.manifest, "unet", InputGrid(patch=(16, 16, 16)), seen)
    assert ModelSpec.from_plain(spec.to_plain()) == spec


def test_images_like_those_of_the_training_set_are_not_remarked_on(
    trained: tuple[Options, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options, image = trained
    assert "unlike" not in caplog.text
    like = dataclasses.replace(options, output=tmp_path / "like", like_training=True)
    assert predict(like) == 0
    np.testing.assert_array_equal(voxels(tmp_path / "P" / image.name), voxels(tmp_path / "like" / image.name))


@pytest.mark.parametrize("code", ["RAS", "SPL", "PIR"])
def test_permuted_axes_are_counted_and_predicted_as_the_training_set_was(
    trained: tuple[Options, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    """The label is, voxel for voxel, that of the image whose axes were not turned."""
    options, image = trained
    for name in ("a", "b"):
        turned(image, tmp_path / "turned" / f"{name}.nii.gz", code)
    (tmp_path / "turned" / "c.nii.gz").write_bytes(image.read_bytes())
    asked = dataclasses.replace(options, input=tmp_path / "turned", output=tmp_path / "without")
    assert predict(asked) == 0
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert said.startswith(f"2 of 3 images are unlike the training set: orientation 2 {code} (trained on 3 LPS)")
    assert said.endswith("their labels may be wrong, try --like-training true")
    caplog.clear()
    assert predict(dataclasses.replace(asked, output=tmp_path / "with", like_training=True)) == 0
    assert "unlike" not in caplog.text
    wanted = turned(tmp_path / "P" / image.name, tmp_path / "wanted" / "a.nii.gz", code)
    made = tmp_path / "with" / "a.nii.gz"
    np.testing.assert_array_equal(voxels(made), voxels(wanted))
    np.testing.assert_allclose(image_of(made).affine, image_of(wanted).affine)
    assert not np.array_equal(voxels(tmp_path / "without" / "a.nii.gz"), voxels(wanted))


def test_another_voxel_size_is_counted_and_brought_to_the_training_sets(
    trained: tuple[Options, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options, image = trained
    fine = doubled(image, tmp_path / "fine" / "a.nii.gz")
    asked = dataclasses.replace(options, input=fine, output=tmp_path / "without")
    assert predict(asked) == 0
    assert "1 of 1 images are unlike the training set: voxels 1 of 0.5,0.75,1 mm (trained on 1,1.5,2 mm" in caplog.text
    assert predict(dataclasses.replace(asked, output=tmp_path / "with", like_training=True)) == 0
    made = tmp_path / "with" / "a.nii.gz"
    assert image_of(made).shape == image_of(fine).shape[:3]
    coarse = voxels(tmp_path / "P" / image.name).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert (voxels(made) == coarse).mean() > 0.9  # but for borders, which are interpolated
    assert (voxels(made) == coarse).mean() > (voxels(tmp_path / "without" / "a.nii.gz") == coarse).mean()


def test_a_checkpoint_that_does_not_say_its_grids_is_silent(
    trained: tuple[Options, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options, image = trained
    content = load_checkpoint(options.checkpoint)
    del content["spec"]["seen"]
    save_checkpoint(options.checkpoint, content)
    turned(image, tmp_path / "turned" / "a.nii.gz", "RAS")
    asked = dataclasses.replace(options, input=tmp_path / "turned", output=tmp_path / "Q")
    assert predict(asked) == 0
    assert "unlike" not in caplog.text
    with pytest.raises(InputError, match="this checkpoint does not say what its training set was like"):
        predict(dataclasses.replace(asked, like_training=True))


def test_a_run_of_an_earlier_version_goes_on(tiny_options: RunOptions, tmp_path: Path) -> None:
    options = dataclasses.replace(tiny_options, output=tmp_path / "run", epochs=1)
    assert train(options) == 0
    last = options.output / "checkpoints" / "last.pt"
    content = load_checkpoint(last)
    assert content["spec"].pop("seen")["orientations"] == {"LPS": 5}
    save_checkpoint(last, content)
    assert train(dataclasses.replace(options, epochs=2, resume="auto")) == 0
    assert load_checkpoint(last)["spec"]["seen"]["spacing"] == (1.0, 1.5, 2.0)


def test_a_store_is_taken_as_it_is(trained: tuple[Options, Path], tmp_path: Path) -> None:
    options, _ = trained
    with pytest.raises(InputError, match="S is a store, whose grids are fixed; give the NIfTI files"):
        predict(dataclasses.replace(options, input=tmp_path / "S", output=tmp_path / "Q", like_training=True))


def test_training_on_axes_that_run_in_several_ways_is_remarked_on(
    tiny_options: RunOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_msd(tmp_path / "set", [SHAPE] * 3)
    for folder in ("imagesTr", "labelsTr"):
        turned(source / folder / "case_001.nii.gz", source / folder / "case_001.nii.gz", "RAS")
    assert convert(ConvertOptions(input=source, output=tmp_path / "S", workers=1)) == 0
    options = dataclasses.replace(tiny_options, shards=tmp_path / "S", output=tmp_path / "run", epochs=1)
    assert train(options) == 0
    assert (
        "the cases' axes run in 2 ways (2 LPS, 1 RAS), and so does what the network sees; convert with" in caplog.text
    )


@pytest.mark.parametrize(
    ("affine", "code"),
    [(np.eye(4), "RAS"), (np.diag([-1.0, 1, 1]), "LAS"), (np.zeros((4, 4)), "none"), (np.diag([1.0, 1, 0, 1]), "none")],
)
def test_codes_of_affines(affine: np.ndarray, code: str) -> None:
    assert code_of(affine) == code


def test_a_side_within_a_quarter_of_the_range_is_like_the_training_set() -> None:
    seen = SeenGrids(orientations={"RAS": 1}, spacing=(1, 1, 2), smallest=(1, 1, 1), largest=(1, 1, 5))
    assert seen.strange_sides((1.2, 0.85, 6.0)) == (False, False, False)
    assert seen.strange_sides((1.3, 0.75, 7.0)) == (True, True, True)
