"""Score predicted label maps against true ones: ``python -m training.evaluate``."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from preprocessing.console.errors import EXIT_DONE, EXIT_REFUSED, InputError
from preprocessing.console.flags import Flag, main
from preprocessing.console.folder_lock import hold
from preprocessing.layouts.images import find_images
from preprocessing.shards.files import write_json
from preprocessing.volumes.image import read_label
from preprocessing.volumes.nifti import case_id_of, read_nifti
from preprocessing.volumes.statistics import count_labels
from training.inference.outputs import DESCRIPTION, SCORES
from training.inference.overlay import draw_overlay, save_figure
from training.inference.same_grid import on_grid_of
from training.inference.scores import (
    METRICS,
    CaseScore,
    Groups,
    Scores,
    average,
    by_structure,
    count_cases,
    counted,
    mean_of,
    penalized,
    score_pair,
)
from training.model.spec import Labels
from training.trainer.record import without_nan

log = logging.getLogger(__name__)
LABEL = "label "
LARGEST_MM = 1e6


@dataclass(frozen=True, kw_only=True)
class Described:
    """What ``predict`` says of its label maps: the structures, every id they know, and the id that does not count.

    Where it says nothing (``None``), every id is scored by itself, and none is unknown. ``cases`` are those that it was
    asked for by name: the labels of others are not missed.
    """

    groups: Groups | None = None
    known: frozenset[int] | None = None
    ignore_label: int | None = None
    cases: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score label maps: Dice, 95 % Hausdorff distance, surface Dice and volumes per case and structure.

    Writes scores.csv, scores.json and scores.md, worst case first. Labels without a prediction, pairs that do not fit,
    and labels with ids that the model does not know, are named; the exit code is then 3.
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
    hd95_penalty: Flag = False
    """Count a structure that only one map has with the image's diagonal as its HD95, and one that neither has with 0
    (BraTS' rule). Otherwise the mean of HD95 leaves them out; how many cases it covers stands beside it."""
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
    if described.cases is not None:
        asked_for = described.cases | set(predictions)
        if others := [name for name in labels if name not in asked_for]:
            log.info("%d labels are of cases that predict --cases left out, the first: %s", len(others), others[0])
        labels = {name: path for name, path in labels.items() if name in asked_for}
    with hold(options.output, "another evaluate"):
        return _evaluate(labels, predictions, described, options)


def _evaluate(
    labels: Mapping[str, Path], predictions: Mapping[str, Path], described: Described, options: Options
) -> int:
    scores, refused = _score_all(labels, predictions, described, options)
    for reason in refused:
        log.error("%s", reason)
    if not scores:
        raise InputError(f"nothing to score: no label of {options.labels} has a usable prediction")
    ordered = dict(sorted(scores.items(), key=lambda item: mean_of(item[1], "dice")))
    means, counts = average(ordered), count_cases(ordered)
    content = {"mean": means, "counts": counts, "cases": ordered, "refused": refused}
    write_json(options.output / SCORES, without_nan(content | {"hd95_penalty": options.hd95_penalty}))
    _write_csv(options.output / "scores.csv", ordered)
    rows = _rows(ordered)
    (options.output / "scores.md").write_text(_markdown(rows), encoding="utf-8")
    Console().print(_table(rows))
    _tell(options.output / SCORES, len(ordered), means)
    return EXIT_REFUSED if refused else EXIT_DONE


def _tell(path: Path, num_cases: int, means: CaseScore) -> None:
    """Log the mean Dice, without the structures that no label has: finding nothing there is no merit."""
    left_out = [name for name, metrics in means.items() if metrics["true_volume_ml"] == 0]
    without = f" (without {', '.join(left_out)}, which no label has)" if left_out else ""
    mean = by_structure(means, "dice", left_out)["mean"]
    log.info("%s: %d cases, mean dice %s%s", path, num_cases, "n/a" if math.isnan(mean) else f"{mean:.4f}", without)


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
    return scores if described.groups is not None else _with_absent(scores, options), refused


def _with_absent(scores: Scores, options: Options) -> Scores:
    """Give every case the structures of all: one that a case has in neither map is scored as agreed upon."""
    nothing = np.zeros((1, 1, 1), dtype=np.uint8)
    names = sorted({name for case in scores.values() for name in case}, key=_label_number)
    groups: Groups = {name: (_label_number(name),) for name in names}
    absent = score_pair(nothing, nothing, groups, (1, 1, 1), options.tolerance_mm)
    absent = penalized(absent, 0.0) if options.hd95_penalty else absent
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
        return Described()
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        groups = {name: tuple(numbers) for name, numbers in described["groups"].items()}
        known = {0, *map(int, described.get("label_names", ())), *(number for ids in groups.values() for number in ids)}
        cases = None if "cases" not in described else frozenset(map(str, described["cases"]))
        ignore_label = described.get("ignore_label")
        return Described(groups=groups, known=frozenset(known), ignore_label=ignore_label, cases=cases)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); predict again") from error


