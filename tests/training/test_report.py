"""The report is one page with everything in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from preprocessing.errors import InputError
from training.evaluate import Options as EvaluateOptions
from training.evaluate import evaluate
from training.predict import Options as PredictOptions
from training.predict import predict
from training.report import Options, report


def test_the_page_holds_curves_scores_and_overlays(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    images, labels = msd_folder / "imagesTr", msd_folder / "labelsTr"
    checkpoint = tiny_run / "checkpoints" / "best.pt"
    predict(PredictOptions(checkpoint=checkpoint, input=images, output=tmp_path / "P", device="cpu", overlap=0.0))
    evaluate(EvaluateOptions(predictions=tmp_path / "P", labels=labels, output=tmp_path / "E", images=images))
    assert report(Options(run=tiny_run, evaluation=tmp_path / "E")) == 0
    page = (tiny_run / "report.html").read_text()
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 2 + 5  # curves, time split, one overlay for each case
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in page
    assert "Limited by" in page
    for name in ("WT", "TC", "ET", "case_004", "hd95_mm", "samples_per_case"):
        assert name in page


def test_a_folder_that_is_no_run_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no readable run.json there"):
        report(Options(run=tmp_path))
    with pytest.raises(InputError, match=r"no scores.json there"):
        report(Options(run=tiny_run, evaluation=tmp_path))
