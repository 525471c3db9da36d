"""The index of the results and the README's table are those that the committed JSON files give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measuring.origin import REPOSITORY
from benchmarks.reporting.index_results import (
    BEGIN,
    END,
    INDEX,
    Options,
    index_page,
    read_results,
    with_table,
    write_index,
)
from preprocessing.console.errors import EXIT_DONE, InputError

RESULTS = REPOSITORY / "benchmarks" / "results"
REMEDY = "run python -m benchmarks.reporting.index_results"


def test_the_committed_index_is_up_to_date() -> None:
    assert (RESULTS / INDEX).read_text(encoding="utf-8") == index_page(read_results(RESULTS)), REMEDY


def test_the_table_in_the_readme_is_up_to_date() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert readme == with_table(readme, read_results(RESULTS)), REMEDY


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the README and the results."""
    shutil.copytree(RESULTS, tmp_path / "benchmarks" / "results")
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    return tmp_path


def newest(checkout: Path) -> Path:
    results = read_results(checkout / "benchmarks" / "results")
    return next(result.path for result in results if result.record["benchmark"] == "loader_compare")


def test_a_newer_result_changes_both(checkout: Path) -> None:
    path = newest(checkout)
    record = json.loads(path.read_text())
    for row in record["rows"]:
        if row["summary"]:
            row["summary"]["patches_per_s"] = {"median": 1234, "min": 1233, "max": 1236}
    record["date"] = "2999-01-01T00:00:00+00:00"
    path.with_stem("later").write_text(json.dumps(record))
    before = (checkout / "README.md").read_text()
    assert write_index(Options(root=checkout)) == EXIT_DONE
    after = (checkout / "README.md").read_text()
    assert "1,234 (1,233..1,236)" in after
    assert "(benchmarks/results/later.md)" in after
    assert after[: after.find(BEGIN)] == before[: before.find(BEGIN)]
    assert after[after.find(END) :] == before[before.find(END) :]
    index = (checkout / "benchmarks" / "results" / INDEX).read_text()
    assert index.index("later.md") < index.index(path.with_suffix(".md").name)


def table_of(checkout: Path, record: dict[str, Any]) -> str:
    """Write ``record`` in the newest comparison's place; the README's table of it."""
    newest(checkout).write_text(json.dumps(record))
    write_index(Options(root=checkout))
    return (checkout / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]


def test_the_table_in_the_readme_says_that_the_machine_was_noisy(checkout: Path) -> None:
    record = json.loads(newest(checkout).read_text())
    assert "noisy" not in table_of(checkout, record | {"doubts": []})
    noisy = table_of(checkout, record | {"doubts": ["runs lie far apart of torch"]})
    assert noisy.strip().endswith("The machine was noisy: the page says which rows to doubt.")


def test_the_table_in_the_readme_says_how_many_cases_differ(checkout: Path) -> None:
    record = json.loads(newest(checkout).read_text())
    data = record["data"] | {"cases": 8}
    assert "8 cases (3 distinct), patches" in table_of(checkout, record | {"data": data | {"distinct": 3}})
    assert "8 cases, patches" in table_of(checkout, record | {"data": data | {"distinct": 8}})
    del data["distinct"]
    assert "8 cases, patches" in table_of(checkout, record | {"data": data})
    assert ", 8 cases |" in (checkout / "benchmarks" / "results" / INDEX).read_text()


def test_the_table_in_the_readme_shows_three_rows_and_of_monai_the_fastest(checkout: Path) -> None:
    record = json.loads(newest(checkout).read_text())
    cached = [row for row in record["rows"] if row["label"].startswith("monai-cache, ")]
    assert len(cached) == 2
    for row, rate in zip(cached, (45.0, 44.0), strict=True):
        row["summary"]["patches_per_s"] = {"median": rate, "min": rate - 1, "max": rate + 1}
        row["summary"]["dali_is"] = dict.fromkeys(("median", "min", "max"), 2.0)
    header, _, *rows = [line for line in table_of(checkout, record).splitlines() if line.startswith("| ")]
    assert header == "| loader | patches/s | dali is | CPU ms per patch | peak memory, MB |"
    assert [row.split(",")[0] for row in rows] == [
        "| ours (`dali`)",
        "| MONAI at its best (`monai-cache`)",
        "| nnU-Net (`nnunet`)",
    ]
    settings = cached[0]["details"]["settings"]
    assert rows[1].startswith(f"| MONAI at its best (`monai-cache`), cpu, {settings} | 45 (44..46) | 2.0x |")


def test_the_table_in_the_readme_says_what_to_know_of_rows(checkout: Path) -> None:
    record = json.loads(newest(checkout).read_text())
    assert "`dali` reuses its buffers (`reuse_buffers=True`, not the default)." in table_of(checkout, record)
    record["rows"] = [row for row in record["rows"] if row["details"]["loader"] == "torch"]
    assert "reuses" not in table_of(checkout, record)


def test_every_result_has_its_page_and_its_picture() -> None:
    for result in read_results(RESULTS):
        assert result.path.with_suffix(".md").exists()
        if result.record["benchmark"] != "gpu-check":  # it has no picture where nothing was trained
            assert result.path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_result_is_named(checkout: Path) -> None:
    (checkout / "benchmarks" / "results" / "odd.json").write_text('{"date": "2026-11-24T08:05:57+00:00"}')
    with pytest.raises(InputError, match=r"odd.json: result: missing or wrong: .*; run its benchmark again"):
        write_index(Options(root=checkout))
    with pytest.raises(InputError, match="no result of loader_compare, or README"):
        with_table("no markers", read_results(RESULTS))
