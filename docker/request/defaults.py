"""Flags that an organisation sets for everybody: SageMaker's configuration file, which AWS's SDK reads as well."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from preprocessing.console.errors import InputError
from request.job import JobFlags

log = logging.getLogger(__name__)
JobT = TypeVar("JobT", bound=JobFlags)
FILES = {  # the administrator's, then the user's, and the variables that name others
    "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": "/etc/xdg/sagemaker/config.yaml",
    "SAGEMAKER_USER_CONFIG_OVERRIDE": "~/.config/sagemaker/config.yaml",
}
PLACES = {
    "TrainingJob": {
        "role": "RoleArn",
        "kms_key": "OutputDataConfig.KmsKeyId",
        "subnets": "VpcConfig.Subnets",
        "security_groups": "VpcConfig.SecurityGroupIds",
        "encrypt_traffic": "EnableInterContainerTrafficEncryption",
        "network_isolation": "EnableNetworkIsolation",
    },
    "ProcessingJob": {
        "role": "RoleArn",
        "kms_key": "ProcessingResources.ClusterConfig.VolumeKmsKeyId",
        "subnets": "NetworkConfig.VpcConfig.Subnets",
        "security_groups": "NetworkConfig.VpcConfig.SecurityGroupIds",
        "encrypt_traffic": "NetworkConfig.EnableInterContainerTrafficEncryption",
    },
}


def with_defaults(job: JobT, section: str) -> JobT:
    """Return ``job`` with the flags that were not given taken from a ``section`` of the file, where it has them."""
    found: dict[str, Any] = {}
    for content in _files():
        for flag, place in PLACES[section].items():
            value = content.get("SageMaker", {}).get(section, {})
            for name in place.split("."):
                value = value.get(name, {})
            if value and not getattr(job, flag):
                found[flag] = ",".join(value) if isinstance(value, list) else value
    if found:
        log.info("from SageMaker's configuration: %s", ", ".join(f"{flag} {value}" for flag, value in found.items()))
    return dataclasses.replace(job, **found)


def _files() -> Iterator[dict[str, Any]]:
    for variable, usual in FILES.items():
        path = Path(os.environ.get(variable, usual)).expanduser()
        path = path / "config.yaml" if path.is_dir() else path
        if path.exists():
            import yaml

            try:
                yield yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            except yaml.YAMLError as error:
                raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
        elif variable in os.environ:
            raise InputError(f"{variable}={path}: no such file here")
