"""The GPU check, rehearsed on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from benchmarks.gpu.report import SCHEMA
from benchmarks.gpu.rows import loader_rows, training_rows
from benchmarks.gpu_check import Options, check
from pipelines.loaders import LoaderConfig
from preprocessing.errors import EXIT_DONE, InputError

PATCH = (16, 16, 16)


def test_a_rehearsal_trains_and_fills_the_pool(coordinate_store: Path, tmp_path: Path) -> None:
    options = Options(
        shards=coordinate_store,
        cases=6,
        patch=PATCH,
        batch_sizes="2",
        augments="basic",
        nets="segresnet",
        cores="1",
        loaders="synthetic",
        parts="bus,training",
        runs=2,
        seconds=0.1,
        device="cpu",
        output=tmp_path,
    )
    assert check(options) == EXIT_DONE
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".png"}
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    jsonschema.validate(record, SCHEMA)
    assert record["data"]["cases"] == 6
    assert record["bus"]["filled_gb"] > 0
    assert record["bus"]["later_read_gb"] == 0
    (part,) = record["training"]
    (row,) = part["comparison"]["rows"]
    assert (part["cores"], row["label"], row["failure"]) == (1, "synthetic, cpu", None)
    assert row["training"]["of_ceiling"] == 1
    assert row["training"]["steps"] >= 6  # at least 3 in each of 2 runs
    page = path.with_suffix(".md").read_text()
    assert "synthetic, cpu" in page
    assert str(coordinate_store) not in page + path.read_text()


def test_every_source_is_measured(coordinate_store: Path) -> None:
    """On a GPU as well: choosing the rows needs none."""
    config = LoaderConfig(store=coordinate_store, patch=PATCH, batch_size=1, window=1, num_threads=2)
    assert [row.label for row in loader_rows(config, ["dali", "torch", "synthetic"], [4, 1])] == [
        "dali, cpu, 2 threads, volumes on the device",
        "dali, cpu, 2 threads, volumes on the device, at most 0.000189 GiB",
        "dali, cpu, 2 threads",
        "dali, cpu, 2 threads, read dali",
        "torch, cpu, 4 workers",
        "torch, cpu, 1 worker",
        "synthetic, cpu",
    ]
    on_gpu = LoaderConfig(store=coordinate_store, patch=PATCH, batch_size=1, window=4, num_threads=2, device="gpu")
    assert [row.label for row in loader_rows(on_gpu, ["dali"], [])] == [
        "dali, gpu, 2 threads, volumes on the device",
        "dali, gpu, 2 threads, host path",
        "dali, gpu, 2 threads, read dali",
        "dali, gpu, 2 threads, read gds",
        "dali, cpu, 2 threads",
    ]
    assert [row.label for row in training_rows(config, ["synthetic", "dali", "torch"], 1)] == [
        "synthetic, cpu",
        "dali, cpu, 1 thread, volumes on the device",
        "dali, cpu, 1 thread",
        "torch, cpu, 1 worker",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(parts="tests,all"), "--parts tests,all: unknown 'all'; known: tests, bus, loaders, training"),
        (Options(batch_sizes="2,none", device="cpu"), "--batch-sizes 2,none: give a whole number from 1 on"),
    ],
)
def test_wrong_options_are_one_line(coordinate_store: Path, options: Options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(Options(**(vars(options) | {"shards": coordinate_store, "cases": 1})))
