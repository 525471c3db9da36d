"""Several processes train as one: real gloo processes that meet at a file, or that torchrun starts."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from preprocessing.console.errors import InputError
from preprocessing.shards.store import open_store
from training.distributed.group import Group
from training.distributed.world import read_world
from training.model.checkpoint import load_checkpoint
from training.model.networks import InputGrid
from training.model.spec import ModelSpec
from training.options import Options
from training.run import train
from training.trainer.record import read_metrics, without_nan
from training.trainer.validate import ValidationOptions, validate

STEPS = 20
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
Started = list["subprocess.Popen[str]"]


def flags(options: Options) -> list[str]:
    """Write options as the command line that gives them."""
    given = {name: value for name, value in dataclasses.asdict(options).items() if value != getattr(Options(), name)}
    text = {name: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for name, v in given.items()}
    return ["-m", "training.run", *(word for name, v in text.items() for word in ("--" + name.replace("_", "-"), v))]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def processes(meeting_place: Path | int, commands: list[list[str]]) -> Iterator[Started]:
    """Start one process per command, each with its rank; none of them outlives the block.

    They meet at a file, or at a port on which the first one listens.
    """
    started: Started = []
    place = {"VOXELFEED_RENDEZVOUS": f"file://{meeting_place}"}
    if isinstance(meeting_place, int):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting_place)}
    for rank, words in enumerate(commands):
        world = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(commands))}
        started.append(
            subprocess.Popen(
                [sys.executable, *words],
                env=ENVIRONMENT | world | place | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def read_until(process: subprocess.Popen[str], start: str) -> None:
    """Read a process's messages up to one that begins with ``start``."""
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(start):
            return
    pytest.fail(f"the process ended without saying {start!r}: {''.join(seen)}")


@pytest.fixture(scope="module")
def options(tiny_options: Options) -> Options:
    """One step an epoch, so that every step's loss is kept; float32, since rounding is what is compared."""
    return dataclasses.replace(
        tiny_options,
        net="dynunet",
        optimizer="sgd",
        batch_size=4,
        samples_per_case=1,
        amp="off",
        epochs=STEPS,
        val_every=5,
    )


