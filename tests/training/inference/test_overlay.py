"""Overlays: however the file is ordered, the patient lies in the picture as radiologists look at it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from nibabel.orientations import inv_ornt_aff

from training.inference.overlay import draw_overlay

SIZES_MM = np.array([2.0, 3.0, 4.0])  # towards L, P, S
ORDERS = [
    [*zip(axes, signs, strict=True)]
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize("order", ORDERS[::5])
def test_the_patient_lies_as_radiologists_look_at_it(order: list[tuple[int, int]]) -> None:
    """Build a patient in a known order, turn the file, and expect the same picture."""
    patient = np.arange(4 * 5 * 6).reshape(4, 5, 6) + 1  # x to the left, y to the back, z to the head
    label = np.zeros(patient.shape, np.uint8)
    label[1, 2, 3] = 1
    affine = np.diag([-SIZES_MM[0], -SIZES_MM[1], SIZES_MM[2], 1.0])
    turn = np.array(order, dtype=float)
    back = inv_ornt_aff(turn, patient.shape)  # type: ignore[no-untyped-call]
    image_dhw, label_dhw = (_turned(array, order).T for array in (patient, label))
    axial, coronal, sagittal = draw_overlay(image_dhw, affine @ back, label_dhw, label_dhw).axes
    pictures = [np.asarray(axes.images[0].get_array()) for axes in (axial, coronal, sagittal)]
    np.testing.assert_array_equal(pictures[0], patient[:, :, 3].T)  # rows from front to back
    np.testing.assert_array_equal(pictures[1], patient[:, 2, ::-1].T)  # rows from head to foot
    np.testing.assert_array_equal(pictures[2], patient[1, :, ::-1].T)
    assert [axes.get_aspect() for axes in (axial, coronal, sagittal)] == [3 / 2, 4 / 2, 4 / 3]
    letters = [{text.get_text(): text.get_position() for text in axes.texts} for axes in (axial, coronal, sagittal)]
    assert letters[0]["R"][0] < letters[0]["L"][0]
    assert letters[0]["P"][1] < letters[0]["A"][1]
    assert letters[1]["I"][1] < letters[1]["S"][1]
    assert letters[2]["A"][0] < letters[2]["P"][0]


def _turned(array: np.ndarray, order: list[tuple[int, int]]) -> np.ndarray:
    """Put axis i of the patient at place order[i][0] of the file, backwards where order[i][1] is -1."""
    flipped = array[tuple(slice(None, None, sign) for _, sign in order)]
    return np.moveaxis(flipped, range(3), [place for place, _ in order])
