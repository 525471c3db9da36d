"""The steady state, tiny: many cases, many batches, and the host path against a plain copy of the same patches."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.measuring.messages import Run
from benchmarks.measuring.rounds import Measured
from benchmarks.measuring.rows import Row
from benchmarks.steady import by_cases, growth, host_copy
from benchmarks.steady_state import Options, measure_steady_state
from pipelines.config import LoaderConfig
from pipelines.dali.host_patches import HostPatches
from pipelines.loaders import open_plan
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError, RunError

PATCH = (12, 12, 12)


def measured(store: Path, output: Path, code: int = EXIT_DONE, **changes: Any) -> dict[str, dict[str, Any]]:
    """Run the command; the rows by their labels."""
    tiny: dict[str, Any] = {"cases": 70, "batches": 20, "patch": PATCH, "runs": 2, "seconds": 0.1}
    assert measure_steady_state(Options(shards=store, output=output, **(tiny | changes))) == code
    (path,) = output.glob("steady-state_*.json")
    assert {found.suffix for found in output.iterdir()} == {".json", ".md", ".png"}
    return {row["label"]: row for row in json.loads(path.read_text())["rows"]}


def test_every_part_is_measured_and_the_copies_are_gone(coordinate_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(coordinate_store, tmp_path / "stores" / "shards")
    rows = measured(store, tmp_path / "results")
    few, many, host, device, plain, fed = rows.values()
    assert [row["label"] for row in (few, many)] == ["10 cases", "70 cases"]
    assert [row["label"] for row in (host, device)] == ["crop host, 20 batches", "crop device, 20 batches"]
    assert [row["group"] for row in (plain, fed)] == [host_copy.GROUP] * 2
    assert all(row["summary"]["faults_per_batch"]["median"] >= 0 for row in (host, device))
    for less, more in ((few, many), (plain, fed)):
        assert "ratio" not in less["summary"]
        ratio, one, other = more["summary"]["ratio"], more["summary"]["patches_per_s"], less["summary"]["patches_per_s"]
        assert one["min"] / other["max"] <= ratio["min"] <= ratio["max"] <= one["max"] / other["min"]
    assert plain["summary"]["mb_per_s"]["median"] / plain["summary"]["patches_per_s"]["median"] == pytest.approx(
        12**3 * (4 + 1) / 1e6  # four channels of uint8, and the label
    )
    assert list(store.parent.iterdir()) == [store]


def copy_config(store: Path, **changes: Any) -> LoaderConfig:
    return LoaderConfig(store=store, patch=PATCH, augment="none", **changes)


def test_the_plain_copy_brings_the_patches_that_the_plan_drew(coordinate_store: Path) -> None:
    """Also that it goes through all of them, and through all buffers."""
    store, plan = open_plan(copy_config(coordinate_store, samples_per_case=4))
    plain = host_copy.PlainCopy.of(store, plan)
    assert plain.seconds(plan, 0) > 0
    assert (len(plain.buffers), plan.steps_per_epoch) == (10, 12)
    for number in range(14, 24):  # the last to be copied into each buffer
        image, label = plain.buffers[number % 10]
        (wanted, labels) = plain.patches(plan, 0, number // 2)[number % 2]
        assert np.array_equal(image, wanted)
        assert np.array_equal(label, labels)


def test_other_voxels_than_a_plain_copy_are_caught(coordinate_store: Path) -> None:
    store, plan = open_plan(copy_config(coordinate_store))
    plain = host_copy.PlainCopy.of(store, plan)
    path = HostPatches(store, plan, range(2), num_slots=2, num_threads=1, device=torch.device("cpu"))
    assert host_copy.host_path_seconds(path, plain, 0) > 0
    shifted = {case_id: (image + 1, label) for case_id, (image, label) in plain.maps.items()}
    with pytest.raises(RunError, match="step 0: the host path delivers other voxels than lie in the maps"):
        host_copy.host_path_seconds(path, dataclasses.replace(plain, maps=shifted), 0)
    path.close()


def test_a_failure_fails_the_run(coordinate_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RunError("other voxels")

    monkeypatch.setattr(host_copy, "copy_rows", fails)
    monkeypatch.setattr(by_cases, "rows_by_cases", lambda *_: iter(()))
    monkeypatch.setattr(growth, "growth_rows", lambda *_: iter(()))
    rows = measured(coordinate_store, tmp_path, EXIT_UNEXPECTED)
    assert rows["host path"]["failure"] == "other voxels"


@pytest.mark.parametrize("failed", ["few", "many"])
def test_a_store_that_failed_has_no_ratio(coordinate_store: Path, failed: str) -> None:
    """Also where it failed between two runs."""
    run = Run(batches=12, batch_bytes=1, wall_s=1.0, first_batch_s=0.1, cpu_s=1.0, others_cpu_s=0.0)
    row = Row(loader="dali", config=copy_config(coordinate_store))
    whole, half = Measured(row=row, runs=[run, run]), Measured(row=row, runs=[run], failure="gone")
    few, many = by_cases.rows_of(*((half, whole) if failed == "few" else (whole, half)), 70)
    assert [made["failure"] for made in (few, many)] == (["gone", None] if failed == "few" else [None, "gone"])
    assert "ratio" not in few["summary"] | many["summary"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": 0}, "--cases, --batches and --runs are at least 1"),
        ({"patch": (8, 8, 4000)}, r"--patch 8,8,4000: volumes of .* are as small as \d+,\d+,\d+; give at most that"),
    ],
)
def test_wrong_options_are_one_clear_line(
    coordinate_store: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        measure_steady_state(dataclasses.replace(Options(shards=coordinate_store, output=tmp_path), **changes))


def test_options_are_these() -> None:
    names = "shards output patch cases batches runs seconds"
    assert [field.name for field in dataclasses.fields(Options)] == names.split()
