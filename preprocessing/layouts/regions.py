"""Overlapping regions (whole tumour, tumour core, enhancing tumour) from label names, never guessed by number."""

from __future__ import annotations

import re
from collections.abc import Mapping

from preprocessing.console.errors import InputError

Regions = dict[str, tuple[int, ...]]
"""Region name to the label ids it unites, from the largest region to the smallest."""


def resolve_regions(
    label_names: Mapping[int, str], wanted: str = "auto", declared: Regions | None = None
) -> Regions | None:
    """Find the regions of a data set, or ``None`` where it has none (it then trains as ordinary classes).

    ``wanted`` is ``"auto"``, ``"none"`` or an explicit ``"WT=1+2+3,TC=2+3,ET=3"``. ``auto`` finds BraTS regions when
    one label is called edema (or oedema) and one enhancing: WT = every label, TC = WT without edema, ET = the
    enhancing label; the names decide because published numberings disagree. ``declared`` are the
    regions that the data set itself describes: ``auto`` takes them.

    Raises ``InputError`` for a malformed text or a label id that the data set does not have.
    """
    if wanted == "none":
        return None
    if wanted != "auto":
        return _parse_regions(label_names, wanted)
    if declared:
        return declared
    foreground = {number: name.lower() for number, name in label_names.items() if number != 0}
    edema = [number for number, name in foreground.items() if re.search(r"o?edema", name)]
    enhancing = [
        number for number, name in foreground.items() if "enhanc" in name and not re.search(r"non[-_ ]?enhanc", name)
    ]
    if len(edema) != 1 or len(enhancing) != 1:
        return None
    core = tuple(number for number in sorted(foreground) if number not in edema)
    return {"WT": tuple(sorted(foreground)), "TC": core, "ET": (enhancing[0],)}


def _parse_regions(label_names: Mapping[int, str], text: str) -> Regions:
    regions: Regions = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([A-Za-z]\w*)\s*=\s*(\d+(?:\+\d+)*)\s*", part)
        if match is None:
            raise InputError(f"--regions: cannot read {part!r}; write for example WT=1+2+3,TC=2+3,ET=3")
        numbers = tuple(sorted({int(number) for number in match[2].split("+")}))
        unknown = [number for number in numbers if number not in label_names or number == 0]
        if unknown:
            raise InputError(
                f"--regions: {match[1]} names label {unknown[0]}, the data set has {sorted(set(label_names) - {0})}"
            )
        regions[match[1]] = numbers
    return dict(sorted(regions.items(), key=lambda item: -len(item[1])))


def label_of_regions(regions: Regions) -> dict[str, int]:
    """Tell which label id to write where a region is the smallest one predicted.

    Nested regions are painted from large to small, so each stands for the label it adds to the next smaller one:
    ``{"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}`` gives ``{"WT": 1, "TC": 2, "ET": 3}``.
    """
    names = list(regions)
    painted: dict[str, int] = {}
    for position, name in enumerate(names):
        smaller = {number for later in names[position + 1 :] for number in regions[later]}
        own = [number for number in regions[name] if number not in smaller] or list(regions[name])
        painted[name] = own[0]
    return painted


def describe_regions(regions: Regions, label_names: Mapping[int, str]) -> str:
    """Write the mapping in use for people: ``WT = 1 (edema) + 2 (...); TC = ...``."""
    parts = [
        f"{name} = " + " + ".join(f"{number} ({label_names[number]})" for number in numbers)
        for name, numbers in regions.items()
    ]
    return "; ".join(parts)
