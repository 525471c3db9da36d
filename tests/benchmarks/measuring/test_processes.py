"""A fresh process answers, or says why not; and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from benchmarks.measuring import processes
from benchmarks.measuring.processes import FreshProcess, ProcessError, call_fresh, run_command
from preprocessing.console.errors import RunError


def echo(connection: Connection) -> None:
    """Send back what comes, until the other side hangs up."""
    with contextlib.suppress(EOFError):
        while True:
            connection.send(connection.recv())


def hang(connection: Connection) -> None:
    """Start another process, tell its number, and never answer again."""
    connection.send(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]).pid)
    time.sleep(1000)


def test_work_is_done_in_another_process() -> None:
    assert call_fresh(os.getpid) != os.getpid()


def test_what_the_work_raises_is_the_reason() -> None:
    with pytest.raises(ProcessError, match="ValueError: invalid literal for int"):
        call_fresh(int, "many")


def test_a_conversation_ends_when_it_is_closed() -> None:
    process = FreshProcess(echo)
    for message in ("one", "two"):
        process.send(message)
        assert process.receive(sample_s=0.05) == message
    assert process.peak_bytes > 1e6
    begin = time.perf_counter()
    process.close()
    assert time.perf_counter() - begin < processes.FAREWELL_S / 2


def test_a_process_that_hangs_is_ended_with_all_that_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FAREWELL_S", 0.1)
    process = FreshProcess(hang)
    started = process.receive()
    with pytest.raises(ProcessError, match="no answer within 0 s"):
        process.receive(patience_s=0.1)
    assert psutil.pid_exists(started)
    process.close()
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(started).status() == psutil.STATUS_ZOMBIE  # nobody waits for it any more


def test_a_failed_command_is_named_with_what_it_said_last(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(RunError, match=r"python -m preprocessing\.check --shards .*missing: error: .*manifest\.json"):
        run_command("preprocessing.check", {"shards": missing})
