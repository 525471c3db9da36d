"""What the folds of a study reached: every fold's model on the cases that it did not see, pooled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from pipelines.reference import intensity_of
from preprocessing.console.progress import shown
from preprocessing.shards.files import write_json
from preprocessing.shards.store import Store
from training.inference.predictor import Predictor
from training.inference.scores import METRICS, Scores, counted, score_pair
from training.inference.sliding import Sliding, predict_volume
from training.model.checkpoint import BEST, load_checkpoint
from training.trainer.record import without_nan
from training.trainer.validate import OVERLAP

FILE_NAME = "held_out.json"
TOLERANCE_MM = 1.0  # of surface Dice, as evaluate's default


def score_held_out(run: Path, store: Store, device: torch.device, amp: torch.dtype | None) -> Scores:
    """Score the best checkpoint of a run on its validation cases in all ``METRICS``, on the stored grid.

    Keeps them in the run folder; what was scored with the same checkpoint before is read back.
    """
    path = run / "checkpoints" / BEST
    checksum = xxhash.xxh3_64_hexdigest(path.read_bytes())
    kept = _read(run / FILE_NAME)
    if kept.get("checkpoint_xxh3") == checksum:
        return _with_nan(kept["cases"])
    content = load_checkpoint(path)
    predictor = Predictor.from_checkpoint(content, Sliding(overlap=OVERLAP, amp=amp), device)
    spec, scores = predictor.spec, {}
    for case_id in shown(list(content["cases"]), f"scoring {run.name}"):
        case = store.case(case_id)
        label = case.label()
        assert label is not None  # it was validated
        intensity = intensity_of(case, store.manifest)
        predicted = predict_volume(predictor.network, case.image(), intensity, spec, predictor.how)
        pair = counted(predicted, label[..., 0], spec.ignore_label)
        scores[case_id] = score_pair(*pair, spec.groups, case.spacing_mm, TOLERANCE_MM)
    write_json(run / FILE_NAME, without_nan({"checkpoint_xxh3": checksum, "cases": scores}))
    return scores


def pooled_rows(folds: Sequence[Scores]) -> Iterator[tuple[str, str, dict[str, tuple[float, float, int]]]]:
    """Yield (part, structure, metric to mean, standard deviation and number of cases): each fold, then all together.

    The pooled figures are over cases, not over folds' means; the deviation is that of the cases (n - 1).
    """
    parts = {f"fold {number}": scores for number, scores in enumerate(folds)}
    parts["all folds"] = {case_id: score for scores in folds for case_id, score in scores.items()}
    for part, scores in parts.items():
        for structure in dict.fromkeys(name for case in scores.values() for name in case):
            yield part, structure, {metric: _spread(scores, structure, metric) for metric in METRICS[:3]}


def worst_cases(folds: Sequence[Scores], count: int) -> list[tuple[float, int, str]]:
    """Return (mean Dice, fold, case id) of the worst cases, the worst first."""
    means = [
        (float(np.mean([metrics["dice"] for metrics in case.values()])), number, case_id)
        for number, scores in enumerate(folds)
        for case_id, case in scores.items()
        if case
    ]
    return sorted(means)[:count]


def _spread(scores: Scores, structure: str, metric: str) -> tuple[float, float, int]:
    values = np.array([case[structure][metric] for case in scores.values() if structure in case], np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan"), 0
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0, len(values)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def _with_nan(scores: Mapping[str, Any]) -> Scores:
    """Undo ``without_nan``."""
    return {
        case_id: {
            name: {metric: float("nan") if value is None else value for metric, value in metrics.items()}
            for name, metrics in case.items()
        }
        for case_id, case in scores.items()
    }
