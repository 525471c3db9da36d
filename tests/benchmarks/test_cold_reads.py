"""Every way to read brings the same bytes."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cold_reads import PAGE, WAYS, Options, compare, drop, volume_paths
from preprocessing.errors import EXIT_DONE
from preprocessing.shards import open_store


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
        drop([path])
        if way == "O_DIRECT" and not has_direct_reads(path):
            pytest.skip("this file system has no O_DIRECT")
        WAYS[way](path, buffer if way == "O_DIRECT" else buffer[: len(content)])
        assert buffer[: len(content)].tobytes() == content


def test_the_comparison_prints_a_line_for_each(coordinate_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not has_direct_reads(coordinate_store / "manifest.json"):
        pytest.skip("this file system has no O_DIRECT")
    assert compare(Options(shards=coordinate_store, runs=1)) == EXIT_DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line[:18].strip() for line in lines] == list(WAYS)
    assert all(float(line[18:].split()[0]) > 0 for line in lines)
