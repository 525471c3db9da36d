"""The route of SMDDP: a real mpirun starts the ranks, which train in a real group of that name (on the CPU: gloo's)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from container.mpirun import host_name_library, mpirun, mpirun_words
from container.sagemaker_job import Job
from container.supervise import Stop

from tests.docker.conftest import ROOT, Host, free_port, make_hosts
from tests.docker.container.test_entrypoint import GIVEN, LAST
from training.model.checkpoint import load_checkpoint

LIBRARY = ROOT / "tests" / "training" / "distributed" / "smddp_name"
needs_mpirun = pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun (Debian: openmpi-bin)")


@pytest.fixture
def host(coordinate_store: Path, tmp_path: Path) -> Host:
    """One host whose PATH has an smddprun that starts what it is given."""
    (made,) = make_hosts(tmp_path, "train", 1)
    made.link("shards", coordinate_store)
    program = tmp_path / "bin" / "smddprun"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nexec "$@"\n')
    program.chmod(0o755)
    return made


def start(host: Host, **given: str) -> None:
    smddp = {"sagemaker_distributed_dataparallel_enabled": "true", "batch_size": "1", "epochs": "10000"}
    host.write("input/config/hyperparameters.json", GIVEN | smddp | given)
    path = os.pathsep.join([str(host.base.parent / "bin"), os.environ["PATH"]])
    own = {"PATH": path, "PYTHONPATH": f"{ROOT}:{ROOT}/docker:{LIBRARY}", "MASTER_PORT": str(free_port())}
    host.start(["train"], {"VOXELFEED_PROCESSES_PER_HOST": "2", **own})


@needs_mpirun
def test_it_starts_saves_on_sigterm_and_reports(host: Host) -> None:
    try:
        start(host)
        host.read_until("2 processes, backend smddp: asked for")
        host.read_until("epoch 1 ")
        host.ask_to_stop()
        assert host.end() == 0, host.said
        assert load_checkpoint(host.base / LAST)["progress"]["step"] >= 2
        assert host.message == ""
        start(host, preset="unheard")
        assert host.end() == 2, host.said
        assert "--preset unheard: unknown; known: fast" in host.message
    finally:
        host.kill()


@needs_mpirun
def test_a_shell_script_before_mpirun_does_not_keep_signals(host: Host) -> None:
    """As in the containers of AWS, where the script runs mpirun.real and SIGUSR1 to the script would end it alone."""
    folder, real = host.base.parent / "bin", shutil.which("mpirun")
    for name, text in (("mpirun", 'mpirun.real --allow-run-as-root "$@"'), ("mpirun.real", f'exec {real} "$@"')):
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    try:
        start(host)
        host.read_until("epoch 1 ")
        host.ask_to_stop()
        assert host.end() == 0, host.said
        assert load_checkpoint(host.base / LAST)["progress"]["step"] >= 2
    finally:
        host.kill()


@pytest.mark.usefixtures("signals_restored")
def test_mpirun_itself_knows_the_host_by_sagemakers_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both it and the ranks are given the library of AWS's toolkit, which Python finds as a module."""
    library = tmp_path / "gethostname.py"
    library.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    (host,) = make_hosts(tmp_path, "train", 1)
    job = Job.read("train", {"SAGEMAKER_BASE_DIR": str(host.base)})
    assert host_name_library() == {"LD_PRELOAD": str(library)}
    assert f"LD_PRELOAD={library}" in mpirun_words(job, 1)
    for name in ("mpirun", "smddprun"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("container.mpirun.processes_per_host", lambda *_: 1)
    assert mpirun(job, [], Stop()).environment["LD_PRELOAD"] == str(library)


def test_without_its_programs_the_image_is_named(coordinate_store: Path, tmp_path: Path) -> None:
    (host,) = make_hosts(tmp_path, "train", 1)
    host.link("shards", coordinate_store)
    start(host)
    assert host.end() == 2
    assert "smddprun: use the image of docker/Dockerfile.smddp" in host.message


def test_the_first_host_starts_all_processes(tmp_path: Path) -> None:
    hosts = make_hosts(tmp_path, "train", 2)
    hosts[0].write("input/config/resourceconfig.json", {"current_host": "algo-1", "hosts": ["algo-2", "algo-1"]})
    words = mpirun_words(Job.read("train", {"SAGEMAKER_BASE_DIR": str(hosts[0].base)}), 8)
    assert words[words.index("-np") + 1] == "16"
    assert words[words.index("--host") + 1] == "algo-1:8,algo-2:8"
    exported = [words[at + 1] for at, word in enumerate(words) if word == "-x"]
    assert {"MASTER_ADDR=algo-1", "SMDATAPARALLEL_SERVER_ADDR=algo-1", "SMDATAPARALLEL_USE_HOMOGENEOUS=1"} <= {
        *exported
    }
