"""Score a network on the whole volumes of held-out cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pipelines.reference import intensity_of
from preprocessing.shards.case import Case
from preprocessing.shards.entries import Manifest
from preprocessing.shards.store import Store
from training.distributed.group import Group
from training.inference.scores import VALIDATED, CaseScore, Groups, Scores, counted, score_validation
from training.inference.sliding import Sliding, predict_volume
from training.model.spec import ModelSpec

OVERLAP = 0.25  # MONAI's default; predict takes more windows for a little more accuracy


def not_among(store: Store, case_ids: Sequence[str], groups: Groups) -> tuple[str, ...]:
    """Name the structures that none of the cases has: whatever was learnt, finding nothing scores Dice 1 there."""
    found = {number for case_id in case_ids for number in store.case(case_id).entry.labels}
    return tuple(name for name, numbers in groups.items() if not found & set(numbers))


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """How to validate: number format, with which processes, and what all of them call with the number of cases done."""

    amp: torch.dtype | None
    group: Group
    on_cases: Callable[[int], None]


def validate(
    network: nn.Module, store: Store, case_ids: Sequence[str], spec: ModelSpec, options: ValidationOptions
) -> Scores:
    """Predict every case whole, each in one process, and return the scores of all (``VALIDATED``) to all processes.

    Process r of n takes cases r, r + n, ...; with 5 cases and 2 processes that is 3 rounds, in the last of which
    process 1 only answers.
    """
    rank, num = options.group.world.rank, options.group.world.world_size
    table = np.zeros((len(case_ids), len(spec.groups), len(VALIDATED)))
    for first in range(0, len(case_ids), num):
        index = first + rank
        if index < len(case_ids):
            scored = _score(network, store.case(case_ids[index]), store.manifest, spec, options.amp)
            table[index] = [[scored[name][metric] for metric in VALIDATED] for name in spec.groups]
        options.on_cases(min(first + num, len(case_ids)))
    table = np.reshape(options.group.sum(table.ravel().tolist()), table.shape)
    return {
        case_id: {
            name: dict(zip(VALIDATED, metrics, strict=True)) for name, metrics in zip(spec.groups, rows, strict=True)
        }
        for case_id, rows in zip(case_ids, table.tolist(), strict=True)
    }


def _score(network: nn.Module, case: Case, manifest: Manifest, spec: ModelSpec, amp: torch.dtype | None) -> CaseScore:
    label = case.label()
    assert label is not None  # the split holds labelled cases only
    how = Sliding(overlap=OVERLAP, amp=amp)
    predicted = predict_volume(network, case.image(), intensity_of(case, manifest), spec, how)
    pair = counted(predicted, label[..., 0], spec.ignore_label)
    return score_validation(*pair, spec.groups, case.spacing_mm)
