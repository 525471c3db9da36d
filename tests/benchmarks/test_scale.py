"""The scale benchmark runs, tiny; GPUs and file systems come out as published."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders.table import TABLE
from benchmarks.experiments.assumptions import A100, GPUS, H100, LARGE_CASES, STORAGES, V100, fsx_size_tib, gpus_fed
from benchmarks.experiments.scaling import measure_opening, plan_store
from benchmarks.measuring.data import patch_bytes
from benchmarks.measuring.rounds import Measured
from benchmarks.measuring.rows import Row
from benchmarks.reporting.comparison import SHOWN
from benchmarks.reporting.result import PROJECTED
from benchmarks.scale import CASES, OPENING, PAGE_CACHE, RANKS, READING, STORAGE, Options, by_cases_rows, measure_scale
from pipelines.config import LoaderConfig
from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.shards.store import open_store

PATCH = (16, 16, 16)


def test_a_run_leaves_a_record_a_page_and_a_picture(coordinate_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(coordinate_store, tmp_path / "stores" / "shards")
    options = Options(shards=store, output=tmp_path, cases="5,70", runs=2, seconds=0.05)
    assert measure_scale(options) == EXIT_DONE
    assert list(store.parent.iterdir()) == [store]  # the copies with more cases are gone
    (path,) = tmp_path.glob("scale_*.json")
    record = json.loads(path.read_text())
    groups = [row["group"] for row in record["rows"]]
    assert {name: groups.count(name) for name in groups} == {
        OPENING: 2,
        RANKS: 7,
        CASES: 2,
        READING: 1,
        STORAGE: (1 + len(STORAGES)) * len(GPUS),
    }
    assert [row["label"] for row in record["rows"] if row["group"] == RANKS][-1] == "64 ranks"
    assert {row["kind"] for row in record["rows"] if row["group"] == STORAGE} == {PROJECTED}
    rates = {
        row["label"]: row["summary"]["mb_per_s"]["median"] for row in record["rows"] if "mb_per_s" in row["summary"]
    }
    assert {rates[f"{PAGE_CACHE}: {gpu.name}"] for gpu in GPUS} == {rates[PAGE_CACHE]}
    few, many = (row for row in record["rows"] if row["group"] == CASES)
    assert [few["label"], many["label"]] == ["dali, 10 cases", "dali, 70 cases"]
    assert "ratio" not in few["summary"]
    ratio, one, other = many["summary"]["ratio"], many["summary"]["patches_per_s"], few["summary"]["patches_per_s"]
    assert one["min"] / other["max"] <= ratio["min"] <= ratio["max"] <= one["max"] / other["min"]
    assert all(row["failure"] is None for row in record["rows"])
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    page = path.with_suffix(".md").read_text()
    assert "| 64 ranks |" in page
    assert str(tmp_path) not in page + path.read_text()


def test_a_store_of_any_size_is_opened_in_a_process_of_its_own(coordinate_store: Path, tmp_path: Path) -> None:
    store = plan_store(open_store(coordinate_store), 130, tmp_path / "large")
    assert len(open_store(store).labelled_ids) == 130
    assert len(open_store(store).manifest.shards) == 3
    measured = measure_opening(store, runs=2)
    assert len(measured["open_ms"]) == len(measured["memory_mb"]) == 2
    assert min(measured["open_ms"]) > 0


@pytest.mark.parametrize("failed", ["few", "many"])
def test_a_store_that_failed_has_no_ratio(coordinate_store: Path, failed: str) -> None:
    """Also where it failed between two runs."""
    run = dict.fromkeys(SHOWN, 1.0)
    row = Row(contender=TABLE["dali"], config=LoaderConfig(store=coordinate_store, patch=PATCH))
    whole, half = (
        Measured(row=row, runs=[run, run]),
        Measured(row=row, runs=[run], failure="gone"),
    )
    few, many = by_cases_rows([half, whole] if failed == "few" else [whole, half], [10, 70])
    assert [made["failure"] for made in (few, many)] == (["gone", None] if failed == "few" else [None, "gone"])
    assert "ratio" not in few["summary"] | many["summary"]


def test_gpus_and_file_systems_come_out_as_published() -> None:
    assert H100.mlperf_mb_per_s == pytest.approx(2860, rel=1e-3)
    assert gpus_fed(A100, patch_mb=10, mb_per_s=674) == pytest.approx(10)
    assert V100.patches_per_s < A100.patches_per_s < H100.patches_per_s
    assert fsx_size_tib(1e6) == 1.2
    assert fsx_size_tib(1.33e6) == 2.4
    assert fsx_size_tib(LARGE_CASES * 200) == pytest.approx(9.6)
    rates = {storage.name: storage.rate_mb_per_s(2.4) for storage in STORAGES}
    assert rates["FSx persistent, 500 MB/s/TiB"] == 1200
    assert rates["one NVMe drive"] == 2000


def test_a_patch_is_as_large_as_its_voxels(coordinate_store: Path) -> None:
    config = LoaderConfig(store=coordinate_store, patch=PATCH)
    assert patch_bytes(open_store(coordinate_store), config) == 16**3 * (4 * 1 + 1)  # the coordinates fit uint8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": "10,many"}, "--cases 10,many: give a whole number from 1 on, or several"),
        ({"cases": "0"}, "--cases 0"),
        ({"runs": 0}, "--runs 0 --seconds 2: at least 1 run"),
        ({"shards": Path("nowhere")}, "nowhere: no manifest.json there"),
    ],
)
def test_wrong_usage_is_one_clear_line(coordinate_store: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure_scale(dataclasses.replace(Options(shards=coordinate_store), **changes))


def test_options_are_these() -> None:
    assert [field.name for field in dataclasses.fields(Options)] == ["shards", "output", "cases", "runs", "seconds"]
