"""Score one label map against another with MONAI's metrics."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from preprocessing.statistics import bounding_box
from training.inference import Labels, structures

METRICS = ("dice", "hd95_mm", "surface_dice", "volume_ml", "true_volume_ml")
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
    """Score one label map [D,H,W] against another: structure to metric to value.

    Dice, HD95 and surface Dice are MONAI's (``compute_dice``, ``compute_hausdorff_distance``,
    ``compute_surface_dice``); volumes are in millilitres. Distances of a structure that a map lacks are NaN.
    """
    one, other = structures(predicted, groups).float(), structures(true, groups).float()
    dice = dice_of(predicted, true, groups)
    both = torch.logical_and(one.flatten(2).any(2), other.flatten(2).any(2))[0]
    millilitres = math.prod(spacing_mm) / 1000
    scored: CaseScore = {}
    for index, name in enumerate(groups):
        part = slice(index, index + 1)
        distances = (math.nan, math.nan)
        if bool(both[index]):
            distances = _distances(one[:, part], other[:, part], spacing_mm, tolerance_mm)
        volumes = one[0, index].sum().item() * millilitres, other[0, index].sum().item() * millilitres
        scored[name] = dict(zip(METRICS, (dice[name], *distances, *volumes), strict=True))
    return scored


def _distances(
    one: torch.Tensor, other: torch.Tensor, spacing_mm: tuple[float, ...], tolerance_mm: float
) -> tuple[float, float]:
    """Return (HD95 in mm, surface Dice) of two masks [1,1,D,H,W], cut to the box that holds both."""
    d, h, w = bounding_box((one + other)[0, 0].numpy() > 0)
    one, other = one[:, :, d, h, w], other[:, :, d, h, w]
    spacing = list(spacing_mm)
    with warnings.catch_warnings():  # MONAI 1.6 passes itself an argument that it has deprecated
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        return _measure(one, other, spacing, tolerance_mm)


def _measure(one: torch.Tensor, other: torch.Tensor, spacing: list[float], tolerance_mm: float) -> tuple[float, float]:
    hd95 = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=spacing)
    surface = compute_surface_dice(one, other, [tolerance_mm], include_background=True, spacing=spacing)
    return float(hd95), float(surface)


def mean_of(score: CaseScore, metric: str) -> float:
    """Average one metric over the structures that have it."""
    values = [metrics[metric] for metrics in score.values() if not math.isnan(metrics[metric])]
    return float(np.mean(values)) if values else math.nan


def average(scores: Scores) -> CaseScore:
    """Average every metric of every structure over the cases that have it."""
    names = dict.fromkeys(name for case in scores.values() for name in case)
    return {
        name: {
            metric: mean_of({case_id: case[name] for case_id, case in scores.items() if name in case}, metric)
            for metric in METRICS
        }
        for name in names
    }
