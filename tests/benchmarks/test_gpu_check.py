"""The GPU check, rehearsed on the CPU."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from benchmarks import gpu_check
from benchmarks.contenders.table import TABLE, Contender
from benchmarks.gpu_check import BUS, TESTS, Options, check, loader_rows, training_rows
from benchmarks.measuring.epochs import measure_bus
from benchmarks.measuring.rows import Row
from benchmarks.reporting.result import check_record
from pipelines.config import LoaderConfig
from pipelines.loaders import open_plan
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError

PATCH = (16, 16, 16)


def options_for(store: Path, output: Path, **changes: Any) -> Options:
    tiny: dict[str, Any] = {
        "cases": 6,
        "patch": PATCH,
        "batch_sizes": "2",
        "augments": "basic",
        "nets": "segresnet",
        "cores": "1",
        "loaders": "synthetic",
        "runs": 2,
        "seconds": 0.1,
        "device": "cpu",
    }
    return Options(shards=store, output=output, **(tiny | changes))


def read_record(output: Path) -> tuple[dict[str, Any], str]:
    (path,) = output.glob("*.json")
    record: dict[str, Any] = json.loads(path.read_text())
    check_record(record)
    return record, path.with_suffix(".md").read_text()


def test_a_rehearsal_trains_and_fills_the_pool(coordinate_store: Path, tmp_path: Path) -> None:
    assert check(options_for(coordinate_store, tmp_path, parts="bus,training")) == EXIT_DONE
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md"}  # the ceiling alone is no picture
    record, page = read_record(tmp_path)
    assert record["data"]["cases"] == 6
    bus, row = record["rows"]
    assert bus["group"] == BUS
    assert bus["summary"]["filled_gb"]["median"] > 0
    assert bus["summary"]["later_read_gb"]["median"] == 0
    assert (row["group"], row["label"]) == ("in training, 1 core, segresnet", "synthetic, cpu")
    assert row["failure"] is None
    assert row["summary"]["of_ceiling"]["median"] == 1
    assert row["summary"]["steps"]["min"] >= 3
    assert "synthetic, cpu" in page
    assert str(coordinate_store) not in page + json.dumps(record)
    assert "unfinished" not in record
    assert "NOT FINISHED" not in page


def test_loaders_are_drawn_alone_and_in_training(coordinate_store: Path, tmp_path: Path) -> None:
    options = options_for(
        coordinate_store, tmp_path, parts="loaders,training", loaders="synthetic,torch", cores="1", runs=1
    )
    assert check(options) == EXIT_DONE
    (picture,) = tmp_path.glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    record, page = read_record(tmp_path)
    assert f"]({picture.name})" in page
    assert list(dict.fromkeys(row["group"] for row in record["rows"])) == [
        "delivered alone, basic, batch 2",
        "in training, 1 core, segresnet",
    ]


def test_what_was_measured_is_kept_when_it_stops(
    coordinate_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_check, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        check(options_for(coordinate_store, tmp_path, parts="bus,loaders"))
    record, page = read_record(tmp_path)
    assert [(row["group"], row["failure"]) for row in record["rows"]] == [(BUS, None)]
    assert record["unfinished"]
    assert "NOT FINISHED" in page


def test_a_failed_test_fails_the_run(coordinate_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"tests": 9, "failures": 2, "errors": 0, "skipped": 1}
    monkeypatch.setattr(gpu_check, "run_tests", lambda: counts)
    assert check(options_for(coordinate_store, tmp_path, parts="tests")) == EXIT_UNEXPECTED
    record, page = read_record(tmp_path)
    (row,) = record["rows"]
    assert (row["group"], row["failure"]) == (TESTS, "2 tests failed")
    assert {name: values["median"] for name, values in row["summary"].items()} == counts
    assert "| 9 | 2 | 0 | 1 |" in page


def test_all_leaves_out_what_is_not_installed_and_says_so(
    coordinate_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = dataclasses.replace(TABLE["torchio"], package="voxelfeed_without_torchio")
    monkeypatch.setitem(TABLE, "torchio", gone)
    few = {name: TABLE[name] for name in ("synthetic", "torchio")}
    with patch.dict(TABLE, few, clear=True):  # puts all back in their order
        assert check(options_for(coordinate_store, tmp_path, parts="loaders", loaders="all", runs=1)) == EXIT_DONE
    record, page = read_record(tmp_path)
    assert [row["label"] for row in record["rows"]] == ["synthetic, cpu"]
    assert 'Left out, needs the package voxelfeed_without_torchio: pip install -e ".[peers]": torchio' in page
    with pytest.raises(InputError, match="--loaders torchio: torchio needs the package voxelfeed_without_torchio"):
        check(options_for(coordinate_store, tmp_path, loaders="torchio"))


def test_the_rate_of_filling_leaves_out_what_was_read_before_it(coordinate_store: Path) -> None:
    """The clock of filling starts when the first batch is there, and with it the volumes of that batch."""
    config = LoaderConfig(store=coordinate_store, patch=PATCH, crop="device", num_threads=1, window=1)
    store, plan = open_plan(config)
    bus = measure_bus(Row(contender=TABLE["dali"], config=config))
    fill_s = (plan.steps_per_epoch - 1) * config.batch_size / bus["fill_patches_per_s"]
    least = min(sum(record.size_bytes for record in entry.files) for _, entry in store.entries()) / 1e9
    assert bus["fill_gb_per_s"] * fill_s < bus["filled_gb"] - least


def contenders(*names: str) -> list[Contender]:
    return [TABLE[name] for name in names]


def test_every_source_is_measured(coordinate_store: Path) -> None:
    """On a GPU as well: choosing the rows needs none."""
    config = LoaderConfig(store=coordinate_store, patch=PATCH, batch_size=1, window=1, num_threads=2)
    assert [row.label for row in loader_rows(config, contenders("dali", "torch", "synthetic"), [4, 1])] == [
        "dali, cpu, 2 threads, volumes on the device",
        "dali, cpu, 2 threads, volumes on the device, at most 0.000189 GiB",
        "dali, cpu, 2 threads",
        "dali, cpu, 2 threads, read dali",
        "torch, cpu, 4 workers",
        "torch, cpu, 1 worker",
        "synthetic, cpu",
    ]
    on_gpu = LoaderConfig(store=coordinate_store, patch=PATCH, batch_size=1, window=4, num_threads=2, device="gpu")
    assert [row.label for row in loader_rows(on_gpu, contenders("dali"), [])] == [
        "dali, gpu, 2 threads, volumes on the device",
        "dali, gpu, 2 threads, host path",
        "dali, gpu, 2 threads, read dali",
        "dali, gpu, 2 threads, read gds",
        "dali, cpu, 2 threads",
    ]
    assert [row.label for row in training_rows(config, contenders("synthetic", "dali", "torch"), 1)] == [
        "synthetic, cpu",
        "dali, cpu, 1 thread, volumes on the device",
        "dali, cpu, 1 thread",
        "torch, cpu, 1 worker",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": "tests,all"}, "--parts tests,all: unknown 'all'; known: tests, bus, loaders, training"),
        ({"batch_sizes": "2,none"}, "--batch-sizes 2,none: give a whole number from 1 on"),
        ({"augments": "basic,loud"}, "--augments basic,loud: unknown 'loud'; known: none, basic, full"),
        ({"nets": "segresnet,vnet"}, "--nets segresnet,vnet: unknown 'vnet'; known: segresnet"),
        ({"loaders": "dali,nope"}, "--loaders dali,nope: unknown 'nope'"),
        ({"runs": 0}, "--runs 0 --seconds 0.1: at least 1 run"),
        ({"patch": (4000, 4000, 4000)}, "needs about .* GiB"),
    ],
)
def test_wrong_options_are_one_line_before_anything_is_measured(
    coordinate_store: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check(options_for(coordinate_store, tmp_path / "output", **changes))
    assert not (tmp_path / "output").exists()


def test_without_pytest_there_is_one_line(
    coordinate_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "TEST_PACKAGES", ("pytest", "voxelfeed_without_pytest"))
    with pytest.raises(InputError, match=r'the tests need voxelfeed_without_pytest: pip install -e "\.\[dev\]"'):
        check(options_for(coordinate_store, tmp_path))


def test_tests_that_leave_no_report_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "REPOSITORY", tmp_path)
    (tmp_path / "conftest.py").write_text("import os\nos._exit(11)\n")
    assert gpu_check.run_tests()["errors"] == 1
