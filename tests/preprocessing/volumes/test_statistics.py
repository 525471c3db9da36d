"""Counts, boxes and summaries against plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from preprocessing.volumes.statistics import FOREGROUND_SAMPLES, bounding_box, label_statistics, summarise

SIDES = npst.array_shapes(min_dims=3, max_dims=3, max_side=6)


@given(
    npst.arrays(
        st.sampled_from(["u1", "i1", "u2", "i2", ">i2", "i4", "f4", "f8"]),
        st.integers(1, 450),
        elements={"min_value": 0, "max_value": 120},
    )
)
def test_summary_equals_numpy(values: npt.NDArray[Any]) -> None:
    values = values.round(6)  # whose squares do not vanish
    made = summarise(values)
    exact = values.astype(np.float64)
    assert made.voxels == values.size
    assert made.mean == pytest.approx(exact.mean(), rel=1e-12)
    assert made.spread == pytest.approx(exact.std(), rel=1e-6, abs=1e-9)
    assert made.std == (made.spread or 1.0)
    low, high = np.percentile(exact, [0.5, 99.5], method="inverted_cdf")
    assert (made.percentile_00_5, made.percentile_99_5) == (low, high)


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "f4"])
def test_summary_of_many_values_over_the_whole_range(dtype: str) -> None:
    random = np.random.default_rng(0)
    limits = (0, 65536) if dtype == "u2" else (-32768, 32768)
    values = random.integers(*limits, size=100_000).astype(dtype)
    values[:2] = limits[0], limits[1] - 1
    made = summarise(values)
    exact = values.astype(np.float64)
    assert made.mean == pytest.approx(exact.mean(), rel=1e-12, abs=1e-9)
    assert made.std == pytest.approx(exact.std(), rel=1e-12)
    low, high = np.percentile(exact, [0.5, 99.5], method="inverted_cdf")
    assert (made.percentile_00_5, made.percentile_99_5) == (low, high)


def test_a_deviation_too_small_for_a_float_can_be_divided_by() -> None:
    assert summarise(np.array([0.0, 5e-266])).std == 1


def test_summary_of_nothing_and_of_one_value_can_be_divided_by() -> None:
    assert summarise(np.empty(0, np.int16)).std == 1
    assert summarise(np.full(5, 9, np.uint8)).std == 1
    for constant in (np.full(5, 9, np.float32), np.full(49, 0.1, np.float32), np.full(7, 0.1), np.full(5, 9, "i4")):
        made = summarise(constant)
        assert (made.mean, made.std, made.spread) == (float(constant[0]), 1.0, 0.0)


@given(npst.arrays(np.bool_, SIDES, fill=st.just(False)))
def test_bounding_box_is_the_smallest(mask: npt.NDArray[np.bool_]) -> None:
    box = bounding_box(mask)
    where = np.nonzero(mask)
    if not mask.any():
        assert box == tuple(slice(0, side) for side in mask.shape)
    else:
        assert box == tuple(slice(axis.min(), axis.max() + 1) for axis in where)


@given(npst.arrays(np.uint8, SIDES, elements=st.sampled_from([0, 0, 0, 1, 2, 255])))
def test_labels_are_counted_boxed_and_all_their_voxels_listed(label: npt.NDArray[np.uint8]) -> None:
    statistics, samples = label_statistics(label, "case")
    assert list(statistics) == np.unique(label).tolist()
    assert list(samples) == [number for number in statistics if number]
    for number, found in statistics.items():
        where = np.argwhere(label == number)
        assert found.voxels == len(where)
        assert found.start_dhw == tuple(where.min(axis=0))
        assert found.stop_dhw == tuple(where.max(axis=0) + 1)
        if number:
            np.testing.assert_array_equal(samples[number], where)
            assert samples[number].dtype == np.uint16


def test_large_labels_are_sampled_evenly_and_the_same_each_time() -> None:
    label = np.zeros((40, 50, 60), np.uint8)
    label[5:, 10:, 20:] = 3  # 56,000 voxels
    _, samples = label_statistics(label, "case")
    drawn = samples[3].astype(int)
    assert drawn.shape == (FOREGROUND_SAMPLES, 3)
    assert len(np.unique(drawn, axis=0)) == FOREGROUND_SAMPLES
    assert (label[tuple(drawn.T)] == 3).all()
    # The middle of each side; the standard error of the mean of 10,000 draws is at most 0.12.
    np.testing.assert_allclose(drawn.mean(axis=0), [22, 29.5, 39.5], atol=0.6)
    np.testing.assert_array_equal(samples[3], label_statistics(label, "case")[1][3])
    assert (samples[3] != label_statistics(label, "other")[1][3]).any()
