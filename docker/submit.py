"""Send a request to SageMaker and, if wanted, follow the job to its end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from job_request import Request

from preprocessing.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError, RunError

log = logging.getLogger(__name__)
CONSOLE = {"Training": "jobs", "Processing": "processing-jobs"}


def submit(kind: str, request: Request, region: str) -> str:
    """Create the job; ``kind`` is ``Training`` or ``Processing``. Returns its name.

    Raises ``InputError`` without credentials and ``RunError`` with SageMaker's own words when it refuses.
    """
    import boto3

    client = boto3.client("sagemaker", region_name=region)
    create = {"Training": client.create_training_job, "Processing": client.create_processing_job}[kind]
    with _answering(region):
        create(**request)
    name: str = request[f"{kind}JobName"]
    console = f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/{CONSOLE[kind]}/{name}"
    log.info("%s: submitted; %s", name, console)
    return name


def follow(kind: str, name: str, region: str) -> int:
    """Show the job's log until it ends; returns the exit code. Ctrl-C ends the watching, not the job."""
    os.environ["AWS_DEFAULT_REGION"] = region  # all that the SDK's client for the logs looks at
    resources, failed = load_sdk()
    with _answering(region):
        job = getattr(resources, f"{kind}Job").get(name, region=region)
        try:
            job.wait(poll=15, logs=True)
        except failed as error:
            log.error("%s", error)
            return EXIT_UNEXPECTED
    return EXIT_DONE


def load_sdk() -> tuple[Any, type[Exception]]:
    """Import the part of AWS's SDK that follows a job, which takes seconds; raises ``InputError`` without it."""
    try:
        from sagemaker.core import resources
        from sagemaker.core.utils.exceptions import FailedStatusError
    except ImportError as error:
        raise InputError(f'--wait: {error}; pip install "voxelfeed[sagemaker]", or leave --wait out') from error
    return resources, FailedStatusError


@contextmanager
def _answering(region: str) -> Iterator[None]:
    """Say in one line what AWS's own errors mean."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise InputError("no AWS credentials here; run aws configure, or look first with --dry-run") from error
    except (BotoCoreError, ClientError) as error:
        raise RunError(f"SageMaker in {region} refused: {' '.join(str(error).split())}") from error
