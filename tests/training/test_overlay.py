"""Overlays: the letters at the borders of a picture name the side of the patient that is drawn there."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes

from training.overlay import Background, draw_overlay


@pytest.mark.parametrize(
    ("x_grows_to", "y_grows_to", "z_grows_to"), [("R", "A", "S"), ("L", "P", "S"), ("L", "A", "I"), ("R", "P", "I")]
)
def test_letters_stand_where_the_affine_puts_the_sides(x_grows_to: str, y_grows_to: str, z_grows_to: str) -> None:
    signs = [1 if side in "RAS" else -1 for side in (x_grows_to, y_grows_to, z_grows_to)]
    image = np.zeros((6, 5, 4), np.int16)  # D,H,W
    image[:, :, -1] = 100  # bright where x is largest
    label = np.zeros(image.shape, np.uint8)
    label[2, 2, 2] = 1
    background = Background.of(image, np.diag([2.0 * signs[0], 3.0 * signs[1], 4.0 * signs[2], 1.0]))
    assert background.spacing_mm == (4.0, 3.0, 2.0)
    axial, coronal, sagittal = draw_overlay(background, label, label).axes
    assert _letters(axial)["right"] == _letters(coronal)["right"] == x_grows_to
    assert _letters(axial)["top"] == _letters(sagittal)["right"] == y_grows_to
    assert _letters(coronal)["top"] == _letters(sagittal)["top"] == z_grows_to
    for axes in (axial, coronal, sagittal):
        letters = _letters(axes)
        assert {frozenset(letters[end] for end in pair) for pair in (("left", "right"), ("top", "bottom"))} <= {
            frozenset("RL"),
            frozenset("AP"),
            frozenset("SI"),
        }
    drawn = np.asarray(axial.images[0].get_array())
    assert (drawn[:, -1] == 100).all()  # and x does grow to the right
    assert not drawn[:, 0].any()


def _letters(axes: Axes) -> dict[str, str]:
    places = {(0.02, 0.5): "left", (0.98, 0.5): "right", (0.5, 0.97): "top", (0.5, 0.03): "bottom"}
    return {places[text.get_position()]: text.get_text() for text in axes.texts}
