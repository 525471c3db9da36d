"""Benchmarks that read a store make the default one where it does not exist."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import gpu_check, scale
from benchmarks.measuring.data import ensure_store, repeat_cases
from benchmarks.measuring.origin import count_cases, describe_data
from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.console.flags import DEFAULT_SHARDS
from preprocessing.phantom import DEFAULT_FOLDER


def measure_scale() -> int:
    return scale.measure_scale(scale.Options(cases="12", runs=1, seconds=0.05, output=Path("results")))


def check_gpu() -> int:
    options = gpu_check.Options(cases=6, patch=(12, 12, 12), parts="bus", device="cpu", output=Path("results"))
    return gpu_check.check(options)


@pytest.fixture
def fresh(msd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder without a store; small volumes stand for the phantom, which takes long to make."""
    shutil.copytree(msd_folder, tmp_path / DEFAULT_FOLDER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [measure_scale, check_gpu])
def test_commands_make_the_default_store(fresh: Path, command: Callable[[], int]) -> None:
    assert command() == EXIT_DONE
    assert len(ensure_store(DEFAULT_SHARDS).labelled_ids) == 5
    assert {path.name for path in DEFAULT_SHARDS.parent.iterdir()} == {DEFAULT_SHARDS.name, DEFAULT_FOLDER.name}
    assert list((fresh / "results").glob("*.json"))


def test_no_other_store_is_made(fresh: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no manifest\.json there"):
        ensure_store(fresh / "nowhere")


def test_cases_repeat_in_a_copy_that_goes_away(coordinate_store: Path) -> None:
    store = ensure_store(coordinate_store)
    with repeat_cases(store, 7) as copy:
        root = Path(copy.root)
        assert len(copy.labelled_ids) == 7
        assert count_cases(describe_data(copy)) == "7 cases (5 distinct)"
        assert copy.case(copy.labelled_ids[5]).shape_dhw == store.case(store.labelled_ids[0]).shape_dhw
    assert not root.exists()
    with repeat_cases(store, 5) as same:
        assert same is store
        assert count_cases(describe_data(same)) == "5 cases"
