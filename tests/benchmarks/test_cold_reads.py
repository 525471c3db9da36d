"""Every way to read brings the same bytes."""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cold_reads import PAGE, WAYS, Options, compare, volume_paths
from benchmarks.measuring.data import forget
from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.shards.store import open_store


def has_direct_reads(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_reads_the_file(coordinate_store: Path, way: str) -> None:
    paths = volume_paths(open_store(coordinate_store))
    assert len(paths) == 10
    for path in paths:
        content = path.read_bytes()
        pages = -(-len(content) // PAGE) * PAGE
        buffer = np.frombuffer(mmap.mmap(-1, pages), np.uint8)
        forget([path])
        if way == "O_DIRECT" and not has_direct_reads(path):
            pytest.skip("this file system has no O_DIRECT")
        WAYS[way](path, buffer if way == "O_DIRECT" else buffer[: len(content)])
        assert buffer[: len(content)].tobytes() == content


def test_a_run_leaves_a_row_for_each_way(coordinate_store: Path, tmp_path: Path) -> None:
    if not has_direct_reads(coordinate_store / "manifest.json"):
        pytest.skip("this file system has no O_DIRECT")
    assert compare(Options(shards=coordinate_store, runs=2, output=tmp_path)) == EXIT_DONE
    (path,) = tmp_path.glob("cold-reads_*.json")
    rows = json.loads(path.read_text())["rows"]
    assert [row["label"] for row in rows] == list(WAYS)
    assert all(0 < row["summary"]["mb_per_s"]["min"] < row["summary"]["mb_per_s"]["max"] for row in rows)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_options_are_these(tmp_path: Path) -> None:
    assert [field.name for field in dataclasses.fields(Options)] == ["shards", "runs", "output"]
    with pytest.raises(InputError, match="--runs 0: it must be at least 1"):
        compare(Options(runs=0, output=tmp_path))
