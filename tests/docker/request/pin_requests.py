"""The requests of typical jobs, each beside the command that makes it.

``python tests/docker/request/pin_requests.py`` makes them anew.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
FOLDER = Path(__file__).parent / "requests"
PINNED = sorted(FOLDER.glob("*.json"))


def made_by(command: str) -> tuple[str, dict[str, Any]]:
    """Return the kind of job and the request that ``python docker/launch.py COMMAND`` sends."""
    from launch import request_of

    return request_of(shlex.split(command))


def pin(path: Path) -> None:
    command = json.loads(path.read_text())["command"]
    path.write_text(json.dumps({"command": command, "request": made_by(command)[1]}, indent=2) + "\n")


if __name__ == "__main__":
    sys.path += [str(ROOT / "docker"), str(ROOT)]
    for pinned in PINNED:
        pin(pinned)
