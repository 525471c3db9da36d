"""What training and processing jobs share: their common flags, and the parts of the request that these make."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from preprocessing.console.errors import InputError

Request = dict[str, Any]
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A flag that stands alone: typed by people, where the trainer's flags take values to fit hyperparameters."""

ECR_IMAGE = re.compile(r"\d{12}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/([^:@]+)(?::([^@]+))?(?:@sha256:\w+)?")
ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/\S+")
HAS_NVME = re.compile(r"ml\.(\w\d[a-z]*d[a-z]*|g[5-9][a-z]*|p[5-9][\w-]*)\.")  # m5d, p3dn, g4dn, p4de, g5, g6e, p5en
S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/\S*)?")


@dataclass(frozen=True, kw_only=True)
class JobFlags:
    """The flags that both kinds of jobs have."""

    image: str = ""
    """The container in ECR, for example 123456789012.dkr.ecr.us-west-2.amazonaws.com/voxelfeed:latest; the job runs in
    its region."""
    role: str = ""
    """ARN of the IAM role that the job takes on: it must read the data and write the output."""
    output: str = ""
    """Where results go: s3://BUCKET/FOLDER."""
    instance_type: str = ""
    """Machine, for example ml.p4d.24xlarge."""
    instances: int = 1
    """Number of machines."""
    volume_gib: int = 100
    """Disk of each machine; machines with NVMe disks use those instead."""
    max_hours: float = 24.0
    """The job is stopped after this long."""
    subnets: str = ""
    """Subnets of your VPC, with commas between; needed for FSx for Lustre."""
    security_groups: str = ""
    """Security groups in the VPC, with commas between."""
    kms_key: str = ""
    """Key of AWS KMS (id or ARN) for the machines' disks and for results on S3. SageMaker takes no key for NVMe disks,
    which the machine encrypts itself, nor for the run folder, which is encrypted as the bucket says."""
    encrypt_traffic: Switch = False
    """Encrypt what the machines of a job send to each other; slower."""
    network_isolation: Switch = False
    """Give the container no network but that between the machines of the job."""
    environment: str = ""
    """Environment variables in the container: NAME=VALUE,OTHER=VALUE."""
    tags: str = ""
    """Tags for the bill: project=brats,owner=me."""
    extra: Path | None = None
    """JSON file for what has no flag here, merged into the request before it is checked: names as in SageMaker's API;
    null takes a part out (JSON merge patch, RFC 7386)."""
    name: str = "auto"
    """Name of the job. auto takes voxelfeed, the kind of job and the time."""
    wait: Switch = False
    """Follow the job's log until it ends; exit with 1 when it failed."""
    dry_run: Switch = False
    """Print the request as JSON and send nothing: no credentials, no network."""


def job_name(job: JobFlags, kind: str) -> str:
    """Return the job's name."""
    return time.strftime(f"voxelfeed-{kind}-%Y%m%d-%H%M%S") if job.name == "auto" else job.name


def check_job(job: JobFlags) -> None:
    """Raise ``InputError`` when something is missing that every job needs."""
    region_of(job.image)
    if not ROLE.fullmatch(job.role):
        raise InputError(
            f"--role {job.role or '(none)'}: give the ARN of the IAM role that SageMaker takes on, for example "
            "arn:aws:iam::123456789012:role/voxelfeed"
        )
    check_s3("--output", job.output)
    for flag, value in {"instances": job.instances, "volume-gib": job.volume_gib, "max-hours": job.max_hours}.items():
        if value <= 0:
            raise InputError(f"--{flag} {value}: it must be above 0")
    if bool(job.subnets) != bool(job.security_groups):
        raise InputError("--subnets and --security-groups go together: give both or none")


def region_of(image: str) -> str:
    """Return the region that an image's address names: a job's image must be in the job's region."""
    found = ECR_IMAGE.fullmatch(image)
    if found is None:
        raise InputError(
            f"--image {image or '(none)'}: not an address in ECR, so the region is not known either; give for example "
            "123456789012.dkr.ecr.us-west-2.amazonaws.com/voxelfeed:latest (docs/sagemaker.md builds and pushes it)"
        )
    return found[1]


def image_words(image: str) -> set[str]:
    """Return the words of an image's repository and tag: ``voxelfeed:0.1.0-v100`` has v100 among them."""
    found = ECR_IMAGE.fullmatch(image)
    return set(re.findall("[a-z0-9]+", f"{found[2]}:{found[3] or ''}".lower())) if found else set()


def check_s3(flag: str, place: str) -> str:
    """Return ``place`` without a slash at its end; raises ``InputError`` when it is none on S3."""
    if not S3.fullmatch(place):
        raise InputError(f"{flag} {place or '(none)'}: give a place on S3, for example s3://BUCKET/FOLDER")
    return place.rstrip("/")


def seconds(job: JobFlags) -> int:
    """Return how long the job may run."""
    return round(3600 * job.max_hours)


def network(job: JobFlags) -> Request:
    """Return the network's part of the request; what was not asked for is left out."""
    part: Request = {}
    if job.subnets:
        part["VpcConfig"] = {"Subnets": job.subnets.split(","), "SecurityGroupIds": job.security_groups.split(",")}
    if job.encrypt_traffic:
        part["EnableInterContainerTrafficEncryption"] = True
    if job.network_isolation:
        part["EnableNetworkIsolation"] = True
    return part


def disk_key(job: JobFlags) -> Request:
    """Return the key's part of the machines; SageMaker refuses one for machines with disks of their own."""
    return {"VolumeKmsKeyId": job.kms_key} if job.kms_key and not HAS_NVME.match(job.instance_type) else {}


def tags(job: JobFlags) -> Request:
    """Return the tags' part of the request, nothing where there are none."""
    pairs = named_values("--tags", job.tags)
    return {"Tags": [{"Key": key, "Value": value} for key, value in pairs.items()]} if pairs else {}


def named_values(flag: str, text: str) -> dict[str, str]:
    """Read ``project=brats,owner=me``; raises ``InputError`` for anything else."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(name and equals for name, equals, _ in pairs):
        raise InputError(f"{flag} {text}: write names and values, for example project=brats,owner=me")
    return {name: value for name, _, value in pairs}


def with_extra(request: Request, path: Path | None) -> Request:
    """Merge the JSON file of ``--extra`` into ``request``; raises ``InputError`` when it is no JSON object."""
    if path is None:
        return request
    try:
        extra = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--extra {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"--extra {path}: not JSON ({error})") from error
    if not isinstance(extra, dict):
        raise InputError(f'--extra {path}: expected names and values, for example {{"Environment": {{"A": "1"}}}}')
    return merged(request, extra)


def merged(request: Request, patch: Request) -> Request:
    """Return ``request`` changed as ``patch`` says (RFC 7386): dicts merge, ``None`` removes, the rest replaces."""
    result = {name: value for name, value in request.items() if patch.get(name, value) is not None}
    for name, value in patch.items():
        if isinstance(value, dict):
            part = request.get(name)
            result[name] = merged(part if isinstance(part, dict) else {}, value)
        elif value is not None:
            result[name] = value
    return result
