"""The contact sheet: every case with its picture, every refusal with its reason, on one page by itself."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from preprocessing.check import Options as CheckOptions
from preprocessing.check import check
from preprocessing.to_shards import Options, convert
from tests.preprocessing.conftest import write_nifti


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
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
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
