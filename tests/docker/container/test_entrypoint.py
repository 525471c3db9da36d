"""The container's contract without a container: ``train`` and ``process`` on a tree like /opt/ml.

``PYTHONPATH=.:docker python tests/docker/container/test_entrypoint.py 45`` stops trainings that take 45 s to save a
checkpoint.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from container import entrypoint
from container.sagemaker_job import Job, Outcome
from container.torchrun import network
from container.train_job import training_flags

from preprocessing.console.errors import InputError, RunError
from preprocessing.phantom import PhantomOptions, make_phantom
from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from tests.docker.conftest import AS_FIRST_PROCESS, ROOT, Host, free_port, make_hosts, may_be_first_process
from training.model.checkpoint import load_checkpoint
from training.trainer.record import read_metrics

STEPS_PER_EPOCH, LAST = 2, "checkpoints/checkpoints/last.pt"
GIVEN = {"patch": '"16,16,16"', "net": '"segresnet"', "samples_per_case": "2", "lr": "1e-3", "val_every": "1"}
GIVEN |= {"device": "cpu", "sagemaker_region": '"us-east-1"'}
first_process = pytest.mark.skipif(not may_be_first_process(), reason="this user may not make PID namespaces (unshare)")


@contextmanager
def training(
    hosts: Sequence[Host], epochs: object, prefix: Sequence[str] = (), ranks_per_host: int = 2, **given: str
) -> Iterator[None]:
    """Start the ranks of every host, 4 patches a step over all of them; none outlives the block."""
    batch_size = 4 // (ranks_per_host * len(hosts))
    port = str(free_port())
    for host in hosts:
        own = {"epochs": epochs, "batch-size": str(batch_size)} | given
        host.write("input/config/hyperparameters.json", GIVEN | own)
        host.start(["train"], {"VOXELFEED_PROCESSES_PER_HOST": str(ranks_per_host), "MASTER_PORT": port}, prefix)
    try:
        yield
    finally:
        for host in hosts:
            host.kill()


def stop_and_go_on(hosts: Sequence[Host], store: Path, slow_s: float, prefix: Sequence[str] = ()) -> float:
    """Stop a job on spot instances while its disk is slow, then start it again as SageMaker does.

    A stop at the end of an epoch finds the best model still to be written and the checkpoint after it. Returns how many
    seconds passed from SIGTERM to the end.
    """
    first, *others = hosts
    for host in hosts:
        host.link("shards", store)
    with training(hosts, 10_000, prefix):
        first.read_until("epoch 1 ")
        first.slow_disk.write_text(str(slow_s))
        begin = time.monotonic()
        for host in hosts:
            host.ask_to_stop()
        assert [host.end() for host in hosts] == [0] * len(hosts), [host.said for host in hosts]
        stopped_in_s = time.monotonic() - begin
        assert stopped_in_s > slow_s
    first.slow_disk.unlink()
    stopped_at = load_checkpoint(first.base / LAST)["progress"]["step"]
    assert STEPS_PER_EPOCH <= stopped_at < 20_000
    assert not list(first.base.rglob("*.tmp"))
    assert [host.message for host in hosts] == [""] * len(hosts)
    for name in ("run.json", LAST.removeprefix("checkpoints/")):  # what an upload that was under way leaves
        (first.base / "checkpoints" / f"{name}.sagemaker-uploading").write_bytes(b"half")
    for host in others:  # what SageMaker restores to every host
        shutil.copytree(first.base / "checkpoints", host.base / "checkpoints", dirs_exist_ok=True)
    epochs = stopped_at // STEPS_PER_EPOCH + 2
    with training(hosts, str(epochs), prefix):
        assert [host.end() for host in hosts] == [0] * len(hosts), [host.said for host in hosts]
    assert f"step {stopped_at}" in "".join(first.said)
    lines = read_metrics(first.base / "output" / "data")
    assert [line["step"] for line in lines] == [STEPS_PER_EPOCH * (epoch + 1) for epoch in range(epochs)]
    return stopped_in_s


def check_results(host: Host) -> None:
    assert load_checkpoint(host.base / "model" / "best.pt")["epoch"] >= 1
    assert {path.name for path in (host.base / "model").iterdir()} == {"best.pt"}
    results = {path.name for path in (host.base / "output" / "data").iterdir()}
    assert results >= {"metrics.jsonl", "report.html", "run.json", "tensorboard", "validation"}
    assert not results & {"checkpoints", "run.json.sagemaker-uploading"}


@first_process
@pytest.mark.timeout(600)
def test_a_stopped_host_saves_and_goes_on(coordinate_store: Path, msd_folder: Path, tmp_path: Path) -> None:
    """As the first process of a namespace, with images to segment at the end."""
    (host,) = make_hosts(tmp_path, "train", 1)
    host.link("test", msd_folder / "imagesTr")
    stop_and_go_on([host], coordinate_store, slow_s=3, prefix=AS_FIRST_PROCESS)
    check_results(host)
    predicted = {path.name for path in (host.base / "output" / "data" / "predictions").glob("*.nii.gz")}
    assert predicted == {path.name for path in (msd_folder / "imagesTr").iterdir()}


@pytest.mark.timeout(600)
def test_two_stopped_hosts_save_and_go_on(coordinate_store: Path, tmp_path: Path) -> None:
    hosts = make_hosts(tmp_path, "train", 2)
    stop_and_go_on(hosts, coordinate_store, slow_s=3)
    check_results(hosts[0])
    assert not (hosts[1].base / "model").exists()


def test_the_failure_of_one_rank_is_told_on_every_host(coordinate_store: Path, tmp_path: Path) -> None:
    hosts = make_hosts(tmp_path, "train", 2)
    hosts[0].link("shards", coordinate_store)
    hosts[1].link("shards", tmp_path)
    with training(hosts, "3", ranks_per_host=1):
        assert [host.end() for host in hosts] == [2, 2]
    store = hosts[1].base / "input" / "data" / "shards"
    for host in hosts:
        assert host.message.startswith("InputError: ")
        assert f"{store}: no manifest.json there" in host.message


def test_a_wrong_hyperparameter_is_told_once(coordinate_store: Path, tmp_path: Path) -> None:
    (host,) = make_hosts(tmp_path, "train", 1)
    host.link("shards", coordinate_store)
    with training([host], "many"):
        assert host.end() == 2
    assert host.message == "--epochs many: expected a whole number, got 'many'"
    assert "".join(host.said) == f"error: {host.message}\n"


ENCODINGS = [
    ("8", "8"),
    ('"8"', "8"),
    (8, "8"),
    ("1e-3", "1e-3"),
    ("64,64,48", "64,64,48"),
    ('"64,64,48"', "64,64,48"),
    ("[64, 64, 48]", "64,64,48"),
    ([64, 64, 48], "64,64,48"),
    ("true", "true"),
    ("True", "True"),
    (True, "true"),
    ('"true"', "true"),
    ("dynunet", "dynunet"),
    ('"s3://bucket/prefix"', "s3://bucket/prefix"),
    ("", ""),
    ("null", None),
]


@pytest.mark.parametrize(("given", "meant"), ENCODINGS, ids=repr)
def test_hyperparameters_in_every_encoding(given: object, meant: str | None, tmp_path: Path) -> None:
    (host,) = make_hosts(tmp_path, "train", 1)
    host.write("input/config/hyperparameters.json", {"name": given})
    job = Job.read("train", {"SAGEMAKER_BASE_DIR": str(host.base)})
    assert job.hyperparameters() == ({} if meant is None else {"name": meant})


def test_a_nested_hyperparameter_is_refused(tmp_path: Path) -> None:
    (host,) = make_hosts(tmp_path, "train", 1)
    host.write("input/config/hyperparameters.json", {"lr": '{"peak": 0.1}'})
    with pytest.raises(InputError, match=r"hyperparameter lr is .*; give a number, a word, or a list of those"):
        Job.read("train", {"SAGEMAKER_BASE_DIR": str(host.base)}).hyperparameters()


def job_on(tmp_path: Path, *channels: str) -> Job:
    (host,) = make_hosts(tmp_path, "train", 1)
    for channel in channels:
        (host.base / "input" / "data" / channel).mkdir(parents=True)
    return Job.read("train", {"SAGEMAKER_BASE_DIR": str(host.base)})


@pytest.mark.parametrize("channels", [("shards",), ("training",), ("shards", "other"), ("training", "test")])
def test_the_store_is_the_channel_of_that_name_or_the_only_one(channels: tuple[str, ...], tmp_path: Path) -> None:
    job = job_on(tmp_path, *channels)
    flags = training_flags(job, {"batch_size": "4", "sagemaker_region": "x"}, is_smddp=False)
    assert flags == [
        *("--batch-size", "4"),
        *("--shards", f"{job.base}/input/data/{channels[0]}"),
        *("--resume", "auto"),
        *("--output", f"{job.base}/checkpoints"),
    ]


@pytest.mark.parametrize("channels", [(), ("one", "other"), ("test",)])
def test_an_unclear_store_is_refused(channels: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none is called shards; name the one with the shard store so"):
        training_flags(job_on(tmp_path, *channels), {}, is_smddp=False)


def test_the_output_is_not_a_hyperparameter(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hyperparameter output: leave it out; the run is kept in"):
        training_flags(job_on(tmp_path, "shards"), {"output": "/tmp/run"}, is_smddp=False)


@pytest.mark.usefixtures("signals_restored")
def test_a_store_that_does_not_answer_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "s3://bucket: the object store did not answer"

    def unanswered(*_: object) -> Outcome:
        raise RunError(said)

    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.setitem(entrypoint.COMMANDS, "process", unanswered)
    assert entrypoint.main(["process"]) == 1
    assert capsys.readouterr().err == f"error: {said}\n"
    assert (tmp_path / "output" / "message").read_text() == said


@first_process
def test_the_first_process_reaps_orphans() -> None:
    words = [*AS_FIRST_PROCESS, sys.executable, str(Path(__file__).with_name("supervise_orphans.py"))]
    subprocess.run(words, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}/docker"}, check=True)


@pytest.mark.timeout(600)
def test_an_interface_that_is_not_there_is_not_taken(coordinate_store: Path, tmp_path: Path) -> None:
    """The SDK's local mode names one of its own."""
    (host,) = make_hosts(tmp_path, "train", 1)
    host.link("shards", coordinate_store)
    content = {"current_host": host.name, "hosts": [host.name], "network_interface_name": "ethwe"}
    host.write("input/config/resourceconfig.json", content)
    with training([host], "1"):
        assert host.end() == 0, host.said
    check_results(host)


