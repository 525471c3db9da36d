"""Ids up to 850 and ids with gaps: consecutive in the store, the user's own in predictions and scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from preprocessing import to_shards
from preprocessing.console.errors import InputError
from preprocessing.layouts.ids import consecutive_ids
from preprocessing.layouts.known import read_dataset
from preprocessing.shards.store import open_store
from tests.conftest import coordinate_label, write_msd
from tests.preprocessing.conftest import Command
from training.inference.outputs import describe, save_label
from training.model.networks import InputGrid
from training.model.spec import ModelSpec

SHAPES = [(6, 7, 8), (7, 6, 5)]


def write_ids(root: Path, ids: list[int], **described: Any) -> Path:
    """Write coordinate volumes whose labels 0 to 3 are ``ids`` in the files."""
    write_msd(root, SHAPES)
    path = root / "dataset.json"
    content = json.loads(path.read_text())
    names = list(content["labels"].values())
    content["labels"] = {str(number): name for number, name in zip(ids, names, strict=True)}
    path.write_text(json.dumps(content | described))
    for case, shape in enumerate(SHAPES):
        save(root / "labelsTr" / f"case_{case:03d}.nii.gz", np.array(ids)[coordinate_label(shape)].astype(np.int32))
    return root


def save(path: Path, label: npt.NDArray[Any]) -> None:
    affine = np.diag([-1.0, -1.5, 2.0, 1.0])
    nib.save(nib.Nifti1Image(label.transpose(2, 1, 0), affine), path)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("ids", [[0, 205, 420, 850], [0, 1, 2, 200], [0, 1, 70000, 2**24 - 1]])
def test_gapped_ids_are_stored_as_consecutive_ones_and_come_back(
    tmp_path: Path, ids: list[int], command: Command
) -> None:
    source, store = write_ids(tmp_path / "msd", ids), tmp_path / "store"
    ended = command(to_shards.convert, to_shards.Options, "--input", source, "--output", store)
    assert ended.code == 0, ended.errors
    changes = [f"{old} -> {new}" for new, old in enumerate(ids) if old != new]
    said = f"{len(changes)} labels are stored in other numbers: {', '.join(changes)}; predictions have the files'\n"
    assert said in ended.errors
    manifest = open_store(store).manifest
    assert (list(manifest.label_names), manifest.label_remap) == (
        [0, 1, 2, 3],
        {old: new for new, old in enumerate(ids)},
    )
    assert manifest.regions == {"WT": [1, 2, 3], "TC": [2, 3], "ET": [3]}
    for case, shape in enumerate(SHAPES):
        label = open_store(store).case(f"case_{case:03d}").label()
        np.testing.assert_array_equal(label, coordinate_label(shape)[..., None])
    spec = ModelSpec.of_store(manifest, "unet", InputGrid(patch=(16, 16, 16)))
    assert spec.ids_in_files[:4].tolist() == ids
    assert describe(spec)["groups"] == {"WT": ids[1:], "TC": ids[2:], "ET": ids[3:]}
    image: Any = nib.load(source / "labelsTr" / "case_000.nii.gz")
    save_label(tmp_path / "out.nii.gz", spec.ids_in_files[coordinate_label(SHAPES[0]).transpose(2, 1, 0)], image.header)
    written: Any = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), np.asanyarray(image.dataobj))


def test_regions_and_the_label_to_ignore_are_given_in_the_files_ids(tmp_path: Path, command: Command) -> None:
    source, store = write_ids(tmp_path / "msd", [0, 205, 420, 850]), tmp_path / "store"
    regions = "A=205+850,B=850"
    ended = command(to_shards.convert, to_shards.Options, "--input", source, "--output", store, "--regions", regions)
    assert (ended.code, open_store(store).manifest.regions) == (0, {"A": [1, 3], "B": [3]})
    labels = {"background": 0, "a": 205, "b": [205, 850], "ignore": 900}
    (source / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MR"}, "labels": labels}))
    (source / "imagesTr" / "x_0000.nii.gz").touch()
    dataset, own = consecutive_ids(read := read_dataset(source), read.regions)
    assert (dataset.label_remap, dataset.ignore_label) == ({0: 0, 205: 1, 850: 2, 900: 3}, 3)
    assert own == {"b": (1, 2), "a": (1,)}


def test_consecutive_ids_stay_as_they_are(tmp_path: Path) -> None:
    """So that stores made before keep their bytes; the label to ignore may lie anywhere above, as before."""
    source = write_ids(tmp_path / "msd", [0, 1, 2, 3])
    assert consecutive_ids(read := read_dataset(source), None)[0] == read
    labels = {"background": 0, "a": 1, "ignore": 255}
    (source / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MR"}, "labels": labels}))
    (source / "imagesTr" / "x_0000.nii.gz").touch()
    assert consecutive_ids(read := read_dataset(source), None)[0] == read


def test_an_id_that_is_not_named_is_refused_and_so_are_too_many(tmp_path: Path, command: Command) -> None:
    source, store = write_ids(tmp_path / "msd", [0, 205, 420, 850]), tmp_path / "store"
    save(source / "labelsTr" / "case_001.nii.gz", np.full(SHAPES[1], 300, np.int32))
    ended = command(to_shards.convert, to_shards.Options, "--input", source, "--output", store)
    assert ended.code == 3
    assert "holds label 300, the data set names [0, 205, 420, 850]" in ended.errors
    names = {str(2 * number): f"label {number}" for number in range(300)}
    content = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps(content | {"labels": names}))
    with pytest.raises(InputError, match="300 labels from id 0 on; give at most 256, from 0 on"):
        consecutive_ids(read_dataset(source), None)
