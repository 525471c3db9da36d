"""Predictions lie on the grid of their image, and a label survives the way through shards and back."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch

from preprocessing.console.errors import InputError
from preprocessing.layouts.images import find_images
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from preprocessing.volumes.geometry import restore_to_source
from preprocessing.volumes.image import Image
from preprocessing.volumes.nifti import read_nifti
from preprocessing.volumes.statistics import ChannelStatistics
from tests.conftest import SHAPES
from tests.preprocessing.console.test_folder_lock import held_by_another
from training.inference.decode import Scores, decode
from training.inference.inputs import prepare
from training.inference.outputs import describe, save_label
from training.inference.predictor import Predictor
from training.inference.sliding import Sliding
from training.model.checkpoint import save_checkpoint
from training.model.networks import InputGrid
from training.model.spec import ModelSpec
from training.predict import Options, predict
from training.trainer.record import read_run

PEAK = """
import json, sys
from pathlib import Path
import numpy as np, torch
from preprocessing.volumes.image import Image
from preprocessing.volumes.geometry import Geometry as Grid
from preprocessing.volumes.statistics import ChannelStatistics
from training.model.spec import ModelSpec
from training.model.networks import InputGrid
from training.inference.predictor import Predictor
from training.inference.sliding import Sliding
torch.set_num_threads(1)
CHANNELS = [ChannelStatistics(voxels=1, mean=0.0, std=1.0, percentile_00_5=0.0, percentile_99_5=1.0)]
def peak_bytes(side, mirror):
    shape = (side, side, side)
    spec = ModelSpec(
        net="", geometry=InputGrid(patch=(32, 32, 32)), channel_names=["T1"],
        label_names={number: str(number) for number in range(8)}, modality="mr", channels=CHANNELS,
        regions=None, crop_foreground=True,
    )
    how = Sliding(overlap=0.0, amp=None, mirror=mirror)
    predictor = Predictor(network=torch.nn.Conv3d(1, 8, 1), spec=spec, how=how)
    grid = Grid(file_shape_dhw=shape, file_affine=np.eye(4).tolist())
    image = Image(
        voxels=np.ones((*shape, 1), np.uint8), geometry=grid, origin_dhw=(0, 0, 0), source_shape_dhw=shape,
        channels=CHANNELS, max_abs_error=0, nonfinite_voxels=0,
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, = (int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
    predictor.predict(image)
    after, = (int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return 1024 * (after - before), predictor.needed_bytes(image)
peak_bytes(64, False)
print(json.dumps([peak_bytes(128, mirror) for mirror in (False, True)]))
"""


def load(path: Path) -> Any:
    return nib.load(path)


def voxels(path: Path) -> npt.NDArray[np.uint8]:
    return np.asanyarray(load(path).dataobj)


def assert_same_grid(prediction: Path, source: Path) -> None:
    """Compare shape, affine, codes and voxel sizes; labels are uint8 and not rescaled."""
    made, image = load(prediction), load(source)
    assert made.shape == image.shape[:3]
    np.testing.assert_array_equal(made.affine, image.affine)
    np.testing.assert_array_equal(made.header.get_zooms(), image.header.get_zooms()[:3])
    for name in ("qform_code", "sform_code"):
        assert made.header[name] == image.header[name]
    assert made.header.get_xyzt_units()[0] == image.header.get_xyzt_units()[0]
    assert made.get_data_dtype() == np.uint8


def options_for(tiny_run: Path, images: Path, output: Path) -> Options:
    return Options(checkpoint=tiny_run / "checkpoints" / "best.pt", input=images, output=output, device="cpu")


def test_predictions_lie_on_the_grid_of_their_image(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    assert predict(options_for(tiny_run, msd_folder / "imagesTr", tmp_path / "P")) == 0
    images = sorted((msd_folder / "imagesTr").iterdir())
    assert len(images) == 5
    for image in images:
        assert_same_grid(tmp_path / "P" / image.name, image)
    found = {int(number) for path in tmp_path.glob("P/*.gz") for number in np.unique(voxels(path))}
    assert found <= {0, 1, 2, 3}
    assert len(found) > 1


def test_one_file_gives_what_the_folder_gives(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    image = sorted((msd_folder / "imagesTr").iterdir())[2]
    predict(options_for(tiny_run, msd_folder / "imagesTr", tmp_path / "all"))
    predict(options_for(tiny_run, image, tmp_path / "one"))
    one, other = (voxels(tmp_path / part / image.name) for part in ("one", "all"))
    np.testing.assert_array_equal(one, other)


def test_bad_volumes_are_named_and_the_others_predicted(
    tiny_run: Path, msd_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = shutil.copytree(msd_folder / "imagesTr", tmp_path / "images")
    cut = images / "case_001.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-200])
    nib.save(nib.Nifti1Image(np.ones((16, 16, 16), np.int16), np.eye(4)), images / "case_002.nii.gz")  # type: ignore[no-untyped-call]
    with caplog.at_level(logging.INFO):
        assert predict(options_for(tiny_run, images, tmp_path / "P")) == 3
    assert "refused case case_001" in caplog.text
    assert "case_002.nii.gz has 1 channels, there should be 4 (FLAIR, T1w, t1gd, T2w)" in caplog.text
    assert sorted(p.name for p in tmp_path.glob("P/*.gz")) == [f"case_00{n}.nii.gz" for n in (0, 3, 4)]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 70.00 GiB.\nGPU 0 has"),
            "out of GPU memory (CUDA out of memory. Tried to allocate 70.00 GiB.); use --device cpu",
        ),
        (np.empty, "out of memory (Unable to allocate 1.00 EiB for an array"),
        (torch.empty, "out of memory (can't allocate memory: you tried to allocate 1152921504606846976 bytes"),
    ],
)
def test_a_volume_that_memory_cannot_hold_is_named_and_the_others_predicted(
    tiny_run: Path,
    msd_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception | Callable[..., Any],
    said: str,
) -> None:
    class Limited(Predictor):
        """A network on a machine that holds volumes of up to 30 voxels a side."""

        def scores(self, image: Image, beside_bytes: int = 0) -> Iterator[Scores]:
            if max(image.source_shape_dhw) > 30:
                if isinstance(error, Exception):
                    raise error
                error(2**60, dtype=torch.uint8 if error is torch.empty else np.uint8)
            return super().scores(image, beside_bytes)

    monkeypatch.setattr("training.predict.Predictor", Limited)
    with caplog.at_level(logging.INFO):
        assert predict(options_for(tiny_run, msd_folder / "imagesTr", tmp_path / "P")) == 3
    assert f"refused case case_003: {said}" in caplog.text
    assert sorted(p.name for p in tmp_path.glob("P/*.gz")) == [f"case_00{n}.nii.gz" for n in (0, 1, 2)]


def test_a_volume_whose_maps_do_not_fit_is_refused_before_it_is_predicted(
    tiny_run: Path, msd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A voxel of 4 channels and 3 maps takes 4 bytes each for 8 numbers, and for 4 more on the way back."""
    largest = max(math.prod(shape) for shape in SHAPES)
    monkeypatch.setattr("training.inference.predictor.free_bytes", lambda _: 4 * (8 + 4) * largest - 1)
    with caplog.at_level(logging.INFO):
        assert predict(options_for(tiny_run, msd_folder / "imagesTr", tmp_path / "P")) == 3
    (refused,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert re.fullmatch(
        r"refused case case_000: 3 maps of 20,24,28 voxels \(D,H,W\) need about 0.0006 GiB of memory, 0.0006 GiB are "
        "free; end other programs, take a larger machine, or cut the image into parts",
        refused,
    )
    assert len(list(tmp_path.glob("P/*.gz"))) == 4


def test_predicting_needs_no_more_memory_than_it_says() -> None:
    """The peak of a process of its own; a network of one convolution has hardly any activations."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for peak_bytes, said_bytes in json.loads(done.stdout):
        assert 0.7 * said_bytes < peak_bytes < 1.1 * said_bytes


def test_a_folder_without_volumes_says_where_to_look(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no .nii.gz or .nii file in it; did you mean .*imagesTr"):
        predict(options_for(tiny_run, msd_folder, tmp_path / "P"))
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        find_images(Path("nowhere"))
    with pytest.raises(InputError, match="no such checkpoint"):
        predict(options_for(tmp_path, msd_folder / "imagesTr", tmp_path / "P"))
    options = options_for(tiny_run, msd_folder / "imagesTr", tmp_path / "P")
    with pytest.raises(InputError, match="--overlap 2"):
        predict(dataclasses.replace(options, overlap=2.0))


def spec_of(store: Path, patch: tuple[int, int, int]) -> ModelSpec:
    return ModelSpec.of_store(open_store(store).manifest, "unet", InputGrid(patch=patch))


@pytest.mark.parametrize("has_regions", [True, False])
def test_decode_paints_regions_from_large_to_small(coordinate_store: Path, has_regions: bool) -> None:
    spec = spec_of(coordinate_store, (16, 16, 16))
    spec = spec if has_regions else dataclasses.replace(spec, regions=None)
    true = torch.randint(0, 4, (5, 6, 7), generator=torch.Generator().manual_seed(0))
    if has_regions:
        masks = [sum((true == number) for number in numbers) for numbers in ((1, 2, 3), (2, 3), (3,))]
        logits = torch.stack([mask.float() * 2 - 1 for mask in masks])  # type: ignore[union-attr]
    else:
        logits = torch.nn.functional.one_hot(true, 4).permute(3, 0, 1, 2).float()
    np.testing.assert_array_equal(decode(logits.numpy(), spec), true.numpy())


def test_a_border_between_voxels_of_a_coarser_grid_is_not_lost(tmp_path: Path) -> None:
    """The network sees voxels of 1.5,1.5,2.0 mm; an oblique border is where it is on the 1 mm grid of the file."""
    d, h, w = np.indices((24, 27, 30))
    true = 2 * d + h + w > 50
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    image = nib.Nifti1Image(np.where(true, 200, 100).astype(np.int16).transpose(2, 1, 0), affine)  # type: ignore[no-untyped-call]
    nib.save(image, tmp_path / "a.nii")
    network = torch.nn.Conv3d(1, 2, 1)
    with torch.no_grad():  # the probability of label 1 is one half where the image is half-way
        network.weight.copy_(torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1, 1))
        network.bias.copy_(torch.tensor([0.0, 2.0 * (true.mean() - 0.5) / true.std()]))  # type: ignore[union-attr]
    statistics = ChannelStatistics(voxels=1, mean=0.0, std=1.0, percentile_00_5=0.0, percentile_99_5=1.0)
    spec = ModelSpec(
        net="", geometry=InputGrid(patch=(16, 16, 16)), channel_names=["T1"],
        label_names={0: "background", 1: "half"}, modality="mr", channels=[statistics],
        regions=None, crop_foreground=True, spacing=(1.5, 1.5, 2.0),
    )  # fmt: skip
    predictor = Predictor(network=network, spec=spec, how=Sliding(overlap=0.25, amp=None))
    predicted = predictor.predict(prepare([read_nifti(tmp_path / "a.nii")], spec, 1)).transpose(2, 1, 0) == 1
    assert (predicted != true).mean() < 0.01  # deciding on the coarse grid first gets 1.6 % wrong


def label_through_shards(store: Path, case_id: str, source: Path, output: Path) -> npt.NDArray[np.uint8]:
    case = open_store(store).case(case_id)
    label = case.label()
    assert label is not None
    whole = restore_to_source(label[..., 0], case.origin_dhw, case.source_shape_dhw)
    save_label(output, whole.view(np.uint8), read_nifti(source).header)
    return voxels(output)


def test_a_label_survives_shards_and_back(msd_folder: Path, coordinate_store: Path, tmp_path: Path) -> None:
    for image in (msd_folder / "imagesTr").iterdir():
        case_id = image.name.removesuffix(".nii.gz")
        made = label_through_shards(coordinate_store, case_id, image, tmp_path / image.name)
        np.testing.assert_array_equal(made, voxels(msd_folder / "labelsTr" / image.name))
        assert_same_grid(tmp_path / image.name, image)


@pytest.mark.data
def test_real_volumes_predict_on_their_own_grid(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "Task01_BrainTumour"
    assert convert(ConvertOptions(input=source, output=tmp_path / "S")) == 0
    spec = spec_of(tmp_path / "S", (64, 64, 64))
    checkpoint = {"model": spec.build().state_dict(), "spec": spec.to_plain()}
    save_checkpoint(tmp_path / "checkpoints" / "best.pt", checkpoint)
    image = source / "imagesTr" / "BRATS_001.nii.gz"
    assert predict(dataclasses.replace(options_for(tmp_path, image, tmp_path / "P"), overlap=0.0)) == 0
    assert_same_grid(tmp_path / "P" / image.name, image)
    for path in sorted((source / "imagesTr").iterdir()):
        made = label_through_shards(tmp_path / "S", path.name.removesuffix(".nii.gz"), path, tmp_path / path.name)
        np.testing.assert_array_equal(made, voxels(source / "labelsTr" / path.name))


def split_channels(source: Path, folder: Path, names: list[str]) -> None:
    """Write each channel of a 4D file under one of ``names`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    image = load(source)
    for channel, name in enumerate(names):
        one = nib.Nifti1Image(np.asanyarray(image.dataobj)[..., channel], image.affine)  # type: ignore[no-untyped-call]
        nib.save(one, folder / name)


def test_one_file_per_channel_predicts_what_one_file_predicts(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    image = sorted((msd_folder / "imagesTr").iterdir())[2]
    predict(options_for(tiny_run, image, tmp_path / "whole"))
    wanted = voxels(tmp_path / "whole" / image.name)
    assert wanted.any()
    split_channels(image, tmp_path / "nnunet", [f"one_{n:04d}.nii.gz" for n in range(4)])
    split_channels(image, tmp_path / "brats" / "one", [f"one_{kind}.nii" for kind in ("flair", "t1", "t1ce", "t2")])
    files = [f"{n}.nii.gz" for n in range(4)]
    split_channels(image, tmp_path / "files", files)
    columns = {"T2w": 3, "t1gd": 2, "t1": 1, "FLAIR": 0}  # in another order than the checkpoint's, one named otherwise
    rows = [",".join(["id", *columns]), ",".join(["one", *(files[n] for n in columns.values())])]
    (tmp_path / "files" / "cases.csv").write_text("\n".join(rows))
    for source in ("nnunet", "brats", "brats/one", "files/cases.csv"):
        assert predict(options_for(tiny_run, tmp_path / source, tmp_path / "P")) == 0
        np.testing.assert_array_equal(voxels(tmp_path / "P" / "one.nii.gz"), wanted)
        (tmp_path / "P" / "one.nii.gz").unlink()


def test_cases_that_lack_a_channel_are_named(
    tiny_run: Path, msd_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = sorted((msd_folder / "imagesTr").iterdir())[2]
    for name in ("one", "two"):
        split_channels(image, tmp_path / "nnunet", [f"{name}_{n:04d}.nii.gz" for n in range(4)])
        split_channels(
            image, tmp_path / "brats" / name, [f"{name}_{kind}.nii" for kind in ("flair", "t1", "t1ce", "t2")]
        )
    (tmp_path / "nnunet" / "one_0003.nii.gz").unlink()
    (tmp_path / "brats" / "one" / "one_t2.nii").unlink()
    for layout, reason in (("nnunet", "one_0003.nii.gz: No such file"), ("brats", "has no T2w file")):
        caplog.clear()
        assert predict(options_for(tiny_run, tmp_path / layout, tmp_path / layout / "P")) == 3
        assert reason in caplog.text
        assert [path.name for path in (tmp_path / layout / "P").glob("*.gz")] == ["two.nii.gz"]
    (tmp_path / "cases.csv").write_text("id,FLAIR,T1w,CT,T2w\none,a.nii,b.nii,c.nii,d.nii")
    with pytest.raises(InputError, match="has the channels FLAIR, T1w, CT, T2w, the checkpoint was trained on FLAIR"):
        predict(options_for(tiny_run, tmp_path / "cases.csv", tmp_path / "P"))


def test_predictions_are_numbered_as_the_label_files_were(coordinate_store: Path) -> None:
    spec = dataclasses.replace(spec_of(coordinate_store, (16, 16, 16)), label_remap={0: 0, 1: 2, 2: 1, 4: 3})
    assert ModelSpec.from_plain(spec.to_plain()) == spec
    np.testing.assert_array_equal(spec.ids_in_files[np.arange(4)], [0, 2, 1, 4])
    described = describe(spec)
    assert described["groups"] == {"WT": [2, 1, 4], "TC": [1, 4], "ET": [4]}
    assert described["label_names"][4] == spec.label_names[3]


def test_a_pair_of_header_and_voxels_is_predicted(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    image = sorted((msd_folder / "imagesTr").iterdir())[2]
    whole = load(image)
    (tmp_path / "pairs").mkdir()
    pair = nib.Nifti1Pair(np.asanyarray(whole.dataobj), whole.affine, whole.header)  # type: ignore[no-untyped-call]
    nib.save(pair, tmp_path / "pairs" / "one.hdr")
    assert predict(options_for(tiny_run, tmp_path / "pairs", tmp_path / "P")) == 0
    assert_same_grid(tmp_path / "P" / "one.nii.gz", image)


def test_predictions_return_from_another_orientation_and_spacing(msd_folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "S"
    options = ConvertOptions(input=msd_folder, output=store, workers=1, orientation="RAS", spacing=(0.9, 1.2, 1.7))
    assert convert(options) == 0
    spec = spec_of(store, (32, 32, 32))
    assert ModelSpec.from_plain(spec.to_plain()) == spec
    checkpoint = {"model": spec.build().state_dict(), "spec": spec.to_plain()}
    save_checkpoint(tmp_path / "checkpoints" / "best.pt", checkpoint)
    image = min((msd_folder / "imagesTr").iterdir())
    assert predict(options_for(tmp_path, image, tmp_path / "P")) == 0
    assert_same_grid(tmp_path / "P" / image.name, image)


def test_predict_writes_over_nothing_but_its_own(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(msd_folder / "imagesTr", tmp_path / "images"))
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    with pytest.raises(InputError, match="is the folder of the input"):
        predict(options_for(tiny_run, images, images))
    with pytest.raises(InputError, match="is the folder of the input"):
        predict(options_for(tiny_run, images / "case_000.nii.gz", images))
    with pytest.raises(InputError, match="holds volumes that predict did not make"):
        predict(options_for(tiny_run, msd_folder / "imagesTr", images))
    assert {path.name: path.read_bytes() for path in images.iterdir()} == before
    mine = options_for(tiny_run, images / "case_000.nii.gz", tmp_path / "P")
    assert predict(mine) == predict(mine) == 0  # again into the same folder is fine
    checkpoint = Path(shutil.copy(mine.checkpoint, tmp_path / "best.pt"))
    mine = dataclasses.replace(mine, checkpoint=checkpoint)
    assert predict(mine) == 0  # the same weights, wherever they lie
    shutil.copy(tiny_run / "checkpoints" / "last.pt", checkpoint)
    with pytest.raises(
        InputError, match=r"holds predictions of another checkpoint .checksum \w+, that of .*best.pt is"
    ):
        predict(mine)


def test_the_validation_cases_of_a_run_can_be_asked_for(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    held_out = read_run(tiny_run)["cases"]["validation"]
    options = dataclasses.replace(options_for(tiny_run, msd_folder / "imagesTr", tmp_path / "P"), cases="validation")
    assert predict(options) == 0
    assert sorted(path.name for path in tmp_path.glob("P/*.gz")) == [f"{name}.nii.gz" for name in held_out]
    with pytest.raises(InputError, match="1 of 2 are not in --input, the first: nobody"):
        predict(dataclasses.replace(options, cases="case_000,nobody"))


def test_probabilities_are_those_the_labels_come_from(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    image = sorted((msd_folder / "imagesTr").iterdir())[1]
    asked = options_for(tiny_run, image, tmp_path / "P")
    assert predict(dataclasses.replace(asked, probabilities=True)) == 0
    assert predict(dataclasses.replace(asked, output=tmp_path / "plain")) == 0
    label = voxels(tmp_path / "P" / image.name)
    np.testing.assert_array_equal(label, voxels(tmp_path / "plain" / image.name))
    assert not (tmp_path / "plain" / "probabilities").exists()
    made = load(tmp_path / "P" / "probabilities" / image.name)
    np.testing.assert_array_equal(made.affine, load(image).affine)
    assert made.get_data_dtype() == np.uint16
    assert (made.dataobj.slope, made.dataobj.inter) == (pytest.approx(1 / 65535), 0)
    values = np.asanyarray(made.dataobj)
    assert values.shape == (*label.shape, 3)
    assert 0 <= values.min() < 0.5 < values.max() <= 1
    described = json.loads((tmp_path / "P" / "prediction.json").read_text())
    assert described["probabilities"] == ["WT", "TC", "ET"]
    for region, part in zip(described["probabilities"], np.moveaxis(values, -1, 0), strict=True):
        inside = np.isin(label, described["regions"][region])
        assert inside[part > 0.5 + 1e-4].all()
    assert (part[inside] >= 0.5 - 1e-4).all()  # the smallest region is painted last


def test_class_probabilities_add_up_to_one(coordinate_store: Path, msd_folder: Path, tmp_path: Path) -> None:
    spec = dataclasses.replace(spec_of(coordinate_store, (32, 32, 32)), regions=None)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "best.pt", {"model": spec.build().state_dict(), "spec": spec.to_plain()})
    image = min((msd_folder / "imagesTr").iterdir())
    options = Options(checkpoint=tmp_path / "best.pt", input=image, output=tmp_path / "P", device="cpu")
    assert predict(dataclasses.replace(options, probabilities=True)) == 0
    values = np.asanyarray(load(tmp_path / "P" / "probabilities" / image.name).dataobj)
    label = voxels(tmp_path / "P" / image.name)
    np.testing.assert_allclose(values.sum(-1), 1, atol=2e-4 if values.shape[-1] > 3 else 1e-4)
    chosen = np.take_along_axis(values, label[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(chosen, values.max(-1), atol=1e-4)
    names = json.loads((tmp_path / "P" / "prediction.json").read_text())["probabilities"]
    assert names == [spec.label_names[number] for number in range(values.shape[-1])]


def test_a_second_predict_into_one_folder_is_refused(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    options = options_for(tiny_run, msd_folder / "imagesTr" / "case_000.nii.gz", tmp_path / "P")
    with (
        held_by_another(options.output),
        pytest.raises(InputError, match=r"P: another predict is writing there \(host"),
    ):
        predict(options)
    assert predict(options) == 0
    assert not (options.output / ".lock").exists()


def test_mirroring_changes_little_and_keeps_the_grid(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    image = msd_folder / "imagesTr" / "case_000.nii.gz"
    plain = options_for(tiny_run, image, tmp_path / "plain")
    predict(plain)
    predict(dataclasses.replace(plain, output=tmp_path / "mirrored", mirror=True))
    one, other = (voxels(tmp_path / name / image.name) for name in ("plain", "mirrored"))
    assert_same_grid(tmp_path / "mirrored" / image.name, image)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("changes", [{}, {"orientation": "RAS", "spacing": (0.9, 1.2, 1.7)}])
def test_a_store_gives_what_its_files_give(msd_folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Nothing around the volumes, which the store leaves out."""
    source, store = shutil.copytree(msd_folder, tmp_path / "set"), tmp_path / "S"
    for path in source.glob("*Tr/*"):
        made = load(path)
        values = np.asanyarray(made.dataobj).copy()
        values[:3], values[:, -2:], values[:, :, :1] = 0, 0, 0
        nib.save(nib.Nifti1Image(values, made.affine, made.header), path)  # type: ignore[no-untyped-call]
    assert convert(ConvertOptions(input=source, output=store, workers=1, **changes)) == 0
    assert open_store(store).case("case_001").shape_dhw != open_store(store).case("case_001").source_shape_dhw
    spec = spec_of(store, (16, 16, 32))
    torch.manual_seed(0)
    cases: dict[str, Any] = {"case_001": {}, "case_003": {}}
    checkpoint = {"model": spec.build().state_dict(), "spec": spec.to_plain(), "cases": cases}
    save_checkpoint(tmp_path / "checkpoints" / "best.pt", checkpoint)
    of_files = options_for(tmp_path, source / "imagesTr", tmp_path / "files")
    of_files = dataclasses.replace(of_files, cases="validation", probabilities=True)
    of_store = dataclasses.replace(of_files, input=store, output=tmp_path / "store")
    assert predict(of_files) == predict(of_store) == 0
    made = sorted(path.relative_to(tmp_path / "store") for path in tmp_path.glob("store/**/*.gz"))
    assert [path.name for path in made] == ["case_001.nii.gz", "case_003.nii.gz"] * 2
    for path in made:
        np.testing.assert_array_equal(voxels(tmp_path / "store" / path), voxels(tmp_path / "files" / path))
        one, other = (load(tmp_path / name / path) for name in ("store", "files"))
        np.testing.assert_array_equal(one.affine, other.affine)
        np.testing.assert_array_equal(one.header.get_zooms(), other.header.get_zooms())
    assert voxels(tmp_path / "store" / made[0]).any()


def test_a_store_that_was_converted_otherwise_is_refused(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    assert convert(ConvertOptions(input=msd_folder, output=tmp_path / "S", workers=1, orientation="RAS")) == 0
    with pytest.raises(InputError, match="S has --orientation RAS, the checkpoint was trained on source; convert"):
        predict(options_for(tiny_run, tmp_path / "S", tmp_path / "P"))
