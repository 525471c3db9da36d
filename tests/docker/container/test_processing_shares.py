"""``process`` on three hosts with a folder that all see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from preprocessing.to_shards import Options, convert
from tests.conftest import write_msd
from tests.docker.conftest import ARN, Host, make_hosts
from tests.preprocessing.conftest import tree_bytes

NUM_HOSTS = 3


def run_all(hosts: list[Host], *arguments: object, environment: Mapping[str, str] = MappingProxyType({})) -> list[int]:
    try:
        for host in hosts:
            host.start(["process", *(str(argument) for argument in arguments)], environment)
        return [host.end() for host in hosts]
    finally:
        for host in hosts:
            host.kill()


def ended_with(host: Host) -> str:
    path = host.base / "output" / "message"
    return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def alone(msd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the data set in one run."""
    store = tmp_path_factory.mktemp("alone") / "store"
    assert convert(Options(input=msd_folder, output=store, workers=1, cases_per_shard=1)) == 0
    return store


def test_three_hosts_make_the_store_of_one(msd_folder: Path, alone: Path, tmp_path: Path) -> None:
    hosts = make_hosts(tmp_path / "hosts", "process", NUM_HOSTS)
    flags = ["--input", msd_folder, "--output", tmp_path / "store", "--workers", 1, "--cases-per-shard", 1]
    assert run_all(hosts, *flags) == [0] * NUM_HOSTS, [host.said for host in hosts]
    assert tree_bytes(tmp_path / "store") == tree_bytes(alone)
    assert [ended_with(host) for host in hosts] == [""] * NUM_HOSTS


def test_a_share_that_an_earlier_job_left_is_not_this_jobs(msd_folder: Path, alone: Path, tmp_path: Path) -> None:
    """The first host waits until the others have looked at theirs: they may convert it anew."""
    first, second = make_hosts(tmp_path / "hosts", "process", 2)
    flags = ["--input", msd_folder, "--output", tmp_path / "store", "--workers", 1, "--cases-per-shard", 1]
    second.write("config/processingjobconfig.json", {"ProcessingJobArn": f"{ARN}/earlier"})
    assert run_all([second], *flags) == [0]
    second.write("config/processingjobconfig.json", {"ProcessingJobArn": f"{ARN}/this"})
    try:
        first.start(["process", *map(str, flags)], {})
        first.read_until(f"waiting for {tmp_path / 'store' / 'part-00002-of-00002'}")
        assert not (tmp_path / "store" / "manifest.json").exists()
        assert run_all([second], *flags) == [0]
        assert first.end() == 0, first.said
    finally:
        first.kill()
    assert tree_bytes(tmp_path / "store") == tree_bytes(alone)


def test_hosts_without_a_job_to_agree_on_are_refused(tmp_path: Path) -> None:
    first, _ = make_hosts(tmp_path / "hosts", "process", 2)
    (first.base / "config" / "processingjobconfig.json").unlink()
    assert run_all([first], "--output", tmp_path / "store") == [2]
    assert "no ProcessingJobArn in processingjobconfig.json" in ended_with(first)


def test_refused_cases_do_not_fail_the_job(tmp_path: Path) -> None:
    """SageMaker knows no "done but", so it is said in words."""
    small_msd = write_msd(tmp_path / "msd", [(6, 7, 8), (7, 6, 5), (5, 9, 6)])
    (small_msd / "labelsTr" / "case_001.nii.gz").unlink()
    hosts = make_hosts(tmp_path / "hosts", "process", 1)
    output = hosts[0].base / "processing" / "store"
    assert run_all(hosts, "--input", small_msd, f"--output={output}", "--workers", 1) == [0]
    assert ended_with(hosts[0]) == f"done, but some cases were refused; the log and {output} name them"