@pytest.mark.parametrize(
    ("variable", "wish", "is_refused"),
    [
        ("GLOO_SOCKET_IFNAME", "ethwe", True),
        ("GLOO_SOCKET_IFNAME", "^lo", True),
        ("GLOO_SOCKET_IFNAME", "lo", False),
        ("NCCL_SOCKET_IFNAME", "ethwe,=ib0", True),
        ("NCCL_SOCKET_IFNAME", "=lo", False),
        ("NCCL_SOCKET_IFNAME", "^docker0", False),
    ],
)
def test_an_interface_in_the_environment_must_be_there(
    variable: str, wish: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, wish)
    expected = pytest.raises(InputError, match=f"^{variable}=.*: no such network interface here, only ")
    with expected if is_refused else nullcontext():
        assert network(job_on(tmp_path))[variable] == wish


def test_a_failure_names_the_interface(coordinate_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (host,) = make_hosts(tmp_path, "train", 1)
    host.link("shards", coordinate_store)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ethwe")
    with training([host], "1"):
        assert host.end() == 2, host.said
    assert host.message.startswith("GLOO_SOCKET_IFNAME=ethwe: no such network interface here, only ")


@first_process
@pytest.mark.timeout(600)
def test_too_little_shared_memory_is_told_before_workers_start(coordinate_store: Path, tmp_path: Path) -> None:
    """Here 64 KiB, where docker gives 64 MiB; the dali loader needs none."""
    (host,) = make_hosts(tmp_path, "train", 1)
    host.link("shards", coordinate_store)
    little = [*AS_FIRST_PROCESS, "--mount", "sh", "-c"]
    little += ['mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"]
    with training([host], "1", prefix=little, ranks_per_host=1, loader="torch", workers="2"):
        assert host.end() == 2, host.said
    assert "/dev/shm has 0.1 MiB free, the worker processes of --loader torch need about 1.1 MiB" in host.message
    with training([host], "1", prefix=little, ranks_per_host=1, loader="dali"):
        assert host.end() == 0, host.said


def main(slow_s: float) -> None:
    """Stop and go on, on one host and on two, with a disk as slow as asked."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_phantom(PhantomOptions(output=folder / "data", cases=5, test_cases=0, shape=(24, 28, 24)))
        convert(ConvertOptions(input=folder / "data", output=folder / "store", workers=1))
        for num in (1, 2):
            hosts = make_hosts(folder / str(num), "train", num)
            prefix = AS_FIRST_PROCESS if may_be_first_process() else ()
            stopped_in_s = stop_and_go_on(hosts, folder / "store", slow_s, prefix)
            print(f"{num} hosts: all ended with 0 in {stopped_in_s:.1f} s after SIGTERM, and went on")  # noqa: T201


if __name__ == "__main__":
    main(float(sys.argv[1]))
