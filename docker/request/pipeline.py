"""A SageMaker pipeline: the request for a conversion, then the one for a training on the store that it makes."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from preprocessing.console.errors import InputError
from request.job import JobFlags, Request, check_s3, tags
from request.processing import Process, processing_request
from request.training import Train, training_request


@dataclass(frozen=True, kw_only=True)
class Pipeline(Train):
    """Define a SageMaker pipeline: convert, train, and segment --test images.

    Flags of training.run follow after --, those of preprocessing.to_shards after one more, for example
    -- --epochs 8 -- --layout msd.

    Sent again under the same name it replaces the earlier definition. Its executions take the parameters Data, Shards,
    Epochs and InstanceType. Needs AWS's SDK: pip install "voxelfeed[sagemaker]".
    """

    name: str = "voxelfeed"
    """Name of the pipeline."""
    input: str = ""
    """Data set: s3://BUCKET/FOLDER in any layout of docs/layouts.md; default of the parameter Data."""
    shards: str = ""
    """The shard store that is made and trained on, s3://BUCKET/FOLDER; default of the parameter Shards."""
    convert_instance_type: str = Process.instance_type
    """Machine that converts."""
    convert_instances: int = 1
    """Number of machines that convert."""


def step_requests(job: Pipeline, convert: Mapping[str, str], train: Mapping[str, str]) -> tuple[Request, Request]:
    """Return the requests of both steps; ``convert`` and ``train`` are the flags of the commands in the container.

    Raises ``InputError`` for flags that SageMaker or the commands would not accept.
    """
    if job.checkpoints != "auto":
        raise InputError(f"--checkpoints {job.checkpoints}: leave it out; each execution of a pipeline has its own")
    if job.wait:
        raise InputError("--wait: a pipeline is only defined here; start it, and follow it in SageMaker Studio")
    shared = {field.name: getattr(job, field.name) for field in dataclasses.fields(JobFlags)}
    shared |= {"output": check_s3("--shards", job.shards), "network_isolation": False}
    shared |= {"instance_type": job.convert_instance_type, "instances": job.convert_instances}
    shared |= {"volume_gib": Process.volume_gib}
    return processing_request(Process(**shared, input=job.input), convert), training_request(job, train)


def pipeline_request(job: Pipeline, definition: str) -> Request:
    """Build the request that defines the pipeline; ``definition`` is its JSON."""
    return {
        "PipelineName": job.name,
        "PipelineDefinition": definition,
        "ClientRequestToken": uuid.uuid4().hex,
        "RoleArn": job.role,
        **tags(job),
    }
