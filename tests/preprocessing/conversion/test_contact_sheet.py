"""The contact sheet: every case with its picture, every refusal with its reason, on one page by itself."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from preprocessing.check import Options as CheckOptions
from preprocessing.check import check
from preprocessing.to_shards import Options, convert
from preprocessing.volumes.planes import turn_volumes
from tests.conftest import coordinate_image, write_msd
from tests.preprocessing.conftest import write_nifti


def pictures_of(page: str) -> list[str]:
    return re.findall(r'src="data:image/png;base64,([^"]+)"', page)


def test_the_sheet_shows_every_case_and_every_refusal(small_msd: Path, tmp_path: Path) -> None:
    (small_msd / "labelsTr" / "case_001.nii.gz").unlink()
    text = (small_msd / "dataset.json").read_text()
    (small_msd / "dataset.json").write_text(
        text.replace('"coordinates"', '"<script>"').replace('"test": []', '"test": ["imagesTs/unlabelled.nii"]')
    )
    (small_msd / "imagesTs").mkdir()
    flat = np.full((1, 5, 6, 4), np.nan, np.float32)
    write_nifti(small_msd / "imagesTs" / "unlabelled.nii", flat)
    options = Options(input=small_msd, output=tmp_path / "store", workers=1, report=True)
    assert convert(options) == 3
    page = (tmp_path / "store_report.html").read_text()
    pictures = pictures_of(page)
    assert len(pictures) == 3
    for picture in pictures:
        pixels = imread(io.BytesIO(base64.b64decode(picture)), format="png")
        assert pixels.shape[1] > pixels.shape[0] > 100
        assert pixels[..., :3].std() > 0.02  # something is drawn on the black
    for words in ("<b>case_000</b> 6 x 7 x 8 of 6 x 7 x 8 voxels", "1 refused", "no label at", "&lt;script&gt;"):
        assert words in page
    assert "<script>" not in page
    assert "no label</figcaption>" in page or "no label<br>120 voxels were not finite" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert check(CheckOptions(shards=tmp_path / "store")) == 0


@pytest.mark.parametrize("code", ["RAS", "LPI", "SRA"])
def test_a_patient_looks_the_same_however_the_file_is_ordered(tmp_path: Path, code: str) -> None:
    source = write_msd(tmp_path / "msd", [(7, 9, 11)])  # odd: the histograms skip the same voxels from either end
    turned = shutil.copytree(source, tmp_path / "turned")
    for path in turned.glob("*Tr/*.nii.gz"):
        image: Any = nib.load(path)
        turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(code)))  # type: ignore[no-untyped-call]
        nib.save(image.as_reoriented(turn), path)
    pictures = []
    for folder in (source, turned):
        store = folder.with_name(f"{folder.name}_store")
        assert convert(Options(input=folder, output=store, workers=1, report=True)) == 0
        pictures += pictures_of(store.with_name(f"{store.name}_report.html").read_text())
    assert pictures[0] == pictures[1]


def test_a_volume_without_directions_is_drawn_as_it_lies() -> None:
    """As stores made before hold them; the converter refuses such a file."""
    image = coordinate_image((6, 7, 8), 0)[..., 0]
    (turned,), spacing_mm = turn_volumes(np.diag([0.0, 1.0, 1.0, 1.0]), image)
    (wanted,), _ = turn_volumes(np.eye(4), image)
    np.testing.assert_array_equal(turned, wanted)
    assert spacing_mm.tolist() == [1, 1, 1]
