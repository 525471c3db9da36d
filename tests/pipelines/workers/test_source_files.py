"""The files that a store was made from are found again, however the data set lay on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.workers.source_files import source_files
from preprocessing.console.errors import InputError
from preprocessing.layouts.known import read_dataset
from preprocessing.shards.files import write_source
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert
from tests.conftest import write_msd
from tests.preprocessing.layouts.test_layout_files import (
    NNUNET,
    SHAPES,
    coordinate_volumes,
    write_brats,
    write_nnunet,
    write_table,
)


def msd(folder: Path) -> Path:
    return write_msd(folder / "msd", SHAPES)


def brats_grades(folder: Path) -> Path:
    volumes = coordinate_volumes()
    write_brats(folder / "HGG", {"one": volumes["case_000"]})
    write_brats(folder / "LGG", {"two": volumes["case_001"]})
    return folder


def brats_case(folder: Path) -> Path:
    return brats_grades(folder) / "HGG" / "one"


def nnunet_listed(folder: Path) -> Path:
    """List files two folders deep."""
    root = write_nnunet(folder, coordinate_volumes())
    for name in ("imagesTr", "labelsTr"):
        (root / "site" / "a").mkdir(parents=True, exist_ok=True)
        (root / name).rename(root / "site" / "a" / name)
    images = [f"site/a/imagesTr/case_001_{channel:04d}.nii.gz" for channel in range(4)]
    listed = {"mine": {"images": images, "label": "site/a/labelsTr/case_001.nii.gz"}}
    (root / "dataset.json").write_text(json.dumps(NNUNET | {"dataset": listed}))
    return root


def table_in_its_root(folder: Path) -> Path:
    path = write_table(folder, coordinate_volumes())
    for file in (folder / "anywhere").iterdir():
        file.rename(folder / file.name)
    path.write_text(path.read_text().replace("anywhere/", ""))
    return path


def table_of_files_elsewhere(folder: Path) -> Path:
    path = write_table(folder / "lists", coordinate_volumes())
    (folder / "lists" / "anywhere").rename(folder / "above")
    first, *rows = path.read_text().replace("anywhere/", "../above/").splitlines()
    path.write_text("\n".join([first, rows[0], rows[1].replace("../above", str(folder / "above"))]))
    return path


@pytest.mark.parametrize(
    "write", [msd, brats_grades, brats_case, nnunet_listed, table_in_its_root, table_of_files_elsewhere]
)
def test_they_are_those_of_the_layout(write: Callable[[Path], Path], tmp_path: Path) -> None:
    source = write(tmp_path / "set")
    assert convert(Options(input=source, output=tmp_path / "store", workers=1)) == 0
    store = open_store(tmp_path / "store")
    cases = read_dataset(source).sources
    assert cases
    for case in cases:
        assert case.label is not None
        assert source_files(store, case.case_id) == (list(case.images), case.label)


def test_a_data_set_that_was_moved_is_found_where_the_store_says(tmp_path: Path) -> None:
    assert convert(Options(input=msd(tmp_path), output=tmp_path / "store", workers=1)) == 0
    shutil.move(tmp_path / "msd", tmp_path / "moved")
    write_source(tmp_path / "store", str(tmp_path / "moved"))
    images, _ = source_files(open_store(tmp_path / "store"), "case_000")
    assert images == [tmp_path / "moved" / "imagesTr" / "case_000.nii.gz"]


def test_an_object_store_is_refused(tmp_path: Path) -> None:
    assert convert(Options(input=msd(tmp_path), output=tmp_path / "store", workers=1)) == 0
    write_source(tmp_path / "store", "s3://bucket/raw")
    url = r"s3://bucket/raw/imagesTr/case_000\.nii\.gz"
    with pytest.raises(InputError, match=rf"case case_000: {url} is on an object store, this loader reads folders"):
        source_files(open_store(tmp_path / "store"), "case_000")
