"""Score predicted label maps against true ones: ``python -m training.evaluate``."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from preprocessing.console.errors import EXIT_DONE, EXIT_REFUSED, InputError
from preprocessing.console.flags import Flag, main
from preprocessing.layouts.images import find_images
from preprocessing.shards.files import write_json
from preprocessing.volumes.image import read_label
from preprocessing.volumes.nifti import case_id_of, read_nifti
from training.inference.outputs import DESCRIPTION, SCORES
from training.inference.overlay import draw_overlay, save_figure
from training.inference.same_grid import on_grid_of
from training.inference.scores import METRICS, CaseScore, Groups, Scores, average, counted, mean_of, score_pair
from training.trainer.record import without_nan

log = logging.getLogger(__name__)
LABEL = "label "
Described = tuple[Groups | None, int | None]
"""The structures of a set of predictions, and the label id that does not count; ``None`` where nothing says so."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score label maps: Dice, 95 % Hausdorff distance, surface Dice and volumes per case and structure.

    Writes scores.csv, scores.json and scores.md, worst case first. Labels without a prediction, and pairs that do not
    fit, are named; the exit code is then 3.
    """

    predictions: Path = Path("predictions")
    """Folder of predicted label maps, each on the grid of its label; its axes may run another way."""
    labels: Path = Path("data/phantom/labelsTs")
    """Folder of true label maps of the same names."""
    output: Path = Path("evaluation")
    """Folder for the scores."""
    images: Path | None = None
    """Folder of the images: adds pictures with both outlines to --output."""
    tolerance_mm: float = 1.0
    """Surface Dice counts surface voxels nearer than this as matched."""
    ignore_affine: Flag = False
    """Compare voxel by voxel where affines differ, as to_shards --ignore-affine converts."""


def evaluate(options: Options) -> int:
    """Run the command; returns the exit code."""
    if not 0 <= options.tolerance_mm < math.inf:  # which not-a-number is not either
        raise InputError(f"--tolerance-mm {options.tolerance_mm:g}: give 0 or a positive number of millimetres")
    for name in ("labels", "predictions", "images"):
        folder = getattr(options, name)
        if folder is not None and not folder.is_dir():
            raise InputError(f"--{name} {folder}: no such folder")
    labels = {case_id_of(path): path for path in find_images(options.labels)}
    predictions = {case_id_of(path): path for path in find_images(options.predictions)}
    described = _read_description(options.predictions)
    options.output.mkdir(parents=True, exist_ok=True)
    scores, refused = _score_all(labels, predictions, described, options)
    for reason in refused:
        log.error("%s", reason)
    if not scores:
        raise InputError(f"nothing to score: no label of {options.labels} has a usable prediction")
    ordered = dict(sorted(scores.items(), key=lambda item: mean_of(item[1], "dice")))
    means = average(ordered)
    write_json(options.output / SCORES, without_nan({"mean": means, "cases": ordered, "refused": refused}))
    _write_csv(options.output / "scores.csv", ordered)
    (options.output / "scores.md").write_text(_markdown(ordered, means), encoding="utf-8")
    Console().print(_table(ordered, means))
    log.info("%s: %d cases, mean dice %.4f", options.output / SCORES, len(ordered), mean_of(means, "dice"))
    return EXIT_REFUSED if refused else EXIT_DONE


def _score_all(
    labels: Mapping[str, Path], predictions: Mapping[str, Path], described: Described, options: Options
) -> tuple[Scores, list[str]]:
    """Score every pair; returns the scores and, a line each, what could not be scored."""
    scores: Scores = {}
    refused = [f"{len(names)} {kind}, the first: {names[0]}" for kind, names in _unpaired(labels, predictions) if names]
    for name in labels:
        if name in predictions:
            try:
                scores[name] = _score_case(labels[name], predictions[name], described, options)
            except InputError as error:
                refused.append(f"case {name}: {error}")
    return scores if described[0] is not None else _with_absent(scores, options.tolerance_mm), refused


def _with_absent(scores: Scores, tolerance_mm: float) -> Scores:
    """Give every case the structures of all: one that a case has in neither map is scored as agreed upon."""
    nothing = np.zeros((1, 1, 1), dtype=np.uint8)
    names = sorted({name for case in scores.values() for name in case}, key=_label_number)
    absent = score_pair(nothing, nothing, {name: (_label_number(name),) for name in names}, (1, 1, 1), tolerance_mm)
    return {case_id: {name: case.get(name, absent[name]) for name in names} for case_id, case in scores.items()}


def _label_number(name: str) -> int:
    return int(name.removeprefix(LABEL))


def _unpaired(labels: Mapping[str, Path], predictions: Mapping[str, Path]) -> list[tuple[str, list[str]]]:
    return [
        ("labels have no prediction", [name for name in labels if name not in predictions]),
        ("predictions have no label", [name for name in predictions if name not in labels]),
    ]


def _read_description(predictions: Path) -> Described:
    """Read which labels make a structure, and which does not count, from what ``predict`` wrote.

    Where it wrote nothing every label id is scored by itself.
    """
    path = predictions / DESCRIPTION
    if not path.exists():
        return None, None
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        groups = {name: tuple(numbers) for name, numbers in described["groups"].items()}
        return groups, described.get("ignore_label")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); predict again") from error


def _score_case(label_path: Path, predicted_path: Path, described: Described, options: Options) -> CaseScore:
    name, (groups, ignore_label) = case_id_of(label_path), described
    true_volume, predicted_volume = read_nifti(label_path), read_nifti(predicted_path)
    turned = on_grid_of(true_volume, predicted_volume, read_label(predicted_volume, None), options.ignore_affine)
    predicted, true = counted(turned, read_label(true_volume, None), ignore_label)
    if groups is None:
        present = np.union1d(np.unique(true), np.unique(predicted))
        groups = {f"{LABEL}{number}": (int(number),) for number in present if number}
    if options.images is not None:
        image = read_nifti(_find_image(options.images, name))
        shown = on_grid_of(true_volume, image, image.channels[0], options.ignore_affine)
        picture = draw_overlay(shown, true_volume.affine, true, predicted)
        save_figure(options.output / "overlays" / f"{name}.png", picture)
    return score_pair(predicted, true, groups, true_volume.spacing_mm, options.tolerance_mm)


def _find_image(folder: Path, name: str) -> Path:
    for suffix in (".nii.gz", ".nii"):
        if (folder / f"{name}{suffix}").exists():
            return folder / f"{name}{suffix}"
    raise InputError(f"no image at {folder / name}.nii.gz; leave --images out, or give its folder")


def _write_csv(path: Path, scores: Scores) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "structure", *METRICS])
        for case_id, case in scores.items():
            for name, metrics in case.items():
                writer.writerow([case_id, name, *(f"{metrics[metric]:.6g}" for metric in METRICS)])


def _rows(scores: Scores, means: CaseScore) -> list[list[str]]:
    def text(metrics: Mapping[str, float]) -> list[str]:
        return ["n/a" if math.isnan(metrics[metric]) else f"{metrics[metric]:.3f}" for metric in METRICS]

    rows = [[case_id, name, *text(metrics)] for case_id, case in scores.items() for name, metrics in case.items()]
    return rows + [["mean", name, *text(metrics)] for name, metrics in means.items()]


def _markdown(scores: Scores, means: CaseScore) -> str:
    head = ["case", "structure", *METRICS]
    rows = [head, ["---"] * 2 + ["---:"] * len(METRICS), *_rows(scores, means)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _table(scores: Scores, means: CaseScore) -> Table:
    table = Table(title="worst case first", box=box.SIMPLE_HEAD)
    for name in ("case", "structure"):
        table.add_column(name, no_wrap=True)
    for name in METRICS:
        table.add_column(name.replace("_", " "), justify="right")
    for row in _rows(scores, means):
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main(evaluate, Options)
