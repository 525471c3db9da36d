"""SageMaker's contract with a container: the only file that knows its folders and its JSON.

Sources: "Amazon SageMaker AI toolkits: how training provides configuration" and "How to build your own processing
container" in the developer guide.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.console.errors import EXIT_DONE, EXIT_REFUSED, InputError

BASE_VARIABLE, BASE = "SAGEMAKER_BASE_DIR", "/opt/ml"
CONFIG = {"train": "input/config", "process": "config"}
MESSAGE = {"train": "output/failure", "process": "output/message"}
PLATFORM = "sagemaker_"  # hyperparameters of this name are the platform's own
SMDDP = "sagemaker_distributed_dataparallel_enabled"
HAS_GPU = re.compile(r"ml\.(p|g)\d")  # names of machines
UPLOADING = "*.sagemaker-uploading"
LONGEST_MESSAGE_BYTES = 1024  # SageMaker cuts there


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended, and the message that SageMaker's console shows."""

    code: int
    message: str = ""

    @classmethod
    def of_cases(cls, code: int, reason: str, place: str) -> Outcome:
        """Take "done, some cases refused" (3) for done: SageMaker would call the whole job failed."""
        if code == EXIT_REFUSED:
            return cls(code=EXIT_DONE, message=f"done, but some cases were refused; the log and {place} name them")
        return cls(code=code, message="" if code == EXIT_DONE else reason)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The job as this host sees it.

    ``hosts`` are all hosts in an order that is the same on each of them; ``interface`` is the network between them,
    ``None`` where the file names none, or one that this host does not have (as in the SDK's local mode).
    ``arn`` is a processing job's, which no other job ever has, and empty in a training job.
    """

    base: Path
    hosts: tuple[str, ...]
    current_host: str
    interface: str | None
    instance_type: str
    arn: str

    @classmethod
    def read(cls, command: str, environment: Mapping[str, str] = os.environ) -> Job:
        """Read resourceconfig.json for ``train`` or ``process``; without it this is the only host.

        Raises ``InputError`` for a file that is not as SageMaker writes it.
        """
        base = _base(environment)
        path = base / CONFIG[command] / "resourceconfig.json"
        content = _read_json(path)
        current = content.get("current_host", "localhost")
        interface = content.get("network_interface_name")
        hosts = tuple(sorted(content.get("hosts", [current])))
        if current not in hosts:
            raise InputError(f"{path}: current_host {current} is not one of hosts {', '.join(hosts)}")
        return cls(
            base=base,
            hosts=hosts,
            current_host=current,
            interface=interface if interface in {name for _, name in socket.if_nameindex()} else None,
            instance_type=content.get("current_instance_type", ""),
            arn=str(_read_json(path.with_name("processingjobconfig.json")).get("ProcessingJobArn", "")),
        )

    @property
    def host_index(self) -> int:
        """Position of this host among all, from 0."""
        return self.hosts.index(self.current_host)

    @property
    def is_first(self) -> bool:
        """Whether this is the host that merges, writes the model, and predicts."""
        return self.host_index == 0

    @property
    def run(self) -> Path:
        """Folder that SageMaker keeps in step with S3 and fills again after a restart."""
        return self.base / "checkpoints"

    @property
    def model(self) -> Path:
        """Folder that becomes model.tar.gz."""
        return self.base / "model"

    @property
    def results(self) -> Path:
        """Folder that becomes output.tar.gz, also of a job that failed."""
        return self.base / "output" / "data"

    def is_own(self, path: str) -> bool:
        """Tell whether ``path`` is in the folders that this host alone sees and SageMaker uploads."""
        return Path(path).is_relative_to(self.base)

    def channels(self) -> dict[str, Path]:
        """Return the folders of the input channels by name."""
        root = self.base / "input" / "data"
        return {path.name: path for path in sorted(root.glob("*")) if path.is_dir()}

    def hyperparameters(self) -> dict[str, str]:
        """Return the hyperparameters as texts; ``null`` means not given.

        They arrive as strings, JSON-encoded or not: ``8``, ``"8"``, ``1e-3``, ``64,64,64``, ``"64,64,64"`` and
        ``[64, 64, 64]`` all say what they look like. Raises ``InputError`` for nested ones.
        """
        path = self.base / "input" / "config" / "hyperparameters.json"
        texts = {name: _as_text(path, name, value) for name, value in _read_json(path).items()}
        return {name: text for name, text in texts.items() if text is not None}


def write_message(command: str, message: str, environment: Mapping[str, str] = os.environ) -> None:
    """Write ``message`` to the file that SageMaker's console shows, cut at the length that it shows."""
    path = _base(environment) / MESSAGE[command]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(message.encode()[:LONGEST_MESSAGE_BYTES].decode(errors="ignore"), encoding="utf-8")


def _base(environment: Mapping[str, str]) -> Path:
    return Path(environment.get(BASE_VARIABLE, BASE))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected names and values, got {content!r}")
    return content


def _as_text(path: Path, name: str, value: Any) -> str | None:
    """Undo one JSON encoding; what is a number or a word stays as it was written."""
    written = value if isinstance(value, str) else json.dumps(value)
    try:
        decoded = json.loads(written)
    except ValueError:
        return written
    if isinstance(decoded, list) and not any(isinstance(item, list | dict) for item in decoded):
        return ",".join(item if isinstance(item, str) else json.dumps(item) for item in decoded)
    if isinstance(decoded, list | dict):
        raise InputError(f"{path}: hyperparameter {name} is {written}; give a number, a word, or a list of those")
    return decoded if isinstance(decoded, str) else None if decoded is None else written
