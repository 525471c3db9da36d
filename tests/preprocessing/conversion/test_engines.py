"""Outgrowing one machine: shares of an array job and a Dask cluster give byte for byte the store of a single run."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.check import Options as CheckOptions
from preprocessing.check import check
from preprocessing.console.errors import InputError
from preprocessing.conversion import engine as engine_dask
from preprocessing.conversion.engine import _bytes_read, _bytes_written, _rates
from preprocessing.conversion.partition import Partition
from preprocessing.conversion.shard_job import ShardJob, convert_shard, plan_shards
from preprocessing.layouts.dataset import Source
from preprocessing.layouts.known import read_dataset
from preprocessing.merge import Options as MergeOptions
from preprocessing.merge import merge
from preprocessing.to_shards import Options, convert
from preprocessing.volumes.image import ConvertOptions
from tests.conftest import write_msd
from tests.preprocessing.conftest import Command, dataset_of, run_process, tree_bytes

SHAPES = [(6, 7, 8), (7, 6, 5), (5, 9, 6), (8, 8, 8), (4, 5, 6), (6, 6, 6), (9, 5, 7)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make seven small cases, two of them spoilt."""
    root = write_msd(tmp_path / "msd", SHAPES)
    for name in ("case_001", "case_005"):
        (root / "labelsTr" / f"{name}.nii.gz").unlink()
    return root


