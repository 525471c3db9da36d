"""The report is one page with everything in it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from preprocessing.console.errors import InputError
from training.evaluate import Options as EvaluateOptions
from training.evaluate import evaluate
from training.options import Options as RunOptions
from training.predict import Options as PredictOptions
from training.predict import predict
from training.report import Options, report
from training.run import train
from training.trainer.record import read_metrics, read_run
from training.trainer.showcase import choose_cases


def test_the_page_holds_curves_scores_and_overlays(tiny_run: Path, msd_folder: Path, tmp_path: Path) -> None:
    images, labels = msd_folder / "imagesTr", msd_folder / "labelsTr"
    checkpoint = tiny_run / "checkpoints" / "best.pt"
    predict(PredictOptions(checkpoint=checkpoint, input=images, output=tmp_path / "P", device="cpu", overlap=0.0))
    evaluate(EvaluateOptions(predictions=tmp_path / "P", labels=labels, output=tmp_path / "E", images=images))
    assert report(Options(run=tiny_run, evaluation=tmp_path / "E")) == 0
    page = (tiny_run / "report.html").read_text()
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 2 + 1 + 5  # curves, time split, the one validation case, one overlay for each case
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in page
    assert "Limited by" in page
    assert "4 of 5 were trained on" in page
    for name in ("WT", "TC", "ET", "case_004", "hd95_mm", "samples_per_case"):
        assert name in page


def test_a_run_ends_with_a_page_pictures_and_a_board(tiny_options: RunOptions, tmp_path: Path) -> None:
    options = dataclasses.replace(tiny_options, output=tmp_path / "run")
    train(dataclasses.replace(options, epochs=2))
    assert train(dataclasses.replace(options, resume="auto")) == 0
    (case_id,) = read_run(options.output)["cases"]["validation"]
    page = (options.output / "report.html").read_text()
    assert f"best: {case_id} (WT Dice " in page
    assert page.count("data:image/png;base64,") == 3
    kept = json.loads((options.output / "validation" / "validation.json").read_text())
    best = max(line["dice"]["mean"] for line in read_metrics(options.output))
    assert kept["means"]["dice"]["mean"] == pytest.approx(best)
    board = EventAccumulator(str(options.output / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in board.Scalars("loss")]
    assert losses == [(line["step"], pytest.approx(line["loss"])) for line in read_metrics(options.output)]
    assert {"dice/mean", "dice/WT", "time/disk", "time/model", "waiting"} <= set(board.Tags()["scalars"])
    assert f"validation/best_{case_id}" in board.Tags()["images"]


def test_a_run_stopped_before_any_validation_says_so(tiny_run: Path, tmp_path: Path) -> None:
    """Not a Dice of 0, which would be a result."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    line = read_metrics(run)[0] | {"dice": None, "hd95_mm": None}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert report(Options(run=run)) == 0
    page = (run / "report.html").read_text()
    assert "4 training and 1 validation cases, 1 epoch, 4 steps; not validated" in page
    assert "Dice 0.000" not in page


@pytest.mark.parametrize(
    ("dice", "chosen"),
    [
        ({"a": 0.9, "b": 0.5, "c": 0.7}, {"best": "a", "median": "c", "worst": "b"}),
        ({"a": 0.5, "b": 0.9}, {"best": "b", "worst": "a"}),
        ({"a": 0.5}, {"best": "a"}),
        ({"d": 0.1, "c": 0.2, "b": 0.3, "a": 0.4}, {"best": "a", "median": "c", "worst": "d"}),
    ],
)
def test_the_cases_to_show_are_best_median_and_worst(dice: dict[str, float], chosen: dict[str, str]) -> None:
    assert choose_cases({case_id: {"WT": {"dice": value}} for case_id, value in dice.items()}) == chosen


def test_a_folder_that_is_no_run_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no readable run.json there"):
        report(Options(run=tmp_path))
    with pytest.raises(InputError, match=r"no scores.json there"):
        report(Options(run=tiny_run, evaluation=tmp_path))
