"""Run ``training.run`` as a user does, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.reporting.machine import REPOSITORY
from preprocessing.errors import RunError


def run_training(flags: Mapping[str, object]) -> None:
    """Train with these flags (paths absolute); raises ``RunError`` with the last line that a failed run said."""
    written = {name: value.resolve() if isinstance(value, Path) else value for name, value in flags.items()}
    words = [word for name, value in written.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "training.run", *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"training with --loader {flags['loader']} failed: {done.stderr.strip().splitlines()[-1]}")