@pytest.fixture
def wanted(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """Convert them in one run; returns every file of the store."""
    options = Options(input=source, output=tmp_path / "single", workers=1, orientation="RAS", spacing=(1, 1, 1))
    assert convert(options) == 3
    return tree_bytes(tmp_path / "single")


def share(source: Path, output: Path, partition: str, **changes: Any) -> int:
    options: dict[str, Any] = {"workers": 1, "orientation": "RAS", "spacing": (1, 1, 1), "partition": partition}
    return convert(Options(input=source, output=output, **options | changes))


@pytest.mark.parametrize("count", [2, 3, 9])
def test_merged_shares_are_the_store_of_one_run(
    source: Path, wanted: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    codes = [share(source, tmp_path / "store", f"{number}/{count}") for number in range(count, 0, -1)]
    assert 3 in codes
    assert set(codes) <= {0, 3}
    assert not (tmp_path / "store" / "manifest.json").exists()
    assert merge(MergeOptions(shards=tmp_path / "store")) == 3
    assert tree_bytes(tmp_path / "store") == wanted
    assert check(CheckOptions(shards=tmp_path / "store")) == 0


def test_a_report_of_shares_is_made_when_they_are_merged(
    source: Path, wanted: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        share(source, tmp_path / "store", f"{number}/2")
    assert merge(MergeOptions(shards=tmp_path / "store")) == 3
    with caplog.at_level("INFO"):
        assert share(source, tmp_path / "store", "1/1", report=True) == 3
    assert "7 of 7 shards are there already" in caplog.messages
    assert tree_bytes(tmp_path / "store") == wanted
    assert "case_006" in (tmp_path / "store_report.html").read_text()


def test_merging_goes_on_after_a_kill_at_any_step(source: Path, wanted: dict[str, bytes], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    for number in (1, 2):
        share(source, whole, f"{number}/2")
    shards = sorted(whole.glob("part-*/shard-*"))
    assert len(shards) == 7
    for moved in range(8):
        root = shutil.copytree(whole, tmp_path / f"killed_{moved}")
        for shard in shards[:moved]:
            (root / shard.relative_to(whole)).rename(root / shard.name)
        assert merge(MergeOptions(shards=root)) == 3
        assert tree_bytes(root) == wanted
    root = shutil.copytree(whole, tmp_path / "removing")
    assert merge(MergeOptions(shards=root)) == 3
    last = shutil.copytree(whole / "part-00002-of-00002", root / "part-00002-of-00002")
    for shard in last.glob("shard-*"):
        shutil.rmtree(shard)
    assert merge(MergeOptions(shards=root)) == 3
    assert tree_bytes(root) == wanted


def test_shares_that_do_not_fit_are_refused(source: Path, tmp_path: Path, command: Command) -> None:
    root = tmp_path / "store"
    with pytest.raises(InputError, match="no such folder"):
        merge(MergeOptions(shards=root))
    share(source, root, "1/3")
    share(source, root, "3/3")
    ended = command(merge, MergeOptions, "--shards", root)
    assert (ended.code, ended.errors) == (2, f"error: {root}: 1 of 3 shares are missing, the first: --partition 2/3\n")
    share(source, root, "2/3", dtype="float32")
    with pytest.raises(InputError, match="part-00002-of-00003 was converted with other options"):
        merge(MergeOptions(shards=root))
    shutil.rmtree(root / "part-00002-of-00003")
    share(source, root, "2/3")
    (root / "part-00002-of-00003" / "part.json").unlink()
    with pytest.raises(InputError, match="part-00002-of-00003: this share is not finished"):
        merge(MergeOptions(shards=root))
    share(source, root, "2/3")
    shutil.rmtree(next((root / "part-00002-of-00003").glob("shard-*")))
    with pytest.raises(InputError, match=r"shard-0000[0-9] is missing; delete"):
        merge(MergeOptions(shards=root))
    (root / "part-00001-of-00002").mkdir()
    with pytest.raises(InputError, match="shares of 2 and of 3"):
        merge(MergeOptions(shards=root))


@pytest.mark.parametrize("spoilt", ['{"cases": [', '{"cases": []}', '{"cases": [{}], "refused": []}'])
def test_a_damaged_index_of_a_share_is_found_before_anything_is_moved(
    source: Path, wanted: dict[str, bytes], tmp_path: Path, spoilt: str, command: Command
) -> None:
    root = tmp_path / "store"
    for number in (1, 2):
        share(source, root, f"{number}/2")
    last = max(root.glob("part-*/shard-*"))
    (last / "index.json").write_text(spoilt)
    before = tree_bytes(root)
    ended = command(merge, MergeOptions, "--shards", root)
    remedy = f"delete {last} and {last.parent}, and run its --partition again"
    assert (ended.code, ended.errors) == (2, f"error: {last / 'index.json'} is damaged; {remedy}\n")
    assert tree_bytes(root) == before
    shutil.rmtree(last.parent)
    share(source, root, "2/2")
    assert merge(MergeOptions(shards=root)) == 3
    assert tree_bytes(root) == wanted


def test_a_share_that_is_given_again_goes_on(source: Path, wanted: dict[str, bytes], tmp_path: Path) -> None:
    for number in (1, 2):
        share(source, tmp_path / "store", f"{number}/2")
    shutil.rmtree(tmp_path / "store" / "part-00001-of-00002" / "shard-00001")
    assert share(source, tmp_path / "store", "1/2") == 3
    ended = run_process("preprocessing.merge", "--shards", tmp_path / "store")
    assert (ended.code, "Traceback" in ended.errors) == (3, False)
    assert "refused case case_005" in ended.errors
    assert tree_bytes(tmp_path / "store") == wanted


@given(st.integers(1, 40), st.integers(1, 50))
def test_every_shard_is_in_one_share(num_jobs: int, of: int) -> None:
    job = plan_shards(Path(), dataset_of(), Options, cases_per_shard=1, stop_on_error=False)  # type: ignore[arg-type]
    assert job == []
    jobs = [
        ShardJob(root=Path(), name=str(n), sources=[], dataset=dataset_of(), options=None, stop_on_error=False)  # type: ignore[arg-type]
        for n in range(num_jobs)
    ]
    shares = [Partition(number=number, of=of).share(jobs, Path("x")) for number in range(1, of + 1)]
    assert [made.name for part in shares for made in part] == [one.name for one in jobs]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_job_is_as_large_in_any_data_set() -> None:
    sources = [Source(case_id=f"case_{n:05d}", images=(Path(f"case_{n:05d}.nii.gz"),), label=None) for n in range(640)]
    sizes = []
    for count in (64, 640):
        dataset = dataclasses.replace(dataset_of(), sources=sources[:count])
        jobs = plan_shards(Path(), dataset, ConvertOptions(), cases_per_shard=64, stop_on_error=False)
        assert [source for job in jobs for source in job.sources] == dataset.sources
        sizes.append(len(pickle.dumps(jobs[0])))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--partition", "0/4"], "--partition 0/4: write the number of this job and how many there are, 1/4 to 4/4"),
        (["--partition", "5/4"], "--partition 5/4: write"),
        (["--partition", "half"], "--partition half: write"),
        (["--engine", "spark"], "--engine spark: unknown; known: process, dask"),
        (["--engine", "dask"], "--engine dask needs --scheduler tcp://HOST:PORT"),
        (["--scheduler", "x:1"], "--scheduler x:1: not an address such as tcp://HOST:8786"),
        (["--scheduler", "tcp://x:1"], "and --scheduler needs --engine dask"),
    ],
)
def test_wrong_engines_are_wrong_usage(
    source: Path, tmp_path: Path, command: Command, arguments: list[str], message: str
) -> None:
    ended = command(convert, Options, "--input", source, "--output", tmp_path / "store", *arguments)
    assert ended.code == 2
    assert message in ended.errors
    assert not (tmp_path / "store").exists()


# Dask -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Start a real cluster of two processes."""
    with distributed.LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


def test_a_dask_cluster_makes_the_store_of_one_run(
    source: Path, wanted: dict[str, bytes], tmp_path: Path, scheduler: str
) -> None:
    code = share(source, tmp_path / "store", "1/1", engine="dask", scheduler=scheduler)
    assert code == 3
    assert tree_bytes(tmp_path / "store") == wanted
    assert "refused" in json.loads(wanted["errors.json"])


def test_a_dask_cluster_whose_workers_run_in_another_folder_takes_relative_paths(
    source: Path, wanted: dict[str, bytes], tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # after the workers were started
    assert share(Path(source.name), Path("store"), "1/1", engine="dask", scheduler=scheduler) == 3
    assert tree_bytes(tmp_path / "store") == wanted


def test_a_dask_cluster_stops_at_the_first_bad_case(source: Path, tmp_path: Path, scheduler: str) -> None:
    arguments = ["--input", source, "--output", tmp_path / "store", "--on-error", "stop"]
    ended = run_process("preprocessing.to_shards", *arguments, "--engine", "dask", "--scheduler", scheduler)
    assert ended.code == 3
    assert ended.errors.splitlines()[-1].startswith("error: case case_00")
    assert "Traceback" not in ended.errors


def test_a_scheduler_that_does_not_answer_is_said(
    source: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_dask, "CONNECT_S", 1)
    arguments = ["--input", source, "--output", tmp_path / "store", "--engine", "dask"]
    ended = command(convert, Options, *arguments, "--scheduler", "tcp://127.0.0.1:1")
    assert (ended.code, "Traceback" in ended.errors) == (2, False)
    assert "error: --scheduler tcp://127.0.0.1:1: no Dask scheduler answers there" in ended.errors


# What the bar says ------------------------------------------------------------------------------------------------


def test_the_bar_counts_the_bytes_of_sources_and_shards(source: Path, tmp_path: Path) -> None:
    dataset = read_dataset(source)
    (job,) = plan_shards(tmp_path, dataset, ConvertOptions(), cases_per_shard=9, stop_on_error=False)
    assert convert_shard(job) == 5
    files = [path for path in source.rglob("*.nii.gz") if "case_00" in path.name]
    assert _bytes_read(job) == sum(path.stat().st_size for path in files)
    assert _bytes_written(job) == sum(path.stat().st_size for path in (tmp_path / "shard-00000").iterdir())
    assert _rates(np.array([6, 9e6, 33e6]), 3.0) == "2.00/s, 3 MB/s in, 11 MB/s out"
