"""Overlapping regions come from label names; a text that names them otherwise is read exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.console.errors import InputError
from preprocessing.layouts.regions import describe_regions, label_of_regions, resolve_regions

MSD = {0: "background", 1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"}
BRATS = {0: "background", 1: "necrotic / Non_Enhancing core", 2: "peritumoral oedema", 4: "GD-enhancing tumor"}


def test_names_decide_not_numbers() -> None:
    assert resolve_regions(MSD) == {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}
    assert resolve_regions(BRATS) == {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
    swapped = MSD | {1: MSD[3], 3: MSD[1]}
    assert resolve_regions(swapped) == {"WT": (1, 2, 3), "TC": (1, 2), "ET": (1,)}


@pytest.mark.parametrize(
    "names",
    [
        {0: "background", 1: "Anterior", 2: "Posterior"},
        {0: "background", 1: "edema", 2: "core"},
        {0: "background", 1: "edema", 2: "enhancing", 3: "enhancing rim"},
        {0: "edema", 1: "enhancing"},
        {},
    ],
)
def test_other_data_sets_have_no_regions(names: dict[int, str]) -> None:
    assert resolve_regions(names) is None


def test_none_means_none() -> None:
    assert resolve_regions(MSD, "none") is None


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,5}", fullmatch=True),
        st.sets(st.integers(1, 9), min_size=1),
        min_size=1,
        max_size=5,
    )
)
def test_a_written_mapping_is_read_exactly_largest_first(wanted: dict[str, set[int]]) -> None:
    text = ",".join(f"{name}={'+'.join(map(str, numbers))}" for name, numbers in wanted.items())
    regions = resolve_regions(dict.fromkeys(range(10), "label"), text)
    assert regions == {name: tuple(sorted(numbers)) for name, numbers in wanted.items()}
    sizes = [len(numbers) for numbers in regions.values()]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("WT=1+2,TC", "cannot read 'TC'; write for example"),
        ("WT=", "cannot read 'WT='"),
        ("1+2", "cannot read"),
        ("", "cannot read ''"),
        ("WT=1+2,ET=4", r"ET names label 4, the data set has \[1, 2, 3\]"),
        ("WT=0+1", "WT names label 0"),
    ],
)
def test_a_mapping_that_cannot_be_used_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"--regions: .*{message}"):
        resolve_regions(MSD, text)


@given(st.permutations([1, 2, 3, 4]), st.integers(1, 4))
def test_painting_nested_regions_gives_the_labels_back(order: list[int], depth: int) -> None:
    """Regions that each leave out one more label tell every label apart."""
    regions = {f"R{first}": tuple(sorted(order[first:])) for first in range(depth)}
    painted = label_of_regions(regions)
    labels = np.array(order[:depth])
    made = np.zeros_like(labels)
    for name, numbers in regions.items():
        made[np.isin(labels, numbers)] = painted[name]
    innermost = regions[f"R{depth - 1}"][0]  # the last region may unite several: the smallest id stands for them
    np.testing.assert_array_equal(made, [*order[: depth - 1], innermost])


def test_the_mapping_in_use_is_told_with_names() -> None:
    assert describe_regions({"WT": (1, 3), "ET": (3,)}, MSD) == (
        "WT = 1 (edema) + 3 (enhancing tumour); ET = 3 (enhancing tumour)"
    )
