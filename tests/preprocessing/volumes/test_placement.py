"""One voxel size, that of the affine in force, whatever other fields of a header say."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from preprocessing import check, to_shards
from preprocessing.console.errors import InputError
from preprocessing.shards.store import open_store
from preprocessing.volumes.nifti import Volume, read_nifti
from tests.preprocessing.conftest import Command, nifti_bytes, tree_bytes, write_nifti
from training.evaluate import Options as EvaluateOptions
from training.evaluate import evaluate
from training.inference.inputs import find_inputs
from training.model.networks import InputGrid
from training.model.spec import ModelSpec

SMALL = np.arange(1, 61, dtype=np.int16).reshape(3, 4, 5)
CARDIAC = {"sform": np.diag([-1.0, -1, 1, 1]), "qform": np.diag([-1.25, -1.25, 10, 1])}


def written(path: Path, voxels: Any = SMALL, *, sform: Any = None, qform: Any = None, pixdim: Any = None) -> Path:
    """Write ``voxels`` [D,H,W] with these fields, whether or not they agree; ``None`` leaves a code at 0."""
    image = nib.Nifti1Image(voxels.T, None)  # type: ignore[no-untyped-call]
    image.header.set_qform(qform, int(qform is not None))  # type: ignore[no-untyped-call]
    image.header.set_sform(sform, int(sform is not None))  # type: ignore[no-untyped-call]
    if pixdim is not None:
        image.header["pixdim"][1:4] = pixdim
    nib.save(image, path)
    return path


def read(path: Path, trust: str = "auto") -> Volume:
    return read_nifti(path, trust=trust)


def msd(root: Path, **fields: Any) -> Path:
    """Write two cases of 12x14x16 voxels with these header fields."""
    voxels = np.random.default_rng(0).integers(1, 99, (12, 14, 16)).astype(np.int16)
    label = np.zeros_like(voxels, np.uint8)
    label[4:8, 4:8, 4:8] = 1
    for folder, content in (("imagesTr", voxels), ("labelsTr", label)):
        (root / folder).mkdir(parents=True)
        for case in "ab":
            written(root / folder / f"{case}.nii", content, **fields)
    entries = [{"image": f"imagesTr/{case}.nii", "label": f"labelsTr/{case}.nii"} for case in "ab"]
    described = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "x"}, "training": entries}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


@pytest.mark.parametrize(
    ("trust", "sizes"),
    [("auto", (1, 1, 1)), ("sform", (1, 1, 1)), ("qform", (10, 1.25, 1.25)), ("pixdim", (10, 1.25, 1.25))],
)
def test_the_size_is_that_of_the_affine_in_force(tmp_path: Path, trust: str, sizes: tuple[float, ...]) -> None:
    volume = read(written(tmp_path / "a.nii", **CARDIAC), trust)
    assert volume.spacing_mm == sizes
    np.testing.assert_array_equal(np.diag(volume.affine)[:3], np.array(sizes)[::-1] * [-1, -1, 1])
    said = "sform 1 x 1 x 1 mm, qform and pixdim 1.25 x 1.25 x 10 mm"
    assert volume.notes == {"sizes": f"{said}; used: {' x '.join(f'{side:g}' for side in sizes[::-1])} mm"}


def test_pixdim_may_be_trusted_beside_an_oblique_sform(tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    volume = read(written(tmp_path / "a.nii", sform=turn, pixdim=(2, 2, 5)), "pixdim")
    np.testing.assert_allclose(volume.affine[:3, :3], turn[:3, :3] * [2, 2, 5], atol=1e-6)
    assert volume.spacing_mm == (5, 2, 2)


def test_what_agrees_within_rounding_is_not_mentioned(tmp_path: Path) -> None:
    """A real header: 0.9 as a 32-bit number, an oblique qform, six digits in the sform."""
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    affine = turn @ np.diag([0.9, 0.9, 3.3, 1])
    path = written(tmp_path / "a.nii", sform=np.round(affine, 6), qform=affine)
    volume = read(path)
    assert (volume.notes, volume.spacing_mm) == ({}, nib.load(path).header.get_zooms()[::-1])  # type: ignore[attr-defined]


def test_places_and_units_that_disagree_are_noted(tmp_path: Path) -> None:
    mirrored = written(tmp_path / "a.nii", sform=np.eye(4), qform=np.diag([-1.0, -1, 1, 1]))
    assert read(mirrored).notes == {"places": "a corner lies 10 mm apart in sform and qform"}
    content = bytearray(nifti_bytes(SMALL))
    content[123] = 3
    (tmp_path / "b.nii").write_bytes(content)
    assert read(tmp_path / "b.nii").notes == {"units": "xyzt_units says micrometres, sizes of 1 x 1.5 x 2 mm are used"}


@pytest.mark.parametrize("pixdim", [(np.nan, 1, 1), (np.inf, 1, 1), (0, 1, 1)])
def test_sizes_that_are_none_come_from_the_affine_or_the_file_is_refused(tmp_path: Path, pixdim: Any) -> None:
    volume = read(written(tmp_path / "a.nii", sform=np.diag([2.0, 3, 4, 1]), pixdim=pixdim))
    assert volume.spacing_mm == (4, 3, 2)
    assert volume.header.get_zooms() == (2, 3, 4)  # type: ignore[no-untyped-call]
    assert "sizes" in volume.notes
    with pytest.raises(InputError, match=r"its affine is (not finite|singular, voxels of 0 x 1 x 1 mm have no volume)"):
        read(written(tmp_path / "b.nii", pixdim=pixdim))
    with pytest.raises(InputError, match="its affine is"):
        read(tmp_path / "a.nii", "pixdim")


@pytest.mark.parametrize(
    "spoilt",
    [np.zeros((4, 4)), np.diag([1.0, 0, 1, 1]), np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])],
)
def test_a_singular_affine_is_refused(tmp_path: Path, spoilt: Any) -> None:
    path = tmp_path / "a.nii"
    content = bytearray(nifti_bytes(SMALL))
    struct.pack_into("<12f", content, 280, *spoilt[:3].ravel())
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"a\.nii: its affine is singular, voxels of .* have no volume; correct the header$"
    ):
        read(path)
    content[252] = 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="or give --trust qform"):
        read(path)
    assert read(path, "qform").spacing_mm == (2, 1.5, 1)


def test_a_field_that_is_not_there_cannot_be_trusted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.nii: has no qform \(its code is 0\); give another --trust"):
        read(write_nifti(tmp_path / "a.nii", SMALL), "qform")


def test_a_data_set_that_contradicts_itself_is_converted_by_one_size(tmp_path: Path, command: Command) -> None:
    """Today's cardiac sets: resampling went by the affine, the index by pixdim, and a label vanished."""
    source, store = msd(tmp_path / "msd", **CARDIAC), tmp_path / "store"
    ended = command(to_shards.convert, to_shards.Options, "--input", source, "--output", store, "--spacing", "2,2,1")
    lines = ended.errors.splitlines()
    assert (ended.code, len(lines)) == (0, 2)
    assert lines[0] == (
        "2 of 2 cases: the header's fields disagree on the voxel size; the first, a: sform 1 x 1 x 1 mm, qform and "
        "pixdim 1.25 x 1.25 x 10 mm; used: 1 x 1 x 1 mm; if another field is right, give --trust sform, qform or pixdim"
    )
    case = open_store(store).case("a")
    assert (case.source_shape_dhw, case.spacing_mm) == ((12, 7, 8), (1, 2, 2))
    assert case.entry.labels[1].voxels == 16
    again = command(to_shards.convert, to_shards.Options, "--input", source, "--output", store, "--spacing", "2,2,1")
    assert again.errors.splitlines()[1:2] == lines[:1]  # the index keeps it
    other = command(
        to_shards.convert,
        to_shards.Options,
        "--input",
        source,
        "--output",
        store,
        "--spacing",
        "2,2,1",
        "--trust",
        "qform",
    )
    assert (other.code, "with other options: --trust auto, now qform" in other.errors) == (2, True)
    trusting = command(
        to_shards.convert, to_shards.Options, "--input", source, "--output", tmp_path / "b", "--trust", "qform"
    )
    assert (trusting.code, len(trusting.errors.splitlines())) == (0, 1)
    assert open_store(tmp_path / "b").case("a").spacing_mm == (10, 1.25, 1.25)
    assert open_store(tmp_path / "b").manifest.options["trust"] == "qform"


