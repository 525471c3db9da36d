"""From scores to probabilities, labels and structures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from preprocessing.layouts.regions import label_of_regions
from training.model.spec import Labels, ModelSpec

Scores = npt.NDArray[np.floating[Any]]


@torch.inference_mode()
def probabilities(logits: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
    """Turn logits [K,D,H,W], in place, into probabilities: of each region, or of the classes, which add up to 1."""
    if spec.regions is not None:
        return logits.sigmoid_()
    for plane in logits.unbind(dim=1):  # one by one: the maps of a large volume do not fit twice
        plane.copy_(plane.softmax(dim=0))
    return logits


def decode(scores: Iterable[Scores], spec: ModelSpec) -> Labels:
    """Turn K score maps, logits or probabilities less one half, into label ids uint8 of their shape.

    Classes: the largest. Regions: each where its score is positive, painted in order with the label that the region
    stands for: that of the data set's ``regions_class_order``, or from large to small as
    ``preprocessing.layouts.regions.label_of_regions`` has it. Maps are looked at one by one.
    """
    maps = iter(scores)
    first = next(maps)
    label = np.zeros(first.shape, dtype=np.uint8)
    if spec.regions is None:
        largest = first.copy()
        for number, score in enumerate(maps, start=1):
            label[score > largest] = number
            np.maximum(largest, score, out=largest)
        return label
    painted = spec.region_ids or label_of_regions(spec.regions)
    for number, score in zip(painted.values(), chain([first], maps), strict=True):
        label[score > 0] = number
    return label


def structures(label: npt.NDArray[Any], groups: Mapping[str, tuple[int, ...]]) -> torch.Tensor:
    """Split a label map [D,H,W] into masks bool [1,S,D,H,W], one for each group."""
    return torch.from_numpy(np.stack([np.isin(label, numbers) for numbers in groups.values()])[None])
