"""Large sets from small ones by hard links."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measuring.origin import count_cases, describe_data
from benchmarks.measuring.replicate import replicate
from preprocessing.check import Options as CheckOptions
from preprocessing.check import check
from preprocessing.console.errors import InputError
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from tests.conftest import SHAPES


def test_a_replicated_store_is_whole_and_takes_no_room(coordinate_store: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    replicate(coordinate_store, large, 23, cases_per_shard=4)
    assert check(CheckOptions(shards=large)) == 0
    store, original = open_store(large), open_store(coordinate_store)
    assert len(store.case_ids) == len(store.labelled_ids) == 23
    assert len(store.manifest.shards) == 6
    assert store.source_root == original.source_root is not None
    for position, case_id in enumerate(store.case_ids):
        case, source = store.case(case_id), original.case(original.case_ids[position % 5])
        assert np.array_equal(case.image(), source.image())
        assert np.array_equal(case.foreground()[3], source.foreground()[3])
        assert Path(case.folder, case.entry.image.name).samefile(Path(source.folder, source.entry.image.name))


def test_only_labelled_cases_of_a_store_are_repeated(msd_folder: Path, tmp_path: Path) -> None:
    source = shutil.copytree(msd_folder, tmp_path / "set")
    described = json.loads((source / "dataset.json").read_text())
    described["test"] = [entry["image"] for entry in described["training"][:2]]
    del described["training"][:2]
    (source / "dataset.json").write_text(json.dumps(described))
    assert convert(ConvertOptions(input=source, output=tmp_path / "store", workers=1)) == 0
    assert len(open_store(tmp_path / "store").case_ids) == 5
    replicate(tmp_path / "store", tmp_path / "large", 7)
    assert len(open_store(tmp_path / "large").labelled_ids) == 7


def test_a_replicated_data_set_converts(msd_folder: Path, tmp_path: Path) -> None:
    replicate(msd_folder, tmp_path / "large", 7)
    assert json.loads((tmp_path / "large" / "dataset.json").read_text())["numTraining"] == 7
    assert convert(ConvertOptions(input=tmp_path / "large", output=tmp_path / "store", workers=1)) == 0
    store = open_store(tmp_path / "store")
    assert len(store.case_ids) == 7
    assert count_cases(describe_data(store)) == "7 cases (5 distinct)"  # though their files have names of their own
    assert [store.case(name).source_shape_dhw for name in store.case_ids[:3]] == [SHAPES[0], SHAPES[0], SHAPES[1]]


def test_what_cannot_be_repeated_is_wrong_usage(coordinate_store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a store nor a data set in MSD layout"):
        replicate(tmp_path, tmp_path / "large", 1)
    with pytest.raises(InputError, match="exists; give another folder"):
        replicate(coordinate_store, tmp_path, 1)
    assert not (tmp_path / "large").exists()
