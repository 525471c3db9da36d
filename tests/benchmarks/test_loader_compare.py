"""The comparison from end to end, tiny; and that nothing wrong gets a number."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from benchmarks.check_batches import CheckError, Specification
from benchmarks.loader_compare import Options, compare
from benchmarks.machine import slug_of
from benchmarks.measure import CHECKED, endless
from benchmarks.report_results import cells, markdown
from benchmarks.rows import TABLE, Row, choose_rows
from benchmarks.schema import SCHEMA
from pipelines.batch import Batch
from pipelines.loaders import LOADERS, LoaderConfig, build_loader, open_plan
from preprocessing.errors import EXIT_DONE, EXIT_UNEXPECTED, EXIT_USAGE, InputError
from tests.benchmarks import faulty_loaders
from tests.benchmarks.faulty_loaders import BROKEN_TABLE, FaultyLoader

PATCH = (16, 16, 16)
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loader_compare.py"


def options_for(store: Path, output: Path, **changes: Any) -> Options:
    tiny: dict[str, Any] = {"patch": PATCH, "runs": 2, "seconds": 0.1, "threads": 1, "workers": 1, "device": "cpu"}
    return Options(shards=store, output=output, **(tiny | changes))


def config_for(store: Path) -> LoaderConfig:
    return LoaderConfig(store=store, patch=PATCH, num_threads=2, num_workers=0, reuse_buffers=True)


def read_record(output: Path) -> dict[str, Any]:
    (found,) = output.glob("*.json")
    record: dict[str, Any] = json.loads(found.read_text())
    jsonschema.validate(record, SCHEMA)
    return record


@pytest.fixture(scope="module")
def output(coordinate_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compare all loaders; the folder of the results."""
    folder = tmp_path_factory.mktemp("results")
    assert compare(options_for(coordinate_store, folder, device="auto")) == EXIT_DONE
    return folder


def test_every_row_has_numbers(output: Path) -> None:
    record = read_record(output)
    on_cpu = [row for row in record["rows"] if row["device"] == "cpu"]
    assert [row["loader"] for row in on_cpu] == ["dali", "torch", "synthetic", "numpy-floor"]
    for row in record["rows"]:
        assert row["failure"] is None
        assert len(row["runs"]) == 2
        for metric in ("patches_per_s", "mb_per_s", "first_batch_s", "peak_memory_mb"):
            least, middle, most = (row["summary"][metric][name] for name in ("min", "median", "max"))
            assert 0 < least <= middle <= most
    assert record["data"]["cases"] == 5
    assert record["options"]["patch"] == list(PATCH)


def test_nnunets_augmentation_can_be_compared(coordinate_store: Path, tmp_path: Path) -> None:
    options = options_for(coordinate_store, tmp_path, runs=1, augment="full", loaders="dali,torch,numpy-floor")
    assert compare(options) == EXIT_DONE
    assert [row["failure"] for row in read_record(tmp_path)["rows"]] == [None] * 3


def test_rows_without_a_gpu_are_named(output: Path) -> None:
    record = read_record(output)
    if record["machine"]["gpu"] is None:
        assert [row["label"] for row in record["left_out"]] == [
            "dali, gpu, 1 thread, volumes on the device",
            "torch, gpu, 1 worker",
            "synthetic, gpu",
        ]
    else:
        assert {row["device"] for row in record["rows"]} == {"cpu", "gpu"}


def test_result_files_stand_side_by_side(output: Path) -> None:
    record = read_record(output)
    stem = f"{slug_of(record['machine'])}_{record['date'][:10]}"
    assert sorted(path.name for path in output.iterdir()) == [f"{stem}.{ending}" for ending in ("json", "md", "png")]
    assert (output / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    page = (output / f"{stem}.md").read_text()
    assert page == markdown(record, f"{stem}.png")
    assert all(" | ".join(row) in page for row in cells(record, " "))


def test_results_name_no_path(output: Path, coordinate_store: Path) -> None:
    for path in output.glob("*.[jm]*"):
        assert str(coordinate_store.parent) not in path.read_text()


def test_a_record_off_the_schema_is_refused(output: Path) -> None:
    record = read_record(output)
    changes: tuple[dict[str, Any], ...] = (
        {"host": "node1"},
        {"rows": [{}]},
        {"memory_kind": "guess"},
        {"date": "yesterday"},
    )
    for change in changes:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(record | change, SCHEMA)


@pytest.mark.parametrize("loader_name", ["dali", "torch", "numpy-floor"])
def test_right_loaders_pass_the_check(coordinate_store: Path, loader_name: str) -> None:
    """Also over the end of an epoch, where counting goes on."""
    row = Row(loader=loader_name, config=config_for(coordinate_store))
    specification = Specification(row)
    with build_loader(row.loader, row.config, table=TABLE) as loader:
        for number, batch in zip(range(len(loader) + 2), endless(loader), strict=False):
            specification.check(batch, 0, number)


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        ("SameBatch", "batch 1, slot 0, case case_00.: .* label voxels differ"),
        ("RepeatedSamples", "batch 1: its samples are not those the plan drew"),
        ("MismatchedLabels", "batch 0, slot 0, case case_00.: .* label voxels differ"),
        ("UnnormalisedImage", "batch 0, slot 0, case case_00.: image differs from the reference by 9.., allowed"),
        ("NotANumber", "image differs from the reference by nan"),
        ("HalfPrecision", "batch 0: image is torch.float16"),
        ("SmallerPatch", r"batch 0: image is torch.float32 \(2, 4, 16, 16, 15\), not"),
    ],
)
def test_faulty_loaders_are_caught(coordinate_store: Path, faulty: str, message: str) -> None:
    row = Row(loader=faulty, config=config_for(coordinate_store))
    builder: type[FaultyLoader] = getattr(faulty_loaders, faulty)
    with build_loader(faulty, row.config, table={faulty: builder}) as loader, pytest.raises(CheckError, match=message):
        Specification(row).check_first(endless(loader), CHECKED)


