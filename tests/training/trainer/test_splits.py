"""Who trains and who validates: held-out shares, folds, groups of one patient, and split files of other tools."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.console.errors import InputError
from training.options import Options, check_options
from training.trainer.splits import CaseSplit, choose_split, grouping, make_folds, read_split, split_cases, write_folds

CASES = [f"case_{number:02d}" for number in range(10)]
VISITS = [f"p{patient:02d}_v{visit}" for patient in range(20) for visit in (1, 2)]


@given(count=st.integers(2, 300), fraction=st.floats(0.01, 0.9), seed=st.integers(0, 2**31))
def test_split_is_disjoint_complete_and_ordered(count: int, fraction: float, seed: int) -> None:
    cases = [f"case_{number}" for number in range(count)]
    training, validation = split_cases(cases, fraction, seed)
    assert training
    assert validation
    assert sorted([*training, *validation], key=cases.index) == cases
    assert list(training) == [case for case in cases if case in set(training)]
    assert split_cases(cases, fraction, seed) == (training, validation)
    assert abs(len(validation) - fraction * count) <= 1 or len(validation) in (1, count - 1)


def test_splits_of_different_seeds_differ() -> None:
    cases = [f"case_{number}" for number in range(50)]
    assert split_cases(cases, 0.2, 0) != split_cases(cases, 0.2, 1)
    with pytest.raises(InputError, match="1 labelled cases; at least 2 are needed"):
        split_cases(["only"], 0.2, 0)


@settings(max_examples=1000)
@given(groups=st.lists(st.integers(1, 6), min_size=5, max_size=40), seed=st.integers(0, 2**32), folds=st.integers(2, 5))
def test_no_patient_is_on_both_sides(groups: list[int], seed: int, folds: int) -> None:
    """Groups of random sizes: each is whole in one fold, every case in one; folds differ by one group at most."""
    ids = [f"p{number}_v{visit}" for number, size in enumerate(groups) for visit in range(size)]
    group_of = grouping("(.+)_v")
    made = make_folds(ids, folds, seed, group_of)
    assert sorted(case_id for fold in made for case_id in fold) == sorted(ids)
    where = {
        group: {index for index, fold in enumerate(made) for c in fold if group_of(c) == group}
        for group in map(group_of, ids)
    }
    assert all(len(indices) == 1 for indices in where.values())
    assert max(map(len, made)) - min(map(len, made)) <= max(groups)
    training, validation = split_cases(ids, 0.2, seed, group_of)
    assert not set(map(group_of, training)) & set(map(group_of, validation))


def test_folds_are_fixed_by_the_seed_and_cover_every_case_once() -> None:
    splits = [choose_split(Options(folds=3, fold=fold), CASES) for fold in range(3)]
    assert sorted(map(len, (split.validation for split in splits))) == [3, 3, 4]
    assert Counter(case_id for split in splits for case_id in split.validation) == Counter(CASES)
    assert all(set(split.training) | set(split.validation) == set(CASES) for split in splits)
    assert choose_split(Options(folds=3), CASES) == splits[0]
    assert choose_split(Options(folds=3, seed=1), CASES) != splits[0]


def test_without_groups_visits_of_one_patient_part_and_with_them_they_do_not() -> None:
    patients = grouping("(.+)_v")
    for group_by, apart in (("", True), ("(.+)_v", False)):
        split = choose_split(Options(group_by=group_by), VISITS)
        both = set(map(patients, split.training)) & set(map(patients, split.validation))
        assert bool(both) == apart
    assert len(choose_split(Options(group_by="(.+)_v"), VISITS).validation) == 8


def test_folds_are_left_in_nnunets_form_and_read_back(tmp_path: Path) -> None:
    split = choose_split(Options(folds=5, fold=2), CASES)
    write_folds(tmp_path, split)
    content = json.loads((tmp_path / "splits_final.json").read_text())
    assert [sorted(part) for part in content[2].values()] == [sorted(split.training), sorted(split.validation)]
    again = choose_split(Options(splits=tmp_path / "splits_final.json", fold=2), CASES)
    assert (again.training, again.validation) == (split.training, split.validation)


FILES: dict[str, tuple[str, Any]] = {
    "nnunet": ("splits_final.json", [{"train": ["x"], "val": ["y"]}, {"train": ["a", "b"], "val": ["c"]}]),
    "msd": (
        "dataset.json",
        {
            "training": [{"image": "./imagesTr/a.nii.gz", "label": "l"}, {"image": ["b.nii.gz", "b2.nii.gz"]}],
            "validation": ["./imagesTr/c.nii.gz"],
        },
    ),
    "monai": ("list.json", {"training": [{"image": f"{c}.nii.gz", "fold": int(c == "c")} for c in "abc"]}),
    "csv": ("folds.csv", "id,fold\na,0\nb,0\nc,1\n"),
}


@pytest.mark.parametrize("kind", FILES)
def test_split_files_of_other_tools_are_read(tmp_path: Path, kind: str) -> None:
    name, content = FILES[kind]
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert read_split(tmp_path / name, 1) == (["a", "b"], ["c"])
    split = choose_split(Options(splits=tmp_path / name, fold=1), ["c", "b", "a"])
    assert split == CaseSplit(training=("b", "a"), validation=("c",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"train": ["a"], "val": ["a", "b"]}], "1 cases are in both parts, the first: a"),
        (
            [{"train": ["a", "z", "y"], "val": ["b"]}],
            "2 of its 4 cases are not among the 3 labelled ones of the store, the first: z",
        ),
        ([{"train": ["a"], "val": []}], "has no validation case"),
        ([{"train": [], "val": ["a"]}], "has no training case"),
        ([], "--fold 0: .* has 0 folds"),
        ([{"train": ["a"]}], "no split that can be read .'val' is missing"),
        ({"training": [{"image": "a.nii.gz"}]}, "no split that can be read .'fold' is missing"),
        ("id,set\na,0\n", "a split needs the columns id and fold"),
        ("id,fold\na,2\n", "--fold 0: .* has the folds 2"),
    ],
)
def test_what_is_no_split_of_this_store_is_one_line(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / ("split.csv" if isinstance(content, str) else "split.json")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=said):
        choose_split(Options(splits=path), ["a", "b", "c"])


def test_cases_in_neither_part_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "s.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    with caplog.at_level(logging.WARNING):
        choose_split(Options(splits=tmp_path / "s.json"), ["a", "b", "c"])
    assert "1 labelled cases of the store are in neither part" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(splits=Path("s.json"), folds=3), "--splits s.json and --folds 3: give one of them"),
        (Options(splits=Path("s.json"), group_by="x"), "--group-by x: --splits says already who goes where"),
        (Options(folds=1), "--folds 1: 0 .none., or 2 and more"),
        (Options(folds=3, fold=3), "--fold 3: counts from 0, and --folds is 3"),
        (Options(fold=1), "--fold 1: counts from 0, and --folds is 0"),
        (Options(group_by="("), "--group-by .: not a regular expression"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_opened(options: Options, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_options(options)


def test_a_pattern_has_to_fit_every_case() -> None:
    with pytest.raises(InputError, match=r"--group-by .*: does not fit case case_00; every case has to tell its group"):
        choose_split(Options(group_by="(.+)_v"), CASES)
    with pytest.raises(InputError, match="--folds 5: there are 2 groups of cases; give at most that many folds"):
        choose_split(Options(folds=5, group_by="[01]$"), ["a0", "b0", "c1"])


def test_the_data_sets_own_validation_cases_are_used_unless_something_else_is_asked_for() -> None:
    recorded = {"validation": ["case_07", "case_02", "unlabelled"]}
    split = choose_split(Options(), CASES, recorded)
    assert split.validation == ("case_02", "case_07")
    assert sorted((*split.training, *split.validation)) == CASES
    for other in (Options(held_out=0.3), Options(folds=2)):
        assert choose_split(other, CASES, recorded) == choose_split(other, CASES)
    assert choose_split(Options(), CASES, {"validation": ["unlabelled"]}) == choose_split(Options(), CASES)
