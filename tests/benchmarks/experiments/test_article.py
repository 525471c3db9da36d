"""The article's experiments run, tiny, and say what they found; the projections are arithmetic that can be checked."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from benchmarks.article import Options, repeat
from benchmarks.contenders.converters import Work, remade
from benchmarks.contenders.table import TABLE
from benchmarks.experiments.assumptions import INSTANCES
from benchmarks.experiments.epoch import LIMIT, Epoch, Workers, is_unexpected
from benchmarks.experiments.load import Load, prepare_loads
from benchmarks.experiments.memory_limit import memory_limit
from benchmarks.experiments.project import Project, Way
from benchmarks.experiments.project import epoch_seconds as projected
from benchmarks.experiments.split import Split, check_steps
from benchmarks.measuring.check import CheckError
from benchmarks.measuring.data import Experiment, forget
from benchmarks.measuring.epochs import measure_epochs, time_epochs
from benchmarks.measuring.processes import ProcessError
from benchmarks.measuring.rows import Row
from benchmarks.reporting.result import PROJECTED, PUBLISHED, Record, make_row
from pipelines.config import LoaderConfig
from pipelines.loaders import LOADERS
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError, RunError
from preprocessing.layouts.known import read_dataset
from tests.benchmarks.measuring.faulty_loaders import SAME_BATCH, same_batch

P3, P3_LARGE, P4 = INSTANCES
EAT = "import sys; held = bytearray(int(sys.argv[1]) * 10**6); held[::4096] = b'x' * len(held[::4096])"


def record_of(experiment: Any, code: int = EXIT_DONE) -> Record:
    """Run an experiment; check its exit code and what every one leaves behind, and return its record."""
    assert repeat(Options(experiment=experiment)) == code
    (path,) = experiment.output.glob("*.json")
    assert path.name.startswith(f"article-{type(experiment).__name__.lower()}_")
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    page, record = path.with_suffix(".md").read_text(), json.loads(path.read_text())
    assert all(f"| {row['label']} |" in page for row in record["rows"])
    assert "/tmp" not in page + path.read_text()
    return dict(record)


def test_loads_are_timed(msd_folder: Path, tmp_path: Path) -> None:
    record = record_of(Load(source=msd_folder, output=tmp_path, runs=2))
    assert next(row["label"] for row in record["rows"]) == ".nii.gz, MONAI"
    assert all(row["summary"]["wall_ms"]["min"] > 0 for row in record["rows"])


def test_loads_end_with_the_voxels(msd_folder: Path, tmp_path: Path) -> None:
    dataset = read_dataset(msd_folder)
    work = Work(dataset=dataset, source=dataset.sources[0], folder=remade(tmp_path / "case"))
    shapes = {name: np.asarray(load()).shape for name, load in prepare_loads(work).items()}
    *files, patch = shapes.values()
    assert set(files) == {(28, 24, 20, 4)}
    assert patch == (20, 24, 28, 4)


def test_epochs_are_timed(msd_folder: Path, tmp_path: Path) -> None:
    (dali,) = record_of(Epoch(source=msd_folder, output=tmp_path, loaders="dali", cases=5, runs=2))["rows"]
    assert (dali["label"], dali["group"]) == ("dali", "5 cases, memory not limited")
    assert all(dali["summary"][name]["median"] > 0 for name in ("epoch_s", "first_epoch_s"))
    assert dali["summary"]["peak_memory_mb"]["median"] > 100


def test_a_loader_that_fails_fails_the_run(msd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, "same-batch", SAME_BATCH)
    experiment = Epoch(source=msd_folder, output=tmp_path, loaders="same-batch,dali", cases=4, runs=1)
    failed, dali = record_of(experiment, EXIT_UNEXPECTED)["rows"]
    assert failed["failure"].startswith("CheckError: batch 1, slot 0, case case_00")
    assert dali["failure"] is None


def test_a_loader_that_fails_within_a_limit_of_memory_is_a_finding() -> None:
    failed = [make_row(group, "dali", {}, failure="killed") for group in (f"4 cases, {LIMIT} 60 MB", "4 cases", "dali")]
    assert [is_unexpected(row) for row in failed] == [False, True, True]
    assert not is_unexpected(make_row("4 cases", "dali", {"epoch_s": [1.0]}))


@pytest.mark.parametrize("kind", [Epoch, Workers, Split])
def test_unknown_loaders_are_refused_at_once(tmp_path: Path, kind: Any) -> None:
    experiment = kind(source=tmp_path / "nowhere", output=tmp_path, loaders="dali,nope")
    with pytest.raises(InputError, match="--loaders dali,nope: unknown 'nope'; known: auto, all, dali, torch"):
        repeat(Options(experiment=experiment))


def test_a_loader_that_cheats_is_caught(coordinate_store: Path) -> None:
    config = LoaderConfig(store=coordinate_store, patch=(16, 16, 16), num_workers=0)
    with pytest.raises(CheckError, match="batch 1, slot 0"):
        time_epochs(Row(contender=SAME_BATCH, config=config), 1)


def test_workers_are_swept(msd_folder: Path, tmp_path: Path) -> None:
    experiment = Workers(source=msd_folder, output=tmp_path, loaders="dali", workers="0,1", cases=4, runs=1)
    measured = record_of(experiment)["rows"]
    assert [(row["group"], row["label"], row["failure"]) for row in measured] == [
        ("dali", "1", None),
    ]


def test_a_training_step_is_split(msd_folder: Path, tmp_path: Path) -> None:
    experiment = Split(source=msd_folder, output=tmp_path, loaders="torch", patch=(32, 32, 32), cases=5, runs=1)
    (row,) = record_of(experiment)["rows"]
    parts = {name: values["median"] for name, values in row["summary"].items()}
    assert list(parts) == ["disk_ms", "preprocessing_ms", "transfer_ms", "model_ms", "other_ms"]
    assert parts["transfer_ms"] >= 0
    assert all(parts[name] > 0 for name in ("model_ms", "preprocessing_ms"))


def test_no_training_is_split_before_its_loaders_are_checked(
    msd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOADERS, "same-batch", same_batch)
    monkeypatch.setitem(TABLE, "same-batch", SAME_BATCH)
    experiment = Split(source=msd_folder, output=tmp_path, loaders="same-batch", patch=(16, 16, 16), cases=4)
    with pytest.raises(ProcessError, match=r"^same-batch: CheckError: batch 1, slot 0"):
        repeat(Options(experiment=experiment))


def test_trainings_of_other_lengths_are_not_compared() -> None:
    check_steps({"dali": [4, 4], "torch": [4, 4]})
    with pytest.raises(RunError, match=r"dali took \[4, 4\], torch \[4, 3\]"):
        check_steps({"dali": [4, 4], "torch": [4, 3]})


def test_projections_stand_beside_the_article(msd_folder: Path, tmp_path: Path) -> None:
    record = record_of(Project(source=msd_folder, output=tmp_path, cases=4, runs=1))
    kinds = [row["kind"] for row in record["rows"]]
    assert kinds.count(PROJECTED) == 2 * 4 * len(INSTANCES)
    assert kinds.count(PUBLISHED) == 5
    published = [row["summary"]["epoch_s"]["median"] for row in record["rows"] if row["kind"] == PUBLISHED]
    assert published == [300, 30, 31_000, 32_400, 1440]


OURS = Way(name="ours", cpu_s=0.02, missing_cpu_s=0.02, cached_mb=27, stored_mb=27, read_mb=19)


def test_an_epoch_lasts_as_long_as_its_slowest_stage_or_all_of_them() -> None:
    """On ml.p3.2xlarge: one V100 of 5.49 patches/s, 4 cores."""
    assert projected(OURS, P3, 549).limit == "GPU"
    assert projected(OURS, P3, 549).seconds == pytest.approx(100)
    assert projected(OURS, P3_LARGE, 549).seconds == pytest.approx(12.5)
    slow = dataclasses.replace(OURS, cpu_s=2.0)
    assert projected(slow, P3, 549).limit == "processor"
    assert projected(slow, P3, 549).seconds == pytest.approx(549 * 2 / 4)
    serial = dataclasses.replace(slow, is_serial=True)
    assert projected(serial, P3, 549).seconds == pytest.approx(549 * 2 + 100)


def test_the_disk_is_read_where_memory_does_not_hold_the_cases() -> None:
    """1.1 TB lies in 1.2 TiB of FSx at 500 MB/s/TiB; 61 GiB do not hold it, 1152 GiB hold 0.8 TB."""
    large = dataclasses.replace(OURS, cpu_s=0.0, missing_cpu_s=0.0, cached_mb=1000, stored_mb=1000, read_mb=900)
    assert projected(large, P3, 1100).limit == "storage"
    assert projected(large, P3, 1100).seconds == pytest.approx(1100 * 900 / 600)
    assert projected(large, P3, 40).limit == "GPU"
    assert projected(large, P4, 800).limit == "GPU"


def test_what_a_cache_does_not_hold_is_prepared_anew() -> None:
    """0.7 * 61 GiB hold 458 of 916 cases of 100 MB."""
    cached = dataclasses.replace(OURS, cpu_s=0.0, missing_cpu_s=4.0, cached_mb=100)
    held = 0.7 * 61 * 2**30 / 1e8
    assert projected(cached, P3, 916).seconds == pytest.approx(916 - held)  # 4 cores, 4 s each
    assert held == pytest.approx(458, abs=1)


def can_limit_memory() -> bool:
    try:
        with memory_limit(500):
            return True
    except InputError:
        return False


needs_limits = pytest.mark.skipif(not can_limit_memory(), reason="needs root and the memory controller of cgroup v1")


@needs_limits
def test_a_memory_limit_holds_and_leaves_nothing_behind() -> None:
    with memory_limit(100) as prefix:
        assert subprocess.run([*prefix, sys.executable, "-c", EAT, "20"], check=False).returncode == 0
        assert subprocess.run([*prefix, sys.executable, "-c", EAT, "300"], check=False).returncode == -9
        subprocess.run([*prefix, "sh", "-c", "sleep 1000 &"], check=True)
        group = Path(prefix[-1]).parent
        assert (group / "cgroup.procs").read_text()
    assert not group.exists()


@needs_limits
def test_a_loader_that_needs_more_memory_is_a_failed_row(coordinate_store: Path) -> None:
    config = LoaderConfig(store=coordinate_store, patch=(16, 16, 16))
    forget(path for path in coordinate_store.rglob("*") if path.is_file())
    with memory_limit(100) as prefix, pytest.raises(ProcessError, match="killed, as the kernel does"):
        measure_epochs(TABLE["dali"], config, 1, prefix)


def test_forgetting_files_leaves_them_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(10_000))
    before = path.read_bytes()
    forget([path])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (Epoch(memory_mb="much"), "--memory-mb much: give a whole number from 0 on, or several"),
        (Workers(workers="1,-2"), "--workers 1,-2: give a whole number from 0 on"),
        (Load(runs=0), "--runs 0: it must be at least 1"),
        (Load(source=Path("nowhere")), "nowhere"),
    ],
)
def test_wrong_usage_is_one_clear_line(experiment: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        repeat(Options(experiment=experiment))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Load, ""),
        (Epoch, "loaders cases large_cases memory_mb"),
        (Workers, "loaders workers cases"),
        (Split, "loaders patch cases"),
        (Project, "cases"),
    ],
)
def test_options_are_these_and_follow_the_experiment(kind: type[Experiment], names: str) -> None:
    assert [field.name for field in dataclasses.fields(kind)] == ["source", "output", "runs", *names.split()]
    parsed = tyro.cli(Options, args=[kind.__name__.lower(), "--runs", "7"])
    assert type(parsed.experiment) is kind
    assert parsed.experiment.runs == 7
