"""How the scores of validation cases are averaged."""

from __future__ import annotations

import math

from training.inference.scores import average, by_structure
from training.trainer.record import without_nan


def test_mean_scores_average_structures_and_cases() -> None:
    one = {"WT": {"dice": 1.0, "hd95_mm": 3.0}, "ET": {"dice": 0.5, "hd95_mm": math.nan}}
    other = {"WT": {"dice": 0.5, "hd95_mm": 5.0}, "ET": {"dice": 0.0, "hd95_mm": math.nan}}
    means = average({"a": one, "b": other})
    assert by_structure(means, "dice") == {"WT": 0.75, "ET": 0.25, "mean": 0.5}
    assert without_nan(by_structure(means, "hd95_mm")) == {"WT": 4.0, "ET": None, "mean": 4.0}
