"""A tree like /opt/ml for every host of a job, and the container's entrypoint running on it as a process."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
ARN = "arn:aws:sagemaker:us-west-2:123456789012:processing-job"
CONFIG = {"train": "input/config", "process": "config"}
PORTS = itertools.count(10_000 + os.getpid() % 20_000)
AS_FIRST_PROCESS = ("unshare", "--pid", "--fork", "--mount-proc")


def may_be_first_process() -> bool:
    """Tell whether this user may make a process the first one of a namespace, as it is in a container."""
    try:
        return subprocess.run([*AS_FIRST_PROCESS, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def free_port() -> int:
    """Find a port below those that the kernel hands out by itself: it is still free when it comes to be used."""
    return next(port for port in PORTS if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


@dataclass(kw_only=True)
class Host:
    """One host of a job: ``base`` is its /opt/ml, ``said`` what it has printed so far."""

    base: Path
    name: str = "127.0.0.1"
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)

    def write(self, name: str, content: Any) -> None:
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def link(self, channel: str, folder: Path) -> None:
        path = self.base / "input" / "data" / channel
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(folder)

    def start(self, words: Sequence[str], environment: Mapping[str, str], prefix: Sequence[str] = ()) -> None:
        folders = ("", "docker", "tests/docker/container/slow_disk")
        python_path = os.pathsep.join(str(ROOT / folder) for folder in folders)
        own = {"SAGEMAKER_BASE_DIR": str(self.base), "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
        own["SLOW_DISK"] = str(self.slow_disk)
        self.said.clear()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(ROOT / "docker" / "container" / "entrypoint.py"), *words],
            env={**os.environ, **own, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def slow_disk(self) -> Path:
        """File that makes this host's disk as slow as it says."""
        return self.base / "slow"

    @property
    def stderr(self) -> Any:
        assert self.process is not None
        return self.process.stderr

    def read_until(self, start: str) -> None:
        """Read messages up to one that begins with ``start``."""
        for line in self.stderr:
            self.said.append(line)
            if line.startswith(start):
                return
        raise AssertionError(f"ended without saying {start!r}: {''.join(self.said)}")

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the entrypoint, also where it is the first process behind ``unshare``."""
        assert self.process is not None
        first = psutil.Process(self.process.pid)
        if first.name() == "unshare":
            first = first.children()[0]
        first.send_signal(signal.SIGTERM)

    def end(self, timeout_s: float = 200) -> int:
        """Read to the end; returns the exit code."""
        assert self.process is not None
        self.said.append(self.process.communicate(timeout=timeout_s)[1])
        return self.process.returncode

    def kill(self) -> None:
        """Leave no process behind, whatever happened."""
        if self.process is not None and self.process.poll() is None:
            family = psutil.Process(self.process.pid).children(recursive=True)
            for process in [*family, self.process]:
                with suppress(psutil.NoSuchProcess, ProcessLookupError):
                    process.kill()
            self.process.communicate()

    @property
    def message(self) -> str:
        """What the entrypoint left for the console about a training."""
        path = self.base / "output" / "failure"
        return path.read_text() if path.exists() else ""


def make_hosts(folder: Path, command: str, num: int) -> list[Host]:
    """Write resourceconfig.json for ``num`` hosts, which are addresses of the loopback interface."""
    names = [f"127.0.0.{number + 1}" for number in range(num)]
    hosts = [Host(base=folder / name, name=name) for name in names]
    for host in hosts:
        content = {"current_host": host.name, "hosts": names, "network_interface_name": "lo"}
        host.write(f"{CONFIG[command]}/resourceconfig.json", content)
        if command == "process":
            host.write("config/processingjobconfig.json", {"ProcessingJobArn": f"{ARN}/this"})
    return hosts


@pytest.fixture
def signals_restored() -> Iterator[None]:
    """Undo what the entrypoint sets for its own process."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
