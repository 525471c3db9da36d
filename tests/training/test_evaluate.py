"""Scores: known pairs, agreement with a count by hand, and what is said of pairs that do not fit."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric
from monai.networks.utils import one_hot
from scipy import ndimage

from preprocessing.console.errors import InputError
from preprocessing.console.flags import main
from tests.preprocessing.console.test_folder_lock import held_by_another
from training.evaluate import Options, evaluate
from training.inference.outputs import DESCRIPTION
from training.inference.scores import METRICS, score_pair

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
        assert one["dice"] == one["surface_dice"] == 0
        assert math.isnan(one["hd95_mm"])


def test_the_command_writes_csv_json_and_markdown_worst_first(tmp_path: Path) -> None:
    true, predicted = pair()
    for name, made in (("good", true), ("poor", predicted)):
        save(tmp_path / "labels", name, true, (1.0, 2.0, 1.5))
        save(tmp_path / "predictions", name, made, (1.0, 2.0, 1.5))
        save(tmp_path / "images", name, true.astype(np.int16) * 100, (1.0, 2.0, 1.5))
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


@pytest.mark.parametrize("order", ["RAS", "LAS", "RPS", "SAR", "IPL"])
@pytest.mark.parametrize("degrees", [0, 30])
def test_a_prediction_is_scored_where_its_affine_puts_it(tmp_path: Path, order: str, degrees: int) -> None:
    """The same voxels, saved with the axes in another order, are the same prediction."""
    true, predicted = pair()
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    affine = np.array([[cosine, -sine, 0, -30], [sine, cosine, 0, 8], [0, 0, 1, -5], [0, 0, 0, 1.0]])
    affine[:3, :3] *= (1.5, 2.0, 1.0)
    for folder, label in (("labels", true), ("predictions", predicted)):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(label.transpose(2, 1, 0), affine), tmp_path / folder / "a.nii.gz")  # type: ignore[no-untyped-call]
    options = Options(predictions=tmp_path / "predictions", labels=tmp_path / "labels", output=tmp_path / "E")
    assert evaluate(options) == 0
    as_it_was = json.loads((tmp_path / "E" / "scores.json").read_text())
    straight = nib.Nifti1Image(predicted.transpose(2, 1, 0), np.eye(4))  # type: ignore[no-untyped-call]
    turn = nib.orientations.axcodes2ornt(tuple(order))  # type: ignore[no-untyped-call]
    turned: Any = straight.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), turn))  # type: ignore[no-untyped-call]
    again = nib.Nifti1Image(np.asanyarray(turned.dataobj), affine @ turned.affine)  # type: ignore[no-untyped-call]
    nib.save(again, tmp_path / "predictions" / "a.nii.gz")
    assert evaluate(options) == 0
    assert json.loads((tmp_path / "E" / "scores.json").read_text()) == as_it_was


@pytest.mark.parametrize("affine", [np.diag([1.0, 1, 1.01, 1]), np.eye(4) + np.eye(4, k=3)])
def test_a_prediction_on_another_grid_is_refused(
    tmp_path: Path, affine: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    true, _ = pair()
    for name in ("fits", "apart"):
        save(tmp_path / "labels", name, true)
        save(tmp_path / "predictions", name, true)
    header: Any = nib.Nifti1Header()  # type: ignore[no-untyped-call]
    header["sform_code"] = 1
    header["srow_x"], header["srow_y"], header["srow_z"] = affine[:3]
    moved = nib.Nifti1Image(true.transpose(2, 1, 0), None, header)  # type: ignore[no-untyped-call]
    nib.save(moved, tmp_path / "predictions" / "apart.nii.gz")
    options = Options(predictions=tmp_path / "predictions", labels=tmp_path / "labels", output=tmp_path / "E")
    assert evaluate(options) == 3
    refused = "apart.nii.gz: their affines differ by up to"
    assert [refused in record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [True]
    assert list(json.loads((tmp_path / "E" / "scores.json").read_text())["cases"]) == ["fits"]
    assert evaluate(dataclasses.replace(options, ignore_affine=True)) == 0
    cases = json.loads((tmp_path / "E" / "scores.json").read_text())["cases"]
    assert cases["apart"] == cases["fits"]


@pytest.mark.parametrize("tolerance", ["-1", "nan", "inf"])
def test_a_tolerance_that_cannot_be_is_wrong_usage(tolerance: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(evaluate, Options, [f"--tolerance-mm={tolerance}"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: --tolerance-mm {tolerance}: give 0 or a positive number")


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("seed", range(3))
def test_the_command_agrees_with_monais_metrics(tmp_path: Path, seed: int) -> None:
    """MONAI's metric classes on whole maps, in its own order of axes (that of the file), on blobs of random sizes."""
    draw = np.random.default_rng(seed)
    d, h, w = draw.uniform(0.5, 3.0, 3).round(2).tolist()  # millimetres
    labels = []
    for _ in range(2):
        label = np.zeros((18, 20, 22), np.uint8)
        for number in (1, 2):
            label[ball(label.shape, tuple(draw.uniform(6, 14, 3)), draw.uniform(3, 6))] = number
        labels.append(label)
    for folder, label in zip(("predictions", "labels"), labels, strict=True):
        save(tmp_path / folder, "a", label, (d, h, w))
    options = Options(predictions=tmp_path / "predictions", labels=tmp_path / "labels", output=tmp_path / "E")
    assert evaluate(dataclasses.replace(options, tolerance_mm=1.5)) == 0
    scores = json.loads((tmp_path / "E" / "scores.json").read_text())["cases"]["a"]
    predicted, true = (one_hot(torch.from_numpy(label.transpose(2, 1, 0).copy())[None, None], 3) for label in labels)
    surface = SurfaceDiceMetric(class_thresholds=[1.5, 1.5])
    expected = {
        "dice": DiceMetric(include_background=False)(predicted, true),
        "hd95_mm": HausdorffDistanceMetric(percentile=95)(predicted, true, spacing=[w, h, d]),
        "surface_dice": surface(predicted, true, spacing=[w, h, d]),
    }
    for metric, values in expected.items():
        made = [scores[f"label {number}"][metric] for number in (1, 2)]
        assert made == pytest.approx(np.asarray(values)[0].tolist(), abs=1e-5), metric


