"""Scores: known pairs, agreement with a count by hand, and what is said of pairs that do not fit."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preprocessing.errors import InputError
from training.evaluate import Options, evaluate
from training.scores import score_pair

GROUPS = {"whole": (1, 2), "core": (2,)}


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in shape), indexing="ij"), axis=-1)
    return np.asarray(np.linalg.norm(grid - np.array(centre), axis=-1) <= radius)


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Make a true and a predicted label map [D,H,W], the prediction moved by two voxels along W."""
    true = ball((24, 26, 28), (12, 13, 12), 8) + ball((24, 26, 28), (12, 13, 12), 4).astype(np.uint8)
    return true.astype(np.uint8), np.roll(true, 2, axis=2).astype(np.uint8)


def save(folder: Path, name: str, label: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> None:
    folder.mkdir(exist_ok=True)
    affine = np.diag([*spacing[::-1], 1.0])
    image = nib.Nifti1Image(label.transpose(2, 1, 0), affine)  # type: ignore[no-untyped-call]
    nib.save(image, folder / f"{name}.nii.gz")


def test_a_label_scores_perfectly_against_itself() -> None:
    true, _ = pair()
    for metrics in score_pair(true, true, GROUPS, (1.0, 2.0, 0.5), 1.0).values():
        assert metrics["dice"] == metrics["surface_dice"] == 1
        assert metrics["hd95_mm"] == 0
    assert score_pair(true, true, GROUPS, (1.0, 2.0, 0.5), 1.0)["core"]["volume_ml"] == (true == 2).sum() / 1000


def test_dice_and_distance_equal_a_count_by_hand() -> None:
    true, predicted = pair()
    for name, numbers in GROUPS.items():
        one, other = np.isin(predicted, numbers), np.isin(true, numbers)
        metrics = score_pair(predicted, true, GROUPS, (1.0, 1.0, 3.0), 7.0)[name]
        assert metrics["dice"] == pytest.approx(2 * (one & other).sum() / (one.sum() + other.sum()))
        assert 0 < metrics["hd95_mm"] <= 6.0  # two voxels of 3 mm
        assert metrics["surface_dice"] == 1.0  # nothing is further than the tolerance
    close = score_pair(predicted, true, GROUPS, (1.0, 1.0, 3.0), 0.5)["whole"]["surface_dice"]
    assert 0 < close < 1


def test_distances_scale_with_the_spacing() -> None:
    true, predicted = pair()
    fine, coarse = (score_pair(predicted, true, GROUPS, (s, s, s), s)["whole"] for s in (1.0, 2.5))
    assert coarse["hd95_mm"] == pytest.approx(2.5 * fine["hd95_mm"])
    assert coarse["surface_dice"] == pytest.approx(fine["surface_dice"])


def test_structures_that_are_not_there() -> None:
    true, _ = pair()
    empty = np.zeros_like(true)
    both = score_pair(empty, empty, GROUPS, (1.0, 1.0, 1.0), 1.0)["core"]
    assert both["dice"] == 1
    assert math.isnan(both["hd95_mm"])
    for predicted, label in ((empty, true), (true, empty)):
        one = score_pair(predicted, label, GROUPS, (1.0, 1.0, 1.0), 1.0)["core"]
        assert one["dice"] == 0
        assert math.isnan(one["surface_dice"])


def test_the_command_writes_csv_json_and_markdown_worst_first(tmp_path: Path) -> None:
    true, predicted = pair()
    for name, made in (("good", true), ("poor", predicted)):
        save(tmp_path / "labels", name, true, (1.0, 2.0, 1.5))
        save(tmp_path / "predictions", name, made, (1.0, 2.0, 1.5))
        save(tmp_path / "images", name, true.astype(np.int16) * 100)
    options = Options(
        predictions=tmp_path / "predictions",
        labels=tmp_path / "labels",
        output=tmp_path / "E",
        images=tmp_path / "images",
    )
    assert evaluate(options) == 0
    scores = json.loads((tmp_path / "E" / "scores.json").read_text())
    assert list(scores["cases"]) == ["poor", "good"]
    assert set(scores["mean"]) == {"label 1", "label 2"}
    dice = [scores["cases"][name]["label 2"]["dice"] for name in ("poor", "good")]
    assert scores["mean"]["label 2"]["dice"] == pytest.approx(sum(dice) / 2)
    with (tmp_path / "E" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case_id"], row["structure"]) for row in rows][:2] == [("poor", "label 1"), ("poor", "label 2")]
    assert float(rows[1]["dice"]) == pytest.approx(dice[0], rel=1e-5)
    assert (tmp_path / "E" / "scores.md").read_text().startswith("| case | structure | dice |")
    for name in ("good", "poor"):
        assert (tmp_path / "E" / "overlays" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_pairs_that_do_not_fit_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    true, _ = pair()
    for name in ("fits", "alone", "small"):
        save(tmp_path / "labels", name, true)
    save(tmp_path / "predictions", "fits", true)
    save(tmp_path / "predictions", "small", true[:-2])
    options = Options(predictions=tmp_path / "predictions", labels=tmp_path / "labels", output=tmp_path / "E")
    with caplog.at_level(logging.INFO):
        assert evaluate(options) == 3
    assert "1 labels have no prediction, the first: alone" in caplog.text
    assert "small.nii.gz has (22, 26, 28) voxels (D,H,W)" in caplog.text
    assert list(json.loads((tmp_path / "E" / "scores.json").read_text())["cases"]) == ["fits"]
    (tmp_path / "predictions" / "fits.nii.gz").unlink()
    with pytest.raises(InputError, match="nothing to score"):
        evaluate(options)


def test_a_case_with_nothing_in_it_is_scored_among_the_others(tmp_path: Path) -> None:
    true, predicted = pair()
    for name, label, made in (("full", true, predicted), ("empty", 0 * true, 0 * true)):
        save(tmp_path / "labels", name, label)
        save(tmp_path / "predictions", name, made)
    options = Options(predictions=tmp_path / "predictions", labels=tmp_path / "labels", output=tmp_path / "E")
    assert evaluate(options) == 0
    scores = json.loads((tmp_path / "E" / "scores.json").read_text())
    assert list(scores["cases"]) == ["full", "empty"]
    assert list(scores["cases"]["empty"]) == ["label 1", "label 2"]
    agreed = {"dice": 1, "hd95_mm": None, "surface_dice": None, "volume_ml": 0, "true_volume_ml": 0}
    assert scores["cases"]["empty"]["label 1"] == agreed
    assert scores["mean"]["label 1"]["dice"] == (1 + scores["cases"]["full"]["label 1"]["dice"]) / 2
    for folder in ("labels", "predictions"):
        (tmp_path / folder / "full.nii.gz").unlink()
    assert evaluate(options) == 0
    assert json.loads((tmp_path / "E" / "scores.json").read_text())["cases"] == {"empty": {}}
