"""Random numbers as a function of position: every use has a stream of its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

STREAM_CASES, STREAM_WINDOW, STREAM_SAMPLE, STREAM_SPLIT, STREAM_AUGMENT, STREAM_LANE = 1, 2, 3, 4, 5, 6


def random_words(seed: int, stream: int, epoch: int, position: int, count: int) -> npt.NDArray[np.uint64]:
    """Return ``count`` random 64-bit words that depend on nothing but the arguments.

    NumPy guarantees the raw words of a bit generator for ever, unlike those of ``Generator.permutation`` (NEP 19).
    """
    counter = np.array([0, position, epoch, stream], dtype=np.uint64)
    return np.asarray(np.random.Philox(key=seed, counter=counter).random_raw(count))


def unit(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Turn random words into floats in [0, 1) with 53 random bits each."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
