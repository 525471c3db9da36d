"""A stand-in for docker on the command line: ``compose up`` starts the image's own command, a process for each service.

Each process has what a container would have: a host name and /etc/hosts of its own, process 1 of a namespace, and the
volumes under a folder like /opt/ml. As with ``--abort-on-container-exit``, the first that ends has the others stopped.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[3]
GRACE_S = 10.0  # docker's, between SIGTERM and SIGKILL
IN_CONTAINER = ["unshare", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec"]
SET_UP = 'hostname "$1"; mount --bind "$2" /etc/hosts; shift 2; exec "$@"'


def image_command() -> list[str]:
    """Return what the image runs when it is started without a command: docker/Dockerfile's CMD."""
    found = re.search(r"^CMD (.*)$", (ROOT / "docker" / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert found is not None
    command: list[str] = json.loads(found[1])
    return command


def mount(volumes: list[str], base: Path) -> None:
    """Make ``base`` look like /opt/ml with ``volumes``, which are HOST:CONTAINER and perhaps :z."""
    for inside, outside in sorted(volume.removesuffix(":z").split(":")[::-1] for volume in volumes):
        place = base / Path(inside).relative_to("/opt/ml")
        place.parent.mkdir(parents=True, exist_ok=True)
        Path(outside).mkdir(parents=True, exist_ok=True)
        if place.resolve() != Path(outside).resolve():  # it is, where a volume lies within another
            place.symlink_to(outside)


def start(name: str, service: dict[str, Any], folder: Path, hosts: Path) -> subprocess.Popen[bytes]:
    """Start one service; what it writes goes where this process writes."""
    assert not {"entrypoint", "command"} & set(service)
    mount(service["volumes"], folder / name)
    program, *arguments = image_command()
    link = folder / "bin" / program  # as the image has it, so that the name says what to do
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
        link.symlink_to(ROOT / "docker" / "container" / "entrypoint.py")
    own = dict(variable.split("=", 1) for variable in service["environment"])
    own |= {"SAGEMAKER_BASE_DIR": str(folder / name), "PYTHONPATH": f"{ROOT}:{ROOT}/docker", "OMP_NUM_THREADS": "1"}
    words = [*IN_CONTAINER, SET_UP, "sh", name, str(hosts), sys.executable, str(link), *arguments]
    return subprocess.Popen(words, env=os.environ | own)


def stop(container: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the container's first process, and SIGKILL when it has not ended in time."""
    inside = psutil.Process(container.pid).children()
    for process in inside:
        process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(inside, timeout=GRACE_S)
    for process in alive:
        process.kill()
    container.wait()


def up(compose: Path) -> int:
    """Start all services, and stop the others when one has ended; returns its exit code."""
    services = yaml.safe_load(compose.read_text())["services"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hosts = folder / "hosts"
        addresses = {"localhost": "127.0.0.1"} | {host: f"127.0.0.{n}" for n, host in enumerate(services, start=2)}
        hosts.write_text("".join(f"{address} {host}\n" for host, address in addresses.items()))
        containers = [start(host, service, folder, hosts) for host, service in services.items()]
        while all(container.poll() is None for container in containers):
            time.sleep(0.1)
        ended = next(container for container in containers if container.poll() is not None)
        for container in containers:
            if container.poll() is None:
                stop(container)
        return int(ended.returncode)


def main(words: list[str]) -> int:
    """Do what the SDK's local mode asks of docker."""
    if words[:2] == ["compose", "version"]:
        sys.stdout.write("Docker Compose version v2.30.0\n")
        return 0
    if words[0] == "images":
        sys.stdout.write("0123456789ab\n")
        return 0
    assert words[0] == "compose", words
    assert words[-3:] == ["up", "--build", "--abort-on-container-exit"], words
    return up(Path(words[words.index("-f") + 1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
