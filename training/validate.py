"""Score a network on the whole volumes of held-out cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from pipelines.plan import STREAM_SPLIT, random_words
from pipelines.reference import intensity_of
from preprocessing.errors import InputError
from preprocessing.shards import Store
from training.inference import ModelSpec, predict_volume, to_input
from training.scores import dice_of

OVERLAP = 0.25  # MONAI's default; predict takes more windows for a little more accuracy
CaseScores = dict[str, dict[str, float]]
"""Case id to structure name to Dice."""


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
    amp: torch.dtype | None,
    on_case: Callable[[], None],
) -> CaseScores:
    """Predict every case whole and return its Dice per structure; ``on_case`` is called after each."""
    scores: CaseScores = {}
    device = next(network.parameters()).device
    for case_id in case_ids:
        case = store.case(case_id)
        label = case.label()
        assert label is not None  # the split holds labelled cases only
        image = to_input(case.image(), intensity_of(case, store.manifest), device)
        predicted = predict_volume(network, image, spec, OVERLAP, amp)
        scores[case_id] = dice_of(predicted, label[..., 0], spec.groups)
        on_case()
    return scores


def mean_scores(scores: CaseScores) -> dict[str, float]:
    """Average each structure over the cases, then add ``mean`` over the structures."""
    names = list(next(iter(scores.values())))
    averages = {name: float(np.mean([case[name] for case in scores.values()])) for name in names}
    return averages | {"mean": float(np.mean(list(averages.values())))}
