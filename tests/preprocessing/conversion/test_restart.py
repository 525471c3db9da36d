"""A restart keeps what would be made again and says what has changed otherwise; nothing is mixed in silently."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.console.errors import InputError
from preprocessing.to_shards import Options, convert
from tests.conftest import coordinate_image, coordinate_label
from tests.preprocessing.conftest import tree_bytes, write_nifti

SHAPE = (6, 7, 8)  # of case_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float32"}, "--dtype auto, now float32"),
        ({"crop_foreground": False}, "--crop-foreground True, now False"),
        ({"ignore_affine": True}, "--ignore-affine False, now True"),
        ({"orientation": "RAS"}, "--orientation source, now RAS"),
        ({"spacing": (1.0, 1.0, 2.0)}, r"--spacing None, now \[1.0, 1.0, 2.0\]"),
        ({"cases_per_shard": 2}, r"other cases: case_000 to case_000 \(1\), now case_000 to case_001 \(2\)"),
    ],
)
def test_other_options_are_not_mixed_into_a_store(
    small_msd: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    root = tmp_path / "store"
    assert convert(Options(input=small_msd, output=root, workers=1)) == 0
    before = tree_bytes(root)
    with pytest.raises(
        InputError,
        match=rf"shard-00000 was made .*{message}; delete the shard folders in {root}, or give another --output",
    ):
        convert(Options(input=small_msd, output=root, workers=1, **change))
    assert tree_bytes(root) == before


def test_a_file_of_another_size_is_noticed(small_msd: Path, tmp_path: Path) -> None:
    options = Options(input=small_msd, output=tmp_path / "store", workers=1)
    assert convert(options) == 0
    label = small_msd / "labelsTr" / "case_000.nii.gz"
    before = label.stat().st_size
    write_nifti(label, np.zeros(SHAPE, np.uint8))
    now = label.stat().st_size
    with pytest.raises(InputError, match=rf"case case_000 changed: {label} had {before} bytes, now {now} bytes"):
        convert(options)
    label.unlink()
    with pytest.raises(InputError, match=rf"{label} had {before} bytes, now no file"):
        convert(options)


@pytest.mark.parametrize("finished", [True, False])
def test_a_file_of_the_same_size_and_date_is_noticed(small_msd: Path, tmp_path: Path, finished: bool) -> None:
    image = small_msd / "imagesTr" / "case_001.nii.gz"
    plain = image.with_suffix("")
    described = small_msd / "dataset.json"
    described.write_text(described.read_text().replace("imagesTr/case_001.nii.gz", "imagesTr/case_001.nii"))
    write_nifti(plain, coordinate_image((7, 6, 5), 1))
    options = Options(input=small_msd, output=tmp_path / "store", workers=1)
    assert convert(options) == 0
    if not finished:
        (tmp_path / "store" / "manifest.json").unlink()
    was = plain.stat()
    write_nifti(plain, coordinate_image((7, 6, 5), 2))
    os.utime(plain, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert plain.stat().st_size == was.st_size
    with pytest.raises(InputError, match=rf"case case_001 changed: {plain} has the same size and other content"):
        convert(options)


def test_a_data_set_that_was_copied_is_the_same(small_msd: Path, tmp_path: Path) -> None:
    options = Options(input=small_msd, output=tmp_path / "store", workers=1)
    assert convert(options) == 0
    before = tree_bytes(tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "shard-00001")
    moved = shutil.copytree(small_msd, tmp_path / "moved")
    assert convert(Options(input=moved, output=tmp_path / "store", workers=1)) == 0
    assert tree_bytes(tmp_path / "store") == before


def test_other_cases_and_descriptions_are_noticed(small_msd: Path, tmp_path: Path) -> None:
    options = Options(input=small_msd, output=tmp_path / "store", workers=1)
    assert convert(options) == 0
    path = small_msd / "dataset.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"training": described["training"][:2]}))
    with pytest.raises(InputError, match="shard-00002 was made of cases that are not in the data set as it is now"):
        convert(options)
    path.write_text(json.dumps(described | {"labels": described["labels"] | {"4": "other"}}))
    with pytest.raises(InputError, match=r"shard-00000 was made for another label names: .*other"):
        convert(options)


def test_a_refused_case_that_was_mended_is_mentioned(
    small_msd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label = small_msd / "labelsTr" / "case_000.nii.gz"
    bad, good = coordinate_label(SHAPE), coordinate_label(SHAPE)
    bad[0, 0, 0] = 9
    described = small_msd / "dataset.json"
    described.write_text(described.read_text().replace("labelsTr/case_000.nii.gz", "labelsTr/case_000.nii"))
    label = write_nifti(label.with_suffix(""), bad)
    options = Options(input=small_msd, output=tmp_path / "store", workers=1)
    assert convert(options) == 3
    write_nifti(label, good)
    with caplog.at_level(logging.WARNING):
        assert convert(options) == 3
    shard = tmp_path / "store" / "shard-00000"
    assert f"case case_000 was refused and its files have changed since; delete {shard} to try it again" in caplog.text
    shutil.rmtree(shard)
    assert convert(options) == 0
