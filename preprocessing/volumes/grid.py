"""The types that say what a triple is: voxels or millimetres along D, H, W, and boxes of them."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
Int3 = tuple[int, int, int]
Float3 = tuple[float, float, float]
Box = tuple[slice, slice, slice]
