"""Score a network on the whole volumes of held-out cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.metrics import compute_dice
from torch import nn

from pipelines.plan import random_words
from pipelines.reference import intensity_of
from preprocessing.errors import InputError
from preprocessing.shards import Store
from training.inference import Labels, ModelSpec, predict_volume, structures, to_input

STREAM_SPLIT = 4
CaseScores = dict[str, dict[str, float]]
"""Case id to structure name to Dice; NaN where the case does not have the structure."""


def split_cases(case_ids: Sequence[str], fraction: float, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split cases into (training, validation), fixed by ``seed``; both keep store order.

    ``fraction`` of the cases, at least one, are held out; 10 cases at 0.2 give 8 and 2. Raises ``InputError`` for fewer
    than two cases.
    """
    if len(case_ids) < 2:
        raise InputError(f"{len(case_ids)} labelled cases; at least 2 are needed, one of them to validate on")
    keys = random_words(seed, STREAM_SPLIT, 0, 0, len(case_ids))
    count = min(max(round(fraction * len(case_ids)), 1), len(case_ids) - 1)
    held_out = {case_ids[index] for index in np.argsort(keys, kind="stable")[:count]}
    return tuple(c for c in case_ids if c not in held_out), tuple(c for c in case_ids if c in held_out)


def validate(
    network: nn.Module,
    store: Store,
    case_ids: Sequence[str],
    spec: ModelSpec,
    device: torch.device,
    *,
    overlap: float = 0.25,
    on_case: Callable[[str, Labels], None] | None = None,
) -> CaseScores:
    """Predict every case and return its Dice per structure; ``on_case`` gets each prediction [D,H,W]."""
    scores: CaseScores = {}
    for case_id in case_ids:
        case = store.case(case_id)
        label = case.label()
        assert label is not None  # the split holds labelled cases only
        image = to_input(case.image(), intensity_of(case, store.manifest), device)
        predicted = predict_volume(network, image, spec, overlap)
        scores[case_id] = dice_scores(predicted, label[..., 0], spec.groups)
        if on_case is not None:
            on_case(case_id, predicted)
    return scores


def dice_scores(predicted: Labels, label: Labels, groups: dict[str, tuple[int, ...]]) -> dict[str, float]:
    """Return Dice per structure of two label maps [D,H,W]; NaN where ``label`` lacks the structure (MONAI's rule)."""
    dice = compute_dice(structures(predicted, groups), structures(label, groups), include_background=True)
    return dict(zip(groups, dice[0].tolist(), strict=True))


def mean_scores(scores: CaseScores) -> dict[str, float]:
    """Average each structure over the cases that have it, then add ``mean`` over the structures."""
    names = list(next(iter(scores.values())))
    averages: dict[str, float] = {}
    for name in names:
        values = [case[name] for case in scores.values() if not np.isnan(case[name])]
        averages[name] = float(np.mean(values)) if values else float("nan")
    averages["mean"] = float(np.nanmean(list(averages.values())))
    return averages
