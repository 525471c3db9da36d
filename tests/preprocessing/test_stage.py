"""Staging from folder to folder: nothing is written outside, and what is there already is looked at.

Staging from an object store: ``test_object_store.py``.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from preprocessing.check import find_problems
from preprocessing.console.errors import InputError
from preprocessing.merge import Options as MergeOptions
from preprocessing.merge import merge
from preprocessing.shards.files import write_json, write_manifest, write_sealed
from preprocessing.shards.store import open_store
from preprocessing.stage import Options, stage
from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from tests.preprocessing.conftest import Command, tree_bytes

OUTWARDS = "../../../outside"


def rewrite_index(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the first case of a store's index and make every checksum right again."""
    manifest = open_store(store).manifest
    first = manifest.shards[0]
    path = store / first.name / "index.json"
    content = json.loads(path.read_text())
    change(content["cases"][0])
    write_json(path, content)
    first = dataclasses.replace(first, index_xxh3=xxhash.xxh3_64_hexdigest(path.read_bytes()))
    write_manifest(store, dataclasses.replace(manifest, shards=[first, *manifest.shards[1:]]))


@pytest.mark.parametrize("name", [f"{OUTWARDS}.npy", "/etc/passwd", "..", ".", "", "a\\b.npy", "a\0.npy", 7])
def test_a_file_name_that_leads_out_of_its_folder_is_refused(
    small_store: Path, tmp_path: Path, command: Command, name: object
) -> None:
    index = small_store / "shard-00000" / "index.json"
    (tmp_path / "outside.npy").write_bytes((index.parent / "case_000.image.npy").read_bytes())
    rewrite_index(small_store, lambda case: case["image"].update(name=name))
    ended = command(stage, Options, "--shards", small_store, "--output", tmp_path / "a" / "b" / "out")
    assert (ended.code, ended.errors.count("\n")) == (2, 1)
    assert ended.errors.startswith(f"error: {index}: damaged (InputError(")
    assert "cannot name a file or folder in a store" in ended.errors
    assert list((tmp_path / "a").rglob("*.npy")) == []
    (small_store / "shard-00001" / "case_002.label.npy").unlink()
    bad_name, missing = find_problems(open_store(small_store), fast=False)
    assert bad_name.startswith(f"{index}: damaged")
    assert missing.endswith("case_002.label.npy: missing")


@pytest.mark.parametrize("change", [{"name": OUTWARDS}, {"case_ids": ["case_000", OUTWARDS]}])
def test_so_is_such_a_name_of_a_shard_or_of_a_case(
    small_store: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    content = dataclasses.asdict(open_store(small_store).manifest)
    content["shards"][0] |= change
    write_sealed(small_store / "manifest.json", content)
    with pytest.raises(InputError, match=r"manifest\.json: damaged .*'\.\./\.\./\.\./outside' cannot name a file"):
        stage(Options(shards=small_store, output=tmp_path / "a" / "b" / "out"))


def test_merging_moves_no_shard_from_or_to_elsewhere(small_msd: Path, tmp_path: Path) -> None:
    output = tmp_path / "store"
    for number in (1, 2):
        assert convert(ConvertOptions(input=small_msd, output=output, partition=f"{number}/2", workers=1)) == 0
    part = output / "part-00001-of-00002" / "part.json"
    content = json.loads(part.read_text())
    write_json(part, content | {"shards": [OUTWARDS]})
    with pytest.raises(InputError, match=r"part\.json: damaged .*cannot name a file"):
        merge(MergeOptions(shards=output))


def test_what_is_there_already_is_kept_only_in_the_right_sizes(
    small_store: Path, tmp_path: Path, command: Command
) -> None:
    output = tmp_path / "staged"
    arguments = ("--shards", small_store, "--output", output)
    assert command(stage, Options, *arguments).errors == f"{output}: 2 cases in 2 shards, every checksum matches\n"
    shutil.rmtree(output / "shard-00001")
    again = command(stage, Options, *arguments)
    kept, summed_up = again.errors.splitlines()
    assert kept == "1 of 2 shards are there already, their files of the right sizes"
    assert summed_up.endswith("every checksum matches of the 1 copied now; preprocessing.check reads the others too")
    assert tree_bytes(output) == tree_bytes(small_store)
    label = output / "shard-00000" / "case_000.label.npy"
    label.write_bytes(label.read_bytes()[:-1])
    cut = command(stage, Options, *arguments)
    assert (cut.code, cut.errors.count("\n")) == (2, 1)
    assert f"case case_000: {label}: {label.stat().st_size} bytes, the index says " in cut.errors
    assert f"; delete {label.parent} and run the same command again" in cut.errors
