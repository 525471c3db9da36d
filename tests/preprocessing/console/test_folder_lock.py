"""One writer in a folder at a time, however it ends, and the others are told who it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from preprocessing.console.errors import InputError
from preprocessing.console.folder_lock import LOCK, hold, make_new

HOLDER = """
import os, sys
from pathlib import Path
from preprocessing.console.folder_lock import hold
with hold(Path(sys.argv[1]), "another run"):
    if os.fork() == 0:  # a worker, which outlives its parent
        sys.stdin.read()
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a folder in a process that has a worker; both end with the block."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with held_by_another(tmp_path / "run") as other:
        who = rf"run: another run is writing there \(host {socket.gethostname()}, process {other.pid}, since 20.*\)"
        with (
            pytest.raises(InputError, match=f"{who}; wait for its end, or give"),
            hold(tmp_path / "run", "another run"),
        ):
            pass
    with hold(tmp_path / "run", "another run"):
        assert f"process {os.getpid()}," in (tmp_path / "run" / LOCK).read_text()


def test_a_kill_frees_the_folder_while_workers_still_live(tmp_path: Path) -> None:
    with held_by_another(tmp_path / "run") as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert (tmp_path / "run" / LOCK).exists()
        with hold(tmp_path / "run", "another run"):
            (tmp_path / "run" / "written").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["written"]


def test_a_folder_that_nothing_was_written_to_goes_away_if_it_was_made_for_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("mine", "new"):
        with pytest.raises(RuntimeError), hold(tmp_path / name, "another run"):
            raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_new_folder_is_never_one_that_was_there(tmp_path: Path) -> None:
    wanted = tmp_path / "runs" / "a-20260101-000000"
    assert [make_new(wanted).name for _ in range(3)] == [f"{wanted.name}{suffix}" for suffix in ("", "-2", "-3")]
