"""Score one label map against another with MONAI's metrics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from preprocessing.volumes.statistics import bounding_box
from training.inference.decode import structures
from training.model.spec import Labels

VALIDATED = ("dice", "hd95_mm")
METRICS = (*VALIDATED, "surface_dice", "volume_ml", "true_volume_ml")
Groups = dict[str, tuple[int, ...]]
CaseScore = dict[str, dict[str, float]]
"""Structure to metric to value; NaN where the metric is not defined."""
Scores = dict[str, CaseScore]
"""Case id to its scores."""


def dice_of(predicted: Labels, true: Labels, groups: Groups) -> dict[str, float]:
    """Return Dice per structure of label maps [D,H,W]; 1 where neither has it, 0 where only one has (BraTS' rule)."""
    one, other = structures(predicted, groups), structures(true, groups)
    dice = compute_dice(one, other, include_background=True, ignore_empty=False)
    return dict(zip(groups, dice[0].tolist(), strict=True))


def counted(predicted: Labels, true: Labels, ignore_label: int | None) -> tuple[Labels, Labels]:
    """Return both label maps with background where ``true`` has ``ignore_label``: there nothing is right or wrong."""
    if ignore_label is None:
        return predicted, true
    counts = true != ignore_label
    return predicted * counts, true * counts


def score_pair(
    predicted: Labels, true: Labels, groups: Groups, spacing_mm: tuple[float, ...], tolerance_mm: float
) -> CaseScore:
    """Score one label map [D,H,W] against another in all ``METRICS``: structure to metric to value.

    Dice, HD95 and surface Dice are MONAI's (``compute_dice``, ``compute_hausdorff_distance``,
    ``compute_surface_dice``); volumes are in millilitres. Of a structure that one map lacks HD95 is NaN and surface
    Dice 0, as its Dice is; of one that both lack both are NaN.
    """
    if not groups:
        return {}  # MONAI's metrics want one structure at least
    scored = score_validation(predicted, true, groups, spacing_mm)
    millilitres = math.prod(spacing_mm) / 1000
    for name, (one, other) in _masks(predicted, true, groups).items():
        surface = 0.0 if bool((one | other).any()) else math.nan
        if bool(one.any() and other.any()):
            surface = _quietly(compute_surface_dice, *_boxed(one, other), [tolerance_mm], spacing=list(spacing_mm))
        volumes = one.sum().item() * millilitres, other.sum().item() * millilitres
        scored[name] |= dict(zip(METRICS[len(VALIDATED) :], (surface, *volumes), strict=True))
    return scored


def score_validation(predicted: Labels, true: Labels, groups: Groups, spacing_mm: tuple[float, ...]) -> CaseScore:
    """Score as ``score_pair`` does in the metrics of ``VALIDATED`` only, which a run watches while it trains."""
    dice = dice_of(predicted, true, groups)
    scored: CaseScore = {}
    for name, (one, other) in _masks(predicted, true, groups).items():
        hd95 = math.nan
        if bool(one.any() and other.any()):
            hd95 = _quietly(compute_hausdorff_distance, *_boxed(one, other), percentile=95, spacing=list(spacing_mm))
        scored[name] = dict(zip(VALIDATED, (dice[name], hd95), strict=True))
    return scored


def _masks(predicted: Labels, true: Labels, groups: Groups) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the predicted and the true mask [1,1,D,H,W] of every structure."""
    one, other = structures(predicted, groups), structures(true, groups)
    return {name: (one[:, [index]], other[:, [index]]) for index, name in enumerate(groups)}


def _boxed(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut two masks to the box that holds both: the cost of distances grows with the volume."""
    d, h, w = bounding_box((one | other)[0, 0].numpy())
    return one[:, :, d, h, w].float(), other[:, :, d, h, w].float()


def _quietly(metric: Callable[..., torch.Tensor], *arguments: object, **options: object) -> float:
    with warnings.catch_warnings():  # MONAI 1.6 passes itself an argument that it has deprecated
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        return float(metric(*arguments, include_background=True, **options))


def mean_of(score: CaseScore, metric: str) -> float:
    """Average one metric over the structures that have it."""
    values = [metrics[metric] for metrics in score.values() if not math.isnan(metrics[metric])]
    return float(np.mean(values)) if values else math.nan


def average(scores: Scores) -> CaseScore:
    """Average every metric of every structure over the cases that have it."""
    return {
        name: {metric: float(np.mean(values)) if values else math.nan for metric, values in metrics.items()}
        for name, metrics in _defined(scores).items()
    }


def count_cases(scores: Scores) -> dict[str, dict[str, int]]:
    """Count the cases that each mean of ``average`` is over: a structure that a map lacks has no distances."""
    return {
        name: {metric: len(values) for metric, values in metrics.items()} for name, metrics in _defined(scores).items()
    }


def _defined(scores: Scores) -> dict[str, dict[str, list[float]]]:
    """Collect the values that are numbers: structure to metric to one value for each case that has it."""
    found: dict[str, dict[str, list[float]]] = {}
    for case in scores.values():
        for name, metrics in case.items():
            for metric, value in metrics.items():
                found.setdefault(name, {}).setdefault(metric, []).extend([] if math.isnan(value) else [value])
    return found


def by_structure(means: CaseScore, metric: str, left_out: Collection[str] = ()) -> dict[str, float]:
    """Return one metric of every structure, and ``"mean"`` over those that have it and are not ``left_out``."""
    kept = {name: values for name, values in means.items() if name not in left_out}
    return {name: values[metric] for name, values in means.items()} | {"mean": mean_of(kept, metric)}


def penalized(score: CaseScore, diagonal_mm: float) -> CaseScore:
    """Give a number to each HD95 that is not defined, as BraTS does.

    0 mm where both maps lack the structure, and the image's diagonal where one does (373 mm for BraTS' 240,240,155).
    """
    instead = {name: 0.0 if metrics["dice"] == 1 else diagonal_mm for name, metrics in score.items()}
    return {
        name: metrics | ({"hd95_mm": instead[name]} if math.isnan(metrics["hd95_mm"]) else {})
        for name, metrics in score.items()
    }
