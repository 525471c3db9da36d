"""The synthetic data set: the same bytes each time, anatomy as promised, never over something else."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from preprocessing.console.errors import InputError
from preprocessing.layouts.known import read_dataset
from preprocessing.layouts.regions import resolve_regions
from preprocessing.phantom import PhantomOptions, make_case, make_phantom, phantom
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert
from tests.preprocessing.conftest import Command, nibabel_voxels, run_process, tree_bytes

TINY = PhantomOptions(cases=2, test_cases=1, shape=(16, 20, 18), seed=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "tiny"
    assert make_phantom(dataclasses.replace(TINY, output=root))
    return root


def test_the_same_options_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    again = tmp_path / "another name"
    assert make_phantom(dataclasses.replace(TINY, output=again))
    assert tree_bytes(again) == tree_bytes(made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another name"]


def test_another_seed_gives_other_heads(made: Path, tmp_path: Path) -> None:
    make_phantom(dataclasses.replace(TINY, output=tmp_path / "other", seed=4))
    name = "imagesTr/PHANTOM_001.nii.gz"
    assert (tmp_path / "other" / name).read_bytes() != (made / name).read_bytes()


def test_more_cases_leave_the_first_ones_as_they_are(made: Path, tmp_path: Path) -> None:
    make_phantom(dataclasses.replace(TINY, output=tmp_path / "more", cases=3))
    before, after = tree_bytes(made), tree_bytes(tmp_path / "more")
    for name in ("imagesTr/PHANTOM_001.nii.gz", "labelsTr/PHANTOM_002.nii.gz"):
        assert after[name] == before[name]


def test_a_second_call_does_nothing(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert not make_phantom(dataclasses.replace(TINY, output=made))
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


@pytest.mark.parametrize("change", [{"seed": 4}, {"cases": 3}, {"shape": (16, 20, 19)}])
def test_another_data_set_is_not_written_over(made: Path, change: dict[str, int]) -> None:
    before = tree_bytes(made)
    with pytest.raises(InputError, match=f"{made} holds something else; delete it or give another --output"):
        make_phantom(dataclasses.replace(TINY, output=made, **change))  # type: ignore[arg-type]
    assert tree_bytes(made) == before


@pytest.mark.parametrize("content", [None, "", "[]", '{"phantom": 1}'])
def test_other_content_is_not_written_over(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(InputError, match="holds something else"):
        make_phantom(dataclasses.replace(TINY, output=tmp_path))


def test_what_an_interrupted_call_left_is_cleared(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "imagesTr", tmp_path / "tiny.tmp" / "strangers")
    assert make_phantom(dataclasses.replace(TINY, output=tmp_path / "tiny"))
    assert tree_bytes(tmp_path / "tiny") == tree_bytes(made)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": 0}, "--cases 0 --test-cases 1: at least 1 and 0 are needed"),
        ({"test_cases": -1}, "--cases 2 --test-cases -1"),
        ({"shape": (16, 15, 18)}, "--shape 16,15,18: every side needs at least 16 voxels"),
        ({"seed": -1}, "--seed -1: it must be between 0 and"),
        ({"seed": 2**64}, "it must be between 0 and"),
    ],
)
def test_impossible_wishes_are_refused(tmp_path: Path, change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_phantom(dataclasses.replace(TINY, output=tmp_path / "never", **change))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40)
@given(shape=st.tuples(*[st.integers(16, 24)] * 3), seed=st.integers(0, 2**64 - 1), number=st.integers(0, 10_000))
def test_every_case_has_all_labels_inside_a_head_on_zero(shape: tuple[int, int, int], seed: int, number: int) -> None:
    image, label = make_case(shape, seed=seed, number=number)
    assert image.shape == (*label.shape, 4)
    assert all(abs(made - wanted) <= wanted / 10 + 1 for made, wanted in zip(label.shape, shape, strict=True))
    assert np.unique(label).tolist() == [0, 1, 2, 3]
    head = np.asarray(image.any(axis=-1))
    assert (image[head] > 0).all()  # nonzero in every contrast, or zero in every contrast
    assert head[label > 0].all()
    assert not head[np.ix_([0, -1], [0, -1], [0, -1])].any()
    assert 0.1 < head.mean() < 0.6


def test_the_parts_of_the_tumour_are_nested_and_the_core_is_enclosed() -> None:
    for number in range(2):
        _, label = make_case((60, 76, 64), seed=0, number=number)
        core, tumour_core, whole = label == 2, label >= 2, label > 0
        assert 50 < core.sum() < tumour_core.sum() < whole.sum() < 0.1 * label.size
        assert tumour_core[binary_dilation(core)].all()  # the enhancing rim lies all around it


def test_the_parts_show_in_the_contrasts_that_show_them() -> None:
    """Edema is bright in FLAIR, the enhancing rim in T1 with contrast agent: each against the tissue around it."""
    image, label = make_case((60, 76, 64), seed=0, number=0)
    tissue = image.any(axis=-1) & (label == 0)
    flair, t1, t1gd, t2 = (image[..., channel].astype(float) for channel in range(4))
    assert flair[label == 1].mean() > 1.3 * flair[tissue].mean()
    assert t1gd[label == 3].mean() > 1.3 * t1gd[label == 2].mean()
    assert t1[label == 2].mean() < t1[tissue].mean()
    assert t2[label == 2].mean() > t2[tissue].mean()


def test_it_is_an_msd_data_set_with_brats_regions(made: Path, tmp_path: Path) -> None:
    dataset = read_dataset(made)
    assert [(source.case_id, source.label is None) for source in dataset.sources] == [
        ("PHANTOM_001", False),
        ("PHANTOM_002", False),
        ("PHANTOM_003", True),
    ]
    assert resolve_regions(dataset.label_names) == {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}
    assert (made / "labelsTs" / "PHANTOM_003.nii.gz").is_file()  # to score a held-out case with
    assert convert(Options(input=made, output=tmp_path / "store", workers=1)) == 0
    store = open_store(tmp_path / "store")
    assert store.labelled_ids == ["PHANTOM_001", "PHANTOM_002"]
    case = store.case("PHANTOM_001")
    source = nibabel_voxels(made / "imagesTr" / "PHANTOM_001.nii.gz")
    assert case.image().size < source.size
    assert np.count_nonzero(case.image()) == np.count_nonzero(source)
    assert case.spacing_mm == (2.5, 2.5, 2.5)


def test_the_command_says_what_it_did(made: Path, command: Command) -> None:
    flags = ["--output", made, "--cases", 2, "--test-cases", 1, "--shape", "16,20,18", "--seed", 3]
    ended = command(phantom, PhantomOptions, *flags)
    assert (ended.code, ended.output, ended.errors) == (0, "", f"{made}: 3 cases, there already\n")
    ended = command(phantom, PhantomOptions, *flags, "--seed", 5)
    assert (ended.code, ended.errors.count("\n")) == (2, 1)


def test_the_real_command_is_silent_but_for_its_line(tmp_path: Path) -> None:
    output = tmp_path / "new"
    ended = run_process(
        "preprocessing.phantom", "--output", output, "--cases", 1, "--test-cases", 0, "--shape", "16,16,16"
    )
    assert (ended.code, ended.output, ended.errors) == (0, "", f"{output}: 1 cases\n")
