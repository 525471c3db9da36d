"""The request for a processing job: nii.gz on S3 to a shard store on S3, each machine converting its share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from preprocessing.console.errors import InputError
from preprocessing.console.flags import parse_flag
from request.job import JobFlags, Request, check_job, check_s3, disk_key, job_name, named_values, network, seconds, tags


@dataclass(frozen=True, kw_only=True)
class Process(JobFlags):
    """Submit a conversion to shards. Flags of preprocessing.to_shards follow after --, for example: -- --layout msd.

    Each machine reads its own cases from S3 and writes its own shards there; the first one then completes the store.
    The same command, given again, converts only what is missing.
    """

    instance_type: str = "ml.m5.4xlarge"
    """Machine; cores count, GPUs do not."""
    volume_gib: int = 30
    """Disk of each machine; cases pass through memory."""
    input: str = ""
    """Data set: s3://BUCKET/FOLDER in any layout of docs/layouts.md, or a CSV or JSON list there."""


def processing_request(job: Process, flags: Mapping[str, str]) -> Request:
    """Build the request; ``flags`` are the converter's, by name. Raises ``InputError`` for flags that would fail.

    The job has no ProcessingInput: SageMaker would copy the whole set to every machine (FullyReplicated), or
    distribute it by object (ShardedByS3Key), which can send the modalities of a case to different machines.
    """
    check_job(job)
    if job.network_isolation:
        raise InputError("--network-isolation: a conversion reads and writes S3 itself; give --subnets instead")
    if parse_flag(flags.get("report", "false")):
        raise InputError(
            f"-- --report {flags['report']}: the store goes to S3; copy it with preprocessing.stage and report there"
        )
    places = {"input": check_s3("--input", job.input), "output": check_s3("--output", job.output)}
    if places["input"] == places["output"]:
        raise InputError(f"--output {job.output} is the input folder; give another one")
    words = [word for name, value in {**places, **flags}.items() for word in (f"--{name}", value)]
    environment = named_values("--environment", job.environment)
    if job.kms_key:  # the job writes to S3 through fsspec, not through SageMaker's outputs
        environment = {"FSSPEC_S3": json.dumps({"s3_additional_kwargs": _encrypted(job.kms_key)})} | environment
    within = network(job)
    return {
        "ProcessingJobName": job_name(job, "process"),
        "RoleArn": job.role,
        "AppSpecification": {"ImageUri": job.image, "ContainerEntrypoint": ["process"], "ContainerArguments": words},
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceType": job.instance_type,
                "InstanceCount": job.instances,
                "VolumeSizeInGB": job.volume_gib,
                **disk_key(job),
            }
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": seconds(job)},
        **tags(job),
        **({"NetworkConfig": {"EnableNetworkIsolation": False, **within}} if within else {}),
        **({"Environment": environment} if environment else {}),
    }


def _encrypted(kms_key: str) -> dict[str, str]:
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}