def test_distances_and_volumes_are_scored_by_the_affine(tmp_path: Path) -> None:
    """With pixdim 5 beside an affine of 1 mm, HD95 of two boxes 2 voxels apart was 10."""
    for folder, first in (("labels", 2), ("predictions", 4)):
        (tmp_path / folder).mkdir()
        voxels = np.zeros((8, 8, 20), np.uint8)
        voxels[2:6, 2:6, first : first + 8] = 1
        written(tmp_path / folder / "a.nii.gz", voxels, sform=np.eye(4), pixdim=(5, 5, 5))
    options = EvaluateOptions(
        predictions=tmp_path / "predictions", labels=tmp_path / "labels", output=tmp_path / "scores"
    )
    assert evaluate(options) == 0
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())["cases"]["a"]["label 1"]
    assert (scores["hd95_mm"], scores["true_volume_ml"]) == (2, 0.128)


def test_prediction_trusts_what_its_training_set_did(tmp_path: Path) -> None:
    source, store = msd(tmp_path / "msd", **CARDIAC), tmp_path / "store"
    assert to_shards.convert(to_shards.Options(input=source, output=store, workers=1, trust="qform")) == 0
    spec = ModelSpec.of_store(open_store(store).manifest, "unet", InputGrid(patch=(16, 16, 16)))
    assert ModelSpec.from_plain(spec.to_plain()).convert_options.trust == "qform"
    (found,) = [case for case in find_inputs(source / "imagesTr", spec, 1.0) if case.case_id == "a"]
    assert np.diag(found.read()[0].geometry.affine)[:3].tolist() == [-1.25, -1.25, 10]


def test_a_store_without_oddities_says_nothing_of_them(coordinate_store: Path) -> None:
    """So that stores made before keep their bytes."""
    texts = b"".join(content for name, content in tree_bytes(coordinate_store).items() if name.endswith(".json"))
    assert b"notes" not in texts
    assert b"trust" not in texts


def test_check_finds_an_index_whose_sizes_are_not_the_affines(tmp_path: Path, command: Command) -> None:
    source, store = msd(tmp_path / "msd", sform=np.eye(4)), tmp_path / "store"
    command(to_shards.convert, to_shards.Options, "--input", source, "--output", store)
    entry = open_store(store).case("a").entry
    object.__setattr__(entry, "spacing_mm", (10.0, 1.3, 1.3))
    assert list(check._check_sizes(entry)) == [
        "case a: the index says voxels of 10 x 1.3 x 1.3 mm (D,H,W), its affine 1 x 1 x 1"
    ]
