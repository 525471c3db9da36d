"""Which cases are validated on, and how their scores are averaged."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.console.errors import InputError
from training.inference.scores import average, by_structure
from training.trainer.record import without_nan
from training.trainer.validate import split_cases


@given(count=st.integers(2, 300), fraction=st.floats(0.01, 0.9), seed=st.integers(0, 2**31))
def test_split_is_disjoint_complete_and_ordered(count: int, fraction: float, seed: int) -> None:
    cases = [f"case_{number}" for number in range(count)]
    training, validation = split_cases(cases, fraction, seed)
    assert training
    assert validation
    assert sorted([*training, *validation], key=cases.index) == cases
    assert list(training) == [case for case in cases if case in set(training)]
    assert split_cases(cases, fraction, seed) == (training, validation)
    assert abs(len(validation) - fraction * count) <= 1 or len(validation) in (1, count - 1)


def test_splits_of_different_seeds_differ() -> None:
    cases = [f"case_{number}" for number in range(50)]
    assert split_cases(cases, 0.2, 0) != split_cases(cases, 0.2, 1)
    with pytest.raises(InputError, match="1 labelled cases; at least 2 are needed"):
        split_cases(["only"], 0.2, 0)


def test_mean_scores_average_structures_and_cases() -> None:
    one = {"WT": {"dice": 1.0, "hd95_mm": 3.0}, "ET": {"dice": 0.5, "hd95_mm": math.nan}}
    other = {"WT": {"dice": 0.5, "hd95_mm": 5.0}, "ET": {"dice": 0.0, "hd95_mm": math.nan}}
    means = average({"a": one, "b": other})
    assert by_structure(means, "dice") == {"WT": 0.75, "ET": 0.25, "mean": 0.5}
    assert without_nan(by_structure(means, "hd95_mm")) == {"WT": 4.0, "ET": None, "mean": 4.0}
