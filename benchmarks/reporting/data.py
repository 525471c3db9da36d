"""What a result says of its data: how many cases, how many of them differ, how large they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from preprocessing.errors import InputError
from preprocessing.shards import CaseEntry, Store

Description = dict[str, Any]


def describe_data(store: Store) -> Description:
    """Return the data set's name, its labelled cases, and the least, median and largest side of them along each axis.

    ``distinct`` counts the cases that were made from different files: of 8 hard links or copies of 3 cases it is 3.
    Raises ``InputError`` when no case has a label.
    """
    cases = [store.case(case_id) for case_id in store.labelled_ids]
    if not cases:
        raise InputError(f"{store.root}: no case has a label, there is nothing to train on")
    shapes = np.array([case.shape_dhw for case in cases])
    middle = np.sort(shapes, axis=0)[len(shapes) // 2]
    return {
        "name": store.manifest.name,
        "cases": len(cases),
        "distinct": len({_content(case.entry) for case in cases}),
        "channels": len(store.manifest.channel_names),
        "image_dtype": store.manifest.image_dtype,
        "stored_mb": round(sum(shard.size_bytes for shard in store.manifest.shards) / 1e6, 1),
        "shape_dhw": {"min": shapes.min(0).tolist(), "median": middle.tolist(), "max": shapes.max(0).tolist()},
    }


def _content(entry: CaseEntry) -> tuple[str, ...]:
    return tuple(record.xxh3 for record in entry.sources)


def describe_cases(store: Store) -> Description:
    """Return what a result says of its data where its work is not patches: the cases, and their median volume."""
    data = describe_data(store)
    kept = {name: data[name] for name in ("name", "cases", "distinct")}
    return kept | {"median_dhw": data["shape_dhw"]["median"]}


def count_cases(data: Description) -> str:
    """Write how many cases a result has: ``8 cases (3 distinct)``, or ``8 cases`` where all differ.

    Results from before ``distinct`` was counted say nothing of it.
    """
    cases = data["cases"]
    text = f"{cases} case{'' if cases == 1 else 's'}"
    return text if data.get("distinct", cases) == cases else f"{text} ({data['distinct']} distinct)"