def write_set(folder: Path, cases: dict[str, tuple[np.ndarray, np.ndarray]], label_names: dict[int, str]) -> Options:
    """Write cases as (true, predicted), and what predict says of a model with these label names."""
    for name, (true, predicted) in cases.items():
        save(folder / "labels", name, true)
        save(folder / "predictions", name, predicted)
    groups = {name: [number] for number, name in label_names.items() if number}
    described = {"label_names": label_names, "groups": groups, "ignore_label": None}
    (folder / "predictions" / DESCRIPTION).write_text(json.dumps(described))
    return Options(predictions=folder / "predictions", labels=folder / "labels", output=folder / "E")


NAMES = {0: "background", 1: "edema", 2: "core"}


@pytest.mark.parametrize("where", ["labels", "predictions"])
@pytest.mark.parametrize("number", [4, 7, 255])
def test_ids_that_the_model_does_not_know_are_refused_with_their_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str, number: int
) -> None:
    """As background they would only be left out: BraTS 2018 has 4 where the Decathlon has 3."""
    true, predicted = pair()
    options = write_set(tmp_path, {"fits": (true, predicted), "odd": (true, predicted)}, NAMES)
    odd = (true if where == "labels" else predicted).copy()
    odd[:2], odd[2, 0, 0] = number, 9
    save(tmp_path / where, "odd", odd)
    assert evaluate(options) == 3
    said = f"{where}/odd.nii.gz holds ids that the model does not know: "
    counts = {number: 2 * 26 * 28, 9: 1}
    said += ", ".join(f"{n} in {counts[n]} voxels" for n in sorted(counts)) + "; it knows 0, 1, 2; renumber the labels"
    assert said in caplog.text
    assert list(json.loads((tmp_path / "E" / "scores.json").read_text())["cases"]) == ["fits"]
    (tmp_path / "predictions" / DESCRIPTION).unlink()  # then each id is scored by itself
    assert evaluate(options) == 0
    assert f"label {number}" in json.loads((tmp_path / "E" / "scores.json").read_text())["cases"]["odd"]


def test_the_ids_of_a_training_set_that_is_numbered_otherwise_are_known(tmp_path: Path) -> None:
    """And the ignore label in the truth, where the model predicts something."""
    true, predicted = pair()
    options = write_set(tmp_path, {"a": (true * 100, predicted * 100)}, {0: "background", 100: "edema", 200: "core"})
    assert evaluate(options) == 0
    described = json.loads((tmp_path / "predictions" / DESCRIPTION).read_text())
    (tmp_path / "predictions" / DESCRIPTION).write_text(json.dumps(described | {"ignore_label": 3}))
    save(tmp_path / "labels", "a", np.where(true == 1, 3, true * 100).astype(np.uint8))
    assert evaluate(options) == 0
    save(tmp_path / "predictions", "a", np.full_like(true, 3))
    with pytest.raises(InputError, match="nothing to score"):
        evaluate(options)


