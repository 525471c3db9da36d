"""Label ids are consecutive inside and the user's own outside: what leads from one to the other."""

from __future__ import annotations

import dataclasses

from preprocessing.console.errors import InputError
from preprocessing.layouts.dataset import Dataset
from preprocessing.layouts.regions import Regions

MOST_LABELS = 256


def consecutive_ids(dataset: Dataset, regions: Regions | None) -> tuple[Dataset, Regions | None]:
    """Give the labels of a data set the numbers 0 to K - 1, in their order: networks have one output for each.

    Labels 0, 500 and 850 become 0, 1 and 2; ``label_remap`` says so. The label to ignore comes last. Raises
    ``InputError`` for ids below 0, or more labels than a stored label has numbers.
    """
    ids = sorted({0, *dataset.label_names})
    ids += [] if dataset.ignore_label is None else [dataset.ignore_label]
    stored = {number: position for position, number in enumerate(ids)}
    is_fit = ids[-1] < MOST_LABELS and all(stored[number] == number for number in dataset.label_names)
    if dataset.label_remap or is_fit:
        return dataset, regions
    if ids[0] < 0 or len(ids) > MOST_LABELS:
        raise InputError(
            f"{dataset.root}: {len(ids)} labels from id {ids[0]} on; give at most {MOST_LABELS}, from 0 on"
        )
    if 0 not in dataset.label_names:
        del stored[0]  # no voxel may have it, as before
    renamed = dataclasses.replace(
        dataset,
        label_names={stored[number]: name for number, name in sorted(dataset.label_names.items())},
        label_remap=stored,
        ignore_label=None if dataset.ignore_label is None else stored[dataset.ignore_label],
        region_ids={name: stored[number] for name, number in dataset.region_ids.items()},
    )
    return renamed, regions and {name: tuple(stored[number] for number in own) for name, own in regions.items()}
