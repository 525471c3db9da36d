"""Choose the dtype an image is stored in: the smallest that loses nothing, or the one asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocessing.errors import InputError

Array = npt.NDArray[Any]
LOSSLESS_DTYPES = ("uint8", "int16", "uint16", "float32")
DTYPES = ("auto", *LOSSLESS_DTYPES, "float16")


def choose_dtype(channels: list[Array], wanted: str, path: Path) -> tuple[np.dtype[np.generic], float]:
    """Pick the stored dtype; return it with the largest absolute error that storing in it makes."""
    if wanted == "auto":
        lossless = [name for name in LOSSLESS_DTYPES if all(_fits(channel, np.dtype(name)) for channel in channels)]
        chosen = np.dtype(lossless[0] if lossless else "float32")
    else:
        chosen = np.dtype(wanted)
    error = 0.0 if all(_fits(channel, chosen) for channel in channels) else _largest_error(channels, chosen)
    if not np.isfinite(error):
        highest = max(float(np.abs(channel).max()) for channel in channels)
        raise InputError(f"{path} holds {highest:g}, which is infinite in {chosen}; use another --dtype")
    if error and wanted != "auto" and chosen.kind in "iu":
        raise InputError(
            f"{path} cannot be stored as {wanted} (values would change by up to {error:.4g}); use --dtype auto"
        )
    return chosen, error


def _fits(channel: Array, dtype: np.dtype[Any]) -> bool:
    if np.can_cast(channel.dtype, dtype, casting="safe"):
        return True
    lowest, highest = channel.min(), channel.max()
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if lowest < limits.min or highest > limits.max:
            return False
        return channel.dtype.kind in "iu" or bool((channel == np.rint(channel)).all())
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which differs
        return bool((channel.astype(dtype) == channel).all())


def _largest_error(channels: list[Array], dtype: np.dtype[np.generic]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return max(float(np.abs(c.astype(dtype).astype(np.float64) - c).max()) for c in channels)
