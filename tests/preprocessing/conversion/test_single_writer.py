"""One writer a folder, and workers that hold the lock with the process that started them."""

from __future__ import annotations

import signal
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from preprocessing.console.errors import InputError
from preprocessing.conversion import single_writer
from preprocessing.conversion.single_writer import FolderLock, ctrl_c_held_back, only_writer


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_writer, "PATIENCE_S", 0.0)


def test_a_folder_has_one_writer_and_is_free_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with only_writer(tmp_path):
            with (
                pytest.raises(InputError, match=f"{tmp_path}: another converter is writing there"),
                only_writer(tmp_path),
            ):
                pass
            (tmp_path / "other").mkdir(exist_ok=True)
            with only_writer(tmp_path / "other"):
                pass


def wait_for_end(lock: FolderLock, ends: Connection) -> None:
    """Keep the lock, in a process of its own, until the other end of the pipe is closed."""
    assert lock.descriptor >= 0
    with suppress(EOFError):
        ends.recv()


def test_a_process_that_was_handed_the_lock_keeps_it(tmp_path: Path) -> None:
    ends, told = get_context("spawn").Pipe(duplex=False)
    with only_writer(tmp_path) as lock:
        process = get_context("spawn").Process(target=wait_for_end, args=(lock, ends))
        process.start()
        ends.close()
    with pytest.raises(InputError, match="another converter"), only_writer(tmp_path):
        pass
    told.close()
    process.join()
    assert process.exitcode == 0
    with only_writer(tmp_path):
        pass


def test_processes_started_meanwhile_do_not_hear_ctrl_c() -> None:
    with ctrl_c_held_back():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