@pytest.fixture(scope="module")
def alone(options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert train(dataclasses.replace(options, output=folder)) == 0
    return folder


def assert_same_course(folder: Path, reference: Path, loss_atol: float = 1e-6, dice_atol: float = 1e-3) -> None:
    made, expected = read_metrics(folder), read_metrics(reference)
    assert [line["step"] for line in made] == [line["step"] for line in expected] == list(range(1, STEPS + 1))
    losses = np.array([[line["loss"] for line in lines] for lines in (made, expected)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=loss_atol)
    for one, other in zip(made, expected, strict=True):
        assert (one["dice"] is None) == (other["dice"] is None)
        if one["dice"]:
            # a logit that rounding moves across zero is a voxel more or less: 6e-5 of Dice was seen
            assert one["dice"] == pytest.approx(other["dice"], abs=dice_atol)


def test_two_processes_train_as_one(options: Options, alone: Path, tmp_path: Path) -> None:
    """The loss is a mean over samples (Dice is taken per sample), so the mean over processes is the whole batch's."""
    halved = dataclasses.replace(options, batch_size=2, output=tmp_path / "run")
    with processes(tmp_path / "meet", [flags(halved)] * 2) as started:
        said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "2 processes, backend gloo: the run is on cpu" in said[0]
    assert said[1] == ""
    assert_same_course(halved.output, alone)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_train_as_one(options: Options, tmp_path: Path) -> None:
    """Over NCCL; convolutions in TF32 differ in their fourth digit."""
    whole = dataclasses.replace(options, device="cuda", output=tmp_path / "alone")
    assert train(whole) == 0
    halved = dataclasses.replace(whole, batch_size=2, output=tmp_path / "run")
    with processes(tmp_path / "meet", [flags(halved)] * 2) as started:
        said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "2 processes, backend nccl: CUDA devices" in said[0]
    assert_same_course(halved.output, whole.output, loss_atol=1e-2, dice_atol=5e-2)


def test_sigterm_to_torchrun_saves_and_one_process_goes_on(options: Options, alone: Path, tmp_path: Path) -> None:
    halved = dataclasses.replace(options, batch_size=2, output=tmp_path / "run")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with processes(tmp_path / "unused", [[*launcher, *flags(halved)]]) as (process,):
        read_until(process, "epoch 3 ")
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert "stopped at step" in said
    assert process.returncode == 1  # torchrun's own way of ending after a signal
    step = load_checkpoint(halved.output / "checkpoints" / "last.pt")["progress"]["step"]
    assert 3 <= step < STEPS
    assert train(dataclasses.replace(options, output=halved.output, resume="auto")) == 0
    assert_same_course(halved.output, alone)


def test_another_global_batch_is_refused(options: Options, alone: Path) -> None:
    with pytest.raises(InputError, match="made with 4 patches per step over all processes, this command takes 2"):
        train(dataclasses.replace(options, output=alone, resume="auto", batch_size=2))


@pytest.mark.parametrize(
    ("number", "victim", "place"),
    [
        (signal.SIGKILL, 0, "file"),
        (signal.SIGKILL, 1, "file"),
        (signal.SIGSTOP, 1, "file"),
        (signal.SIGSTOP, 0, "port"),
    ],
    ids=str,
)
def test_a_process_that_is_gone_ends_the_others(
    options: Options, tmp_path: Path, number: signal.Signals, victim: int, place: str
) -> None:
    """SIGKILL breaks the connection; SIGSTOP leaves it open, as a machine does that hangs.

    At a port the first process holds the store: when it is stopped, nobody answers any more.
    """
    endless = dataclasses.replace(options, batch_size=2, epochs=10_000, val_every=10_000, output=tmp_path / "run")
    with processes(tmp_path / "meet" if place == "file" else free_port(), [flags(endless)] * 2) as started:
        read_until(started[0], "epoch 2 ")
        started[victim].send_signal(number)
        begin = time.monotonic()
        said = started[1 - victim].communicate(timeout=60)[1]
        assert time.monotonic() - begin < 30
    assert started[1 - victim].returncode == 1
    assert "lost contact with another process" in said
    assert "Traceback" not in said


JOIN = """
import os, signal, sys
import training.distributed.watch
from training.distributed.world import read_world
from training.distributed.group import join
training.distributed.watch.SILENT_S = training.distributed.watch.STARTING_S = 3
if sys.argv[1:]:
    training.distributed.watch.Watch._look = lambda _: os.kill(os.getpid(), signal.SIGKILL)
with join(read_world(), "gloo", "cpu") as group:
    pass
"""


HOLDS_THE_LOCK = """
import ctypes, sys
import training.distributed.watch as watch
from training.distributed.world import read_world
from training.distributed.group import join
watch.SILENT_S, watch.STARTING_S = 2, 60
with join(read_world(), "gloo", "cpu") as group:
    if sys.argv[1] == "after":
        group.stepped()
        group.wait()
    if group.is_main:
        ctypes.PyDLL(None).sleep(7)  # unlike CDLL it keeps Python's lock, as imports and CUDA's start do
    group.wait()
"""


@pytest.mark.parametrize(("when", "codes"), [("before", [0, 0]), ("after", None)])
def test_a_process_may_hold_pythons_lock_for_long_until_the_first_step(
    when: str, codes: list[int] | None, tmp_path: Path
) -> None:
    with processes(tmp_path / "meet", [["-c", HOLDS_THE_LOCK, when]] * 2) as started:
        said = [process.communicate(timeout=120)[1] for process in started]
    ended = [process.returncode for process in started]
    if codes is not None:
        assert ended == codes, said
    else:
        assert 1 in ended
        assert "rank 0 has given no sign of life for 2 s" in "".join(said)


def test_a_process_that_dies_before_it_was_heard_is_missed(tmp_path: Path) -> None:
    with processes(tmp_path / "meet", [["-c", JOIN], ["-c", JOIN, "die"]]) as started:
        assert started[1].wait(60) == -signal.SIGKILL
        said = started[0].communicate(timeout=30)[1]
    assert started[0].returncode == 1
    assert "rank 1 has given no sign of life for 3 s" in said
    assert "Traceback" not in said


def test_an_error_in_one_process_is_told_by_all(options: Options, tmp_path: Path) -> None:
    good = dataclasses.replace(options, batch_size=2, output=tmp_path / "run")
    bad = dataclasses.replace(good, shards=tmp_path / "nowhere")
    with processes(tmp_path / "meet", [flags(good), flags(bad)]) as started:
        failed = started[1].communicate(timeout=120)[1]
        said = [started[0].communicate(timeout=30)[1], failed]
    assert [process.returncode for process in started] == [2, 2]
    assert f"error: rank 1: {tmp_path}/nowhere: no manifest.json there" in said[0]
    assert said[1].startswith(f"error: {tmp_path}/nowhere: no manifest.json there")
    assert not (tmp_path / "run").exists()


def test_a_failure_while_concluding_is_told_by_all(options: Options, tmp_path: Path) -> None:
    """One process makes the pictures and the report; here a file lies where its folder should be."""
    options = dataclasses.replace(options, batch_size=2, epochs=1, output=tmp_path / "run")
    options.output.mkdir()
    (options.output / "validation").touch()
    with processes(tmp_path / "meet", [flags(options)] * 2) as started:
        said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [1, 1]
    assert said[1].startswith("error: rank 0: ")
    assert "File exists" in said[1]
    assert "Traceback" not in said[1]


VALIDATE = """
import json, sys, torch
from preprocessing.shards.store import open_store
from training.distributed.world import read_world
from training.distributed.group import join
from training.model.spec import ModelSpec
from training.model.networks import InputGrid
from training.trainer.validate import ValidationOptions, validate
store = open_store(sys.argv[1])
with join(read_world(), "gloo", "cpu") as group:
    spec = ModelSpec.of_store(store.manifest, "segresnet", InputGrid(patch=(16, 16, 16)))
    torch.manual_seed(0)
    seen = []
    options = ValidationOptions(amp=None, group=group, on_cases=lambda _: seen.append(1))
    print(json.dumps([validate(spec.build(), store, store.labelled_ids, spec, options), len(seen)]))
"""


def test_every_case_is_validated_once_by_some_process(coordinate_store: Path, tmp_path: Path) -> None:
    store = open_store(coordinate_store)
    spec = ModelSpec.of_store(store.manifest, "segresnet", InputGrid(patch=(16, 16, 16)))
    torch.manual_seed(0)
    group = Group(world=read_world({}), device=torch.device("cpu"))
    nothing = ValidationOptions(amp=None, group=group, on_cases=lambda _: None)
    expected = validate(spec.build(), store, store.labelled_ids, spec, nothing)
    assert len({json.dumps(scores) for scores in expected.values()}) == 5
    with processes(tmp_path / "meet", [["-c", VALIDATE, str(coordinate_store)]] * 2) as started:
        outputs = [process.communicate(timeout=60) for process in started]
    for output, said in outputs:
        scores, rounds = json.loads(output or said)
        assert without_nan(scores) == without_nan(expected)
        assert rounds == 3  # five cases over two processes