def test_the_ceiling_is_checked_for_its_form(coordinate_store: Path) -> None:
    row = Row(loader="synthetic", config=config_for(coordinate_store))
    with build_loader("synthetic", row.config) as loader:
        batch = next(iter(loader))
    Specification(row).check(batch, 0, 7)
    with pytest.raises(CheckError, match=r"label is torch.float32"):
        Specification(row).check(Batch(image=batch.image, label=batch.label.float(), samples=batch.samples), 0, 0)


def test_failed_rows_fail_the_run_and_say_why(
    coordinate_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = options_for(coordinate_store, tmp_path, runs=1)
    assert compare(options, table=BROKEN_TABLE) == EXIT_UNEXPECTED
    record = read_record(tmp_path)
    reasons = {row["loader"]: row["failure"] for row in record["rows"]}
    assert "batch 1, slot 0" in reasons["same-batch"]
    assert "label voxels differ" in reasons["stale-later"]
    assert reasons["missing-file"] == "FileNotFoundError: STORE/shard-00000/gone.npy"
    assert "exit code 9" in reasons["killed"]
    assert all(row["summary"] is None for row in record["rows"])
    assert capsys.readouterr().out.count("FAILED:") == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loaders": "dali,nope"}, "unknown 'nope'; known: all, dali, torch, synthetic, numpy-floor"),
        ({"loaders": ","}, "--loaders ,: unknown"),
        ({"device": "tpu"}, "--device tpu: unknown; known: auto, cpu, gpu"),
        ({"augment": "loud"}, "unknown augment 'loud'"),
        ({"batch_size": 0}, "--batch-size 0: it must be above 0"),
        ({"seconds": 0.0}, "--seconds 0.0: it must be above 0"),
        ({"workers": -1}, "--workers -1"),
        ({"patch": (4000, 4000, 4000)}, "needs about .* GiB"),
        ({"shards": Path("nowhere")}, "nowhere: no manifest.json there"),
        ({"source": Path("nowhere")}, "nowhere"),
    ],
)
def test_wrong_options_are_one_clear_line(
    coordinate_store: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    options = dataclasses.replace(options_for(coordinate_store, tmp_path / "output"), **changes)
    with pytest.raises(InputError, match=message):
        compare(options)
    assert not (tmp_path / "output").exists()


def test_rows_follow_the_device(coordinate_store: Path) -> None:
    config = config_for(coordinate_store)
    rows, left_out = choose_rows("all", config, "auto", TABLE, has_gpu=True)
    assert not left_out
    assert [row.label for row in rows if row.config.device == "gpu"] == [
        "dali, gpu, 2 threads, volumes on the device",
        "torch, gpu, 0 workers",
        "synthetic, gpu",
    ]
    assert [row.label for row in rows][3:5] == ["numpy-floor, cpu, 1 thread", "numpy-floor, cpu, 2 threads"]
    rows, left_out = choose_rows("dali,dali, torch", config, "cpu", TABLE, has_gpu=False)
    assert ([row.loader for row in rows], left_out) == (["dali", "torch"], [])
    with pytest.raises(InputError, match="no CUDA device here"):
        choose_rows("all", config, "gpu", TABLE, has_gpu=False)
    with pytest.raises(InputError, match="nothing to measure"):
        choose_rows("numpy-floor", config, "gpu", TABLE, has_gpu=True)


def test_started_as_a_file_from_anywhere(coordinate_store: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--shards", str(coordinate_store), "--loaders", "nope"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_USAGE
    assert done.stderr == "error: --loaders nope: unknown 'nope'; known: all, dali, torch, synthetic, numpy-floor\n"


def test_options_are_these() -> None:
    names = "source shards loaders patch batch_size augment output runs seconds threads workers device"
    assert [field.name for field in dataclasses.fields(Options)] == names.split()


def test_the_loaders_of_the_table_are_compared(coordinate_store: Path) -> None:
    assert set(LOADERS) < set(TABLE)
    _, plan = open_plan(config_for(coordinate_store))
    assert plan.options.patch == PATCH


def test_machines_are_named_without_their_host() -> None:
    intel = {"cpu": "Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz", "cores": 16, "gpu": "NVIDIA H100 80GB HBM3"}
    assert slug_of(intel) == "intel-xeon-platinum-8488c-16-cores-nvidia-h100-80gb-hbm3"
    assert slug_of({"cpu": "Intel(R) Xeon(R) Processor", "cores": 2, "gpu": None}) == "intel-xeon-2-cores"
