"""The comparison of store sizes, tiny."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.store_size import Options, compare
from preprocessing.errors import EXIT_DONE


def test_both_stores_are_measured_and_gone_afterwards(
    coordinate_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = shutil.copytree(coordinate_store, tmp_path / "shards")
    options = Options(shards=store, cases=70, patch=(12, 12, 12), runs=1, seconds=0.1)
    assert compare(options) == EXIT_DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["10 cases", "70 cases", lines[2]]
    assert float(lines[2].removeprefix("ratio ")) > 0
    assert list(tmp_path.iterdir()) == [store]