def _score_case(label_path: Path, predicted_path: Path, described: Described, options: Options) -> CaseScore:
    name, groups = case_id_of(label_path), described.groups
    true_volume, predicted_volume = read_nifti(label_path), read_nifti(predicted_path)
    true, predicted = read_label(true_volume, None), read_label(predicted_volume, None)
    if described.known is not None:
        _check_ids(label_path, true, described.known | {described.ignore_label})
        _check_ids(predicted_path, predicted, described.known)
    predicted = on_grid_of(true_volume, predicted_volume, predicted, options.ignore_affine)
    predicted, true = counted(predicted, true, described.ignore_label)
    if groups is None:
        present = np.union1d(np.unique(true), np.unique(predicted))
        groups = {f"{LABEL}{number}": (int(number),) for number in present if number}
    if options.images is not None:
        image = read_nifti(_find_image(options.images, name))
        shown = on_grid_of(true_volume, image, image.channels[0], options.ignore_affine)
        picture = draw_overlay(shown, true_volume.affine, true, predicted)
        save_figure(options.output / "overlays" / f"{name}.png", picture)
    spacing_mm = true_volume.spacing_mm
    if not all(1 / LARGEST_MM < side < LARGEST_MM for side in spacing_mm):  # which not-a-number is not either
        sizes = ",".join(f"{side:g}" for side in spacing_mm[::-1])
        raise InputError(f"{label_path} has voxels of {sizes} mm (x,y,z), which gives no distances; correct its header")
    scored = score_pair(predicted, true, groups, spacing_mm, options.tolerance_mm)
    return penalized(scored, math.hypot(*np.multiply(true.shape, spacing_mm))) if options.hd95_penalty else scored


def _check_ids(path: Path, label: Labels, known: Collection[int | None]) -> None:
    """Refuse a label map with ids that make up no structure: whatever stands there would count as background."""
    unknown = {number: count for number, count in count_labels(label).items() if number not in known}
    if unknown:
        found = ", ".join(f"{number} in {count} voxels" for number, count in unknown.items())
        raise InputError(
            f"{path} holds ids that the model does not know: {found}; it knows "
            f"{', '.join(str(number) for number in sorted(n for n in known if n is not None))}; renumber the labels as "
            f"the training set's, or remove {DESCRIPTION} to score each id by itself"
        )


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


def _rows(scores: Scores) -> list[list[str]]:
    """Write the scores of all cases, then the means, each with the number of cases that its HD95 is over."""

    def text(metrics: Mapping[str, float]) -> list[str]:
        return ["n/a" if math.isnan(metrics[metric]) else f"{metrics[metric]:.3f}" for metric in METRICS]

    rows = [[case_id, name, *text(metrics)] for case_id, case in scores.items() for name, metrics in case.items()]
    counts = count_cases(scores)
    for name, metrics in average(scores).items():
        shown = dict(zip(METRICS, text(metrics), strict=True))
        shown["hd95_mm"] += f" ({counts[name]['hd95_mm']} of {len(scores)})"
        rows.append(["mean", name, *shown.values()])
    return rows


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head = ["case", "structure", *METRICS]
    lines = [head, ["---"] * 2 + ["---:"] * len(METRICS), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _table(rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title="worst case first", box=box.SIMPLE_HEAD)
    for name in ("case", "structure"):
        table.add_column(name, no_wrap=True)
    for name in METRICS:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main(evaluate, Options)