def missed(count: int, num_missed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Make cases of which the prediction finds all but the first ``num_missed``, which it leaves empty."""
    true = (pair()[0] > 0).astype(np.uint8)
    return {f"c{n}": (true, true * np.uint8(n >= num_missed)) for n in range(count)}


def test_a_missed_structure_makes_no_mean_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten cases, eight of them missed: the HD95 of the others is 0, so how many they are stands beside it."""
    monkeypatch.setenv("COLUMNS", "120")
    options = write_set(tmp_path, missed(10, 8), {0: "background", 1: "whole"})
    assert evaluate(options) == 0
    scores = json.loads((tmp_path / "E" / "scores.json").read_text())
    mean = scores["mean"]["whole"]
    assert (mean["dice"], mean["surface_dice"], mean["hd95_mm"]) == (pytest.approx(0.2), pytest.approx(0.2), 0.0)
    assert scores["counts"]["whole"] == dict.fromkeys(METRICS, 10) | {"hd95_mm": 2}
    assert "0.000 (2 of 10)" in capsys.readouterr().out
    assert "| mean | whole | 0.200 | 0.000 (2 of 10) | 0.200 |" in (tmp_path / "E" / "scores.md").read_text()


def test_the_penalty_is_the_diagonal_of_the_image(tmp_path: Path) -> None:
    """BraTS' images have 240,240,155 voxels of 1 mm, and its penalty is 373.1287."""
    assert math.hypot(240, 240, 155) == pytest.approx(373.1287, abs=1e-4)
    spacing = (2.0, 1.5, 0.5)
    cases = missed(3, 2) | {"none": (np.zeros_like(pair()[0]),) * 2}
    options = dataclasses.replace(write_set(tmp_path, cases, {0: "background", 1: "whole"}), hd95_penalty=True)
    for name, (true, predicted) in cases.items():
        save(tmp_path / "labels", name, true, spacing)
        save(tmp_path / "predictions", name, predicted, spacing)
    diagonal = math.hypot(24 * 2.0, 26 * 1.5, 28 * 0.5)
    for described in (True, False):
        assert evaluate(options) == 0
        scores = json.loads((tmp_path / "E" / "scores.json").read_text())
        (structure,) = scores["mean"]
        found = {name: case[structure]["hd95_mm"] for name, case in scores["cases"].items()}
        assert found == {"c0": pytest.approx(diagonal), "c1": pytest.approx(diagonal), "c2": 0.0, "none": 0.0}
        assert scores["mean"][structure]["hd95_mm"] == pytest.approx(diagonal / 2)
        assert scores["counts"][structure]["hd95_mm"] == 4
        if described:
            (tmp_path / "predictions" / DESCRIPTION).unlink()


def test_a_structure_that_no_label_has_is_left_out_of_the_mean(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    true = (pair()[0] > 0).astype(np.uint8)
    options = write_set(tmp_path, {"a": (true, np.roll(true, 8, axis=2))}, NAMES)
    assert evaluate(options) == 0
    mean = json.loads((tmp_path / "E" / "scores.json").read_text())["mean"]
    assert mean["core"]["dice"] == 1
    assert f"1 cases, mean dice {mean['edema']['dice']:.4f} (without core, which no label has)" in caplog.text


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_voxels_without_a_size_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture, size: float) -> None:
    options = write_set(tmp_path, missed(2, 0), {0: "background", 1: "whole"})
    for folder in ("labels", "predictions"):
        save(tmp_path / folder, "c1", pair()[0].astype(np.uint8) // 2, (1.0, 1.0, size))
    assert evaluate(dataclasses.replace(options, ignore_affine=True)) == 3
    said = f"c1.nii.gz has voxels of {size:g},1,1 mm (x,y,z), which gives no distances; correct its header"
    assert said in caplog.text


def test_a_second_evaluate_into_one_folder_is_refused(tmp_path: Path) -> None:
    options = write_set(tmp_path, missed(1, 0), {0: "background", 1: "whole"})
    with (
        held_by_another(options.output),
        pytest.raises(InputError, match=r"E: another evaluate is writing there \(host"),
    ):
        evaluate(options)
    assert evaluate(options) == 0
    assert not (options.output / ".lock").exists()


def by_scipy(predicted: np.ndarray, true: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> dict[str, float]:
    """Compute Dice, HD95 and surface Dice of two masks with nothing but scipy, on surfaces of whole voxels.

    Where a mask is empty, by the documented rule: Dice and surface Dice 0, or 1 and none where both are; no distance.
    """
    if not predicted.any() or not true.any():
        both = not predicted.any() and not true.any()
        return {"dice": float(both), "hd95_mm": math.nan, "surface_dice": math.nan if both else 0.0}
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (predicted, true)]
    away = [ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    distances = [away[1][surfaces[0]], away[0][surfaces[1]]]
    matched = sum(int((each <= tolerance).sum()) for each in distances)
    return {
        "dice": 2 * (predicted & true).sum() / (predicted.sum() + true.sum()),
        "hd95_mm": max(float(np.percentile(each, 95)) for each in distances),
        "surface_dice": matched / sum(each.size for each in distances),
    }


def masks_of(kind: str) -> tuple[np.ndarray, np.ndarray]:
    shape = (18, 20, 22)
    one, other = ball(shape, (8, 9, 10), 5), ball(shape, (10, 9, 8), 4)
    nothing, voxel = np.zeros(shape, bool), np.zeros(shape, bool)
    voxel[4, 5, 6] = True
    border = ball(shape, (0, 0, 0), 6) | ball(shape, (17, 19, 21), 5)
    return {
        "apart": (one, other),
        "missed": (nothing, one),
        "invented": (one, nothing),
        "neither": (nothing, nothing),
        "border": (border, border | one),
        "everything": (~nothing, border),
        "one voxel": (voxel, np.roll(voxel, (1, 2, 3), (0, 1, 2))),
        "one voxel in a ball": (voxel, one),
    }[kind]


KINDS = ["apart", "missed", "invented", "neither", "border", "everything", "one voxel", "one voxel in a ball"]
TURNED = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])  # a rotation


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*of class 0 is all 0:UserWarning")
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 1.3)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_is_what_scipy_and_monais_classes_compute(
    tmp_path: Path, kind: str, spacing: tuple[float, float, float]
) -> None:
    """On an oblique grid, beside a case with both labels, so that each structure is scored in every case."""
    d, h, w = spacing
    affine = np.eye(4)
    affine[:3, :3] = TURNED * [w, h, d]
    masks = masks_of(kind)
    full = masks_of("apart")[0].astype(np.uint8)
    for folder, mask in zip(("predictions", "labels"), masks, strict=True):
        (tmp_path / folder).mkdir()
        for name, label in (("odd", mask.astype(np.uint8)), ("full", full)):
            made = nib.Nifti1Image(label.transpose(2, 1, 0), affine)  # type: ignore[no-untyped-call]
            nib.save(made, tmp_path / folder / f"{name}.nii.gz")
    options = Options(predictions=tmp_path / "predictions", labels=tmp_path / "labels", output=tmp_path / "E")
    assert evaluate(dataclasses.replace(options, tolerance_mm=2.0)) == 0
    scores = json.loads((tmp_path / "E" / "scores.json").read_text())["cases"]["odd"]["label 1"]
    found = {name: math.nan if scores[name] is None else scores[name] for name in ("dice", "hd95_mm", "surface_dice")}
    assert found == pytest.approx(by_scipy(*masks, spacing, 2.0), rel=1e-5, nan_ok=True)
    assert scores["volume_ml"] == pytest.approx(masks[0].sum() * d * h * w / 1000)
    predicted, true = (torch.from_numpy(mask.transpose(2, 1, 0).copy())[None, None] for mask in masks)
    surface: Any = SurfaceDiceMetric(class_thresholds=[2.0], include_background=True)
    dice: Any = DiceMetric(include_background=True, ignore_empty=False)
    computed = [float(dice(predicted, true)), float(surface(predicted, true, spacing=[w, h, d]))]
    assert [found["dice"], found["surface_dice"]] == pytest.approx(computed, abs=1e-5, nan_ok=True)
    if masks[0].any() and masks[1].any():  # else MONAI's is infinite or not a number
        hd95: Any = HausdorffDistanceMetric(percentile=95, include_background=True)
        assert found["hd95_mm"] == pytest.approx(float(hd95(predicted, true, spacing=[w, h, d])), rel=1e-5)


def test_labels_of_cases_that_predict_was_not_asked_for_are_not_missed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after ``predict --cases validation``: only what was asked for and is not there is an error."""
    for folder, names in (("labels", ("a", "b", "c")), ("predictions", ("a",))):
        (tmp_path / folder).mkdir()
        for name in names:
            save(tmp_path / folder, name, pair()[0].astype(np.uint8), (1.0, 1.0, 1.0))
    options = Options(predictions=tmp_path / "predictions", labels=tmp_path / "labels", output=tmp_path / "E")
    described = {"groups": {"whole": [1, 2]}, "label_names": {"0": "background", "1": "x", "2": "y"}}
    for cases, code in ((["a"], 0), (["a", "b"], 3)):
        (tmp_path / "predictions" / "prediction.json").write_text(json.dumps(described | {"cases": cases}))
        with caplog.at_level(logging.INFO):
            assert evaluate(options) == code
    assert "2 labels are of cases that predict --cases left out, the first: b" in caplog.text
    assert "1 labels have no prediction, the first: b" in caplog.text
