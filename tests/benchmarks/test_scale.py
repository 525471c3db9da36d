"""The scale benchmark runs, tiny; a plan that breaks a promise is caught; the storage model says what it should."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.experiments.assumptions import A100, GPUS, H100, LARGE_CASES, STORAGES, V100
from benchmarks.experiments.opening import measure_opening, plan_store
from benchmarks.experiments.ranks import check_ranks, check_same_batches, check_sticky, deal, make_plan
from benchmarks.experiments.storage import Reader, fsx_size_tib, gpus_fed, patches_per_s
from benchmarks.measuring.check import CheckError
from benchmarks.reporting.result import PROJECTED
from benchmarks.scale import Options, measure_scale
from benchmarks.scaling.plot import OPENING, POINTS, RANKS, STORAGE
from benchmarks.scaling.throttled_reads import TokenBucket, measure_points, patch_bytes
from pipelines.config import LoaderConfig
from pipelines.plan import Plan
from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.shards.store import open_store

PATCH = (16, 16, 16)


def config_for(store: Path) -> LoaderConfig:
    return LoaderConfig(store=store, patch=PATCH, num_threads=2, window=1)


def small_plan(num_cases: int = 37, *, sticky: bool = False) -> Plan:
    return make_plan(num_cases, 8, PATCH, (20, 24, 28), sticky=sticky)


def test_a_run_leaves_a_record_a_page_and_a_picture(coordinate_store: Path, tmp_path: Path) -> None:
    options = Options(shards=coordinate_store, output=tmp_path, cases="5,300", runs=1, seconds=0.05)
    assert measure_scale(options) == EXIT_DONE
    (path,) = tmp_path.glob("scale_*.json")
    record = json.loads(path.read_text())
    groups = [row["group"] for row in record["rows"]]
    assert {name: groups.count(name) for name in groups} == {
        OPENING: 2,
        RANKS: 7,
        POINTS: 6,
        STORAGE: (1 + len(STORAGES)) * len(GPUS),
    }
    assert [row["label"] for row in record["rows"] if row["group"] == RANKS][-1] == "64 ranks"
    assert {row["kind"] for row in record["rows"] if row["group"] == STORAGE} == {PROJECTED}
    rates = {
        row["label"]: row["summary"]["mb_per_s"]["median"] for row in record["rows"] if "mb_per_s" in row["summary"]
    }
    assert {rates[f"page cache, this machine: {gpu.name}"] for gpu in GPUS} == {rates["not throttled"]}
    assert all(row["failure"] is None for row in record["rows"])
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    page = path.with_suffix(".md").read_text()
    assert "| 64 ranks |" in page
    assert str(coordinate_store.parent) not in page + path.read_text()


def test_a_store_of_any_size_is_opened_in_a_process_of_its_own(coordinate_store: Path, tmp_path: Path) -> None:
    store = plan_store(open_store(coordinate_store), 130, tmp_path / "large")
    assert len(open_store(store).labelled_ids) == 130
    assert len(open_store(store).manifest.shards) == 3
    measured = measure_opening(store, runs=2)
    assert len(measured["open_ms"]) == len(measured["memory_mb"]) == 2
    assert min(measured["open_ms"]) > 0


@pytest.mark.parametrize("num_cases", [1, 5, 8, 37, 64])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_a_right_plan_passes(num_cases: int, world_size: int) -> None:
    plan = small_plan(num_cases)
    dealt = deal(plan, 0)
    check_ranks(plan, dealt, world_size)
    check_same_batches(plan, dealt, world_size)
    sticky = small_plan(num_cases, sticky=True)
    check_sticky(sticky, [deal(sticky, epoch) for epoch in (0, 1)], world_size)


class OverlappingLanes(Plan):
    """All ranks take the first lanes, as if each were alone."""

    def lanes_of(self, rank: int, world_size: int) -> range:  # noqa: ARG002
        return super().lanes_of(0, world_size)


class UnequalLanes(Plan):
    """The first rank takes the lane of the last as well."""

    def lanes_of(self, rank: int, world_size: int) -> range:
        share = super().lanes_of(rank, world_size)
        return range(share.start + (rank > 0), share.stop + (rank < world_size - 1))


def as_kind(kind: type[Plan], plan: Plan) -> Plan:
    return kind(plan.store, plan.case_ids, plan.options, plan.num_channels)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OverlappingLanes, "4 ranks: the lanes are not shared out, each to one rank"),
        (UnequalLanes, "4 ranks: they take different numbers of samples"),
    ],
)
def test_ranks_that_do_not_share_fairly_are_caught(kind: type[Plan], message: str) -> None:
    plan = as_kind(kind, small_plan())
    with pytest.raises(CheckError, match=message):
        check_ranks(plan, deal(plan, 0), 4)


def test_cases_left_out_read_twice_or_by_two_ranks_are_caught() -> None:
    plan = small_plan()
    dealt = deal(plan, 0)
    lost = np.where(dealt == plan.case_ids[3], plan.case_ids[4], dealt)
    with pytest.raises(CheckError, match="1 cases are never read, case_000003 among them"):
        check_ranks(plan, lost, 4)
    with pytest.raises(CheckError, match="48 samples, expected 37 cases"):
        check_ranks(plan, np.concatenate([dealt, dealt[:1]]), 4)
    half = dataclasses.replace(plan.options, samples_per_case=2)
    twice = Plan(plan.store, plan.case_ids, half, plan.num_channels)
    scattered = np.concatenate([dealt, dealt[:, ::-1]])  # every case once on its rank and once on another
    with pytest.raises(CheckError, match="cases are read by more than one rank"):
        check_ranks(twice, scattered, 4)


def test_ranks_that_see_another_batch_are_caught() -> None:
    plan = small_plan()
    with pytest.raises(CheckError, match=r"2 ranks: step \d is another batch than with one rank"):
        check_same_batches(plan, deal(plan, 1), 2)  # the batches of another epoch


def test_lanes_that_change_their_cases_are_caught() -> None:
    plan, sticky = small_plan(), small_plan(sticky=True)
    with pytest.raises(CheckError, match="2 ranks: rank 0 reads other cases than those that stick to its lanes"):
        check_sticky(sticky, [deal(sticky, 0), deal(plan, 1)], 2)


def test_the_model_is_limited_by_the_storage_or_by_the_threads() -> None:
    reader = Reader(patch_mb=19, threads=2, work_s=0.02)
    assert patches_per_s(reader, 190) == pytest.approx(10)
    assert patches_per_s(reader, 1e9) == pytest.approx(100, rel=1e-3)
    assert patches_per_s(reader, 950) == pytest.approx(2 / (0.02 + 0.02))


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


def test_reads_are_held_back_to_the_rate_asked_for(coordinate_store: Path) -> None:
    """A busy machine may only make it slower."""
    config = config_for(coordinate_store)
    patch_mb = patch_bytes(open_store(coordinate_store), config) / 1e6
    assert patch_mb == 16**3 * (4 * 1 + 1) / 1e6  # the coordinates fit uint8
    held_back, free = measure_points(config, [40 * patch_mb, None], runs=2, seconds=0.4)
    assert len(held_back) == len(free) == 2
    assert max(held_back) < 80  # a few patches may lie ready when the time begins


def test_a_disk_serves_one_after_the_other_and_saves_no_idle_time_up() -> None:
    disk = TokenBucket(mb_per_s=2)
    asked_at = (10.0, 10.1, 20.0)
    assert [disk.done_at(1_000_000, second) for second in asked_at] == pytest.approx([10.5, 11.0, 20.5])


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
