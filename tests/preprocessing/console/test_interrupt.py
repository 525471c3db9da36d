"""Ctrl-C while a command imports what it needs: one line, as later."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("command", "imports"),
    [("preprocessing.to_shards", "_multiarray_umath"), ("training.run", "libtorch_cpu"), ("training.predict", "scipy")],
)
def test_ctrl_c_while_a_command_imports_is_one_line(command: str, imports: str) -> None:
    """The signal is sent when the first library that takes its time is being loaded."""
    started = subprocess.Popen(
        [sys.executable, "-m", command, "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    give_up = time.monotonic() + 60
    while imports not in Path(f"/proc/{started.pid}/maps").read_text() and time.monotonic() < give_up:
        time.sleep(0.001)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert started.returncode == -signal.SIGINT  # which shells show as 130
    assert said == "interrupted\n"


def test_programs_that_import_the_package_keep_their_own_way() -> None:
    program = (
        "import training, preprocessing, sys; assert sys.excepthook is sys.__excepthook__; raise KeyboardInterrupt"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "Traceback" in ended.stderr
