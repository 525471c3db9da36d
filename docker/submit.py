"""Send a request to SageMaker and, if wanted, follow the job to its end."""

from __future__ import annotations

import logging
import os
from typing import Any

from job_request import Request

from preprocessing.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError, RunError

log = logging.getLogger(__name__)


def submit(kind: str, request: Request, region: str) -> str:
    """Create the job; ``kind`` is ``Training`` or ``Processing``. Returns its name.

    Raises ``InputError`` without credentials and ``RunError`` with SageMaker's own words when it refuses.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    client = boto3.client("sagemaker", region_name=region)
    create = {"Training": client.create_training_job, "Processing": client.create_processing_job}[kind]
    try:
        create(**request)
    except NoCredentialsError as error:
        raise InputError(
            f"{error}: no AWS credentials here; run aws configure, or look first with --dry-run"
        ) from error
    except (BotoCoreError, ClientError) as error:
        raise RunError(f"SageMaker in {region} refused the job: {' '.join(str(error).split())}") from error
    name: str = request[f"{kind}JobName"]
    log.info(
        "%s: submitted; https://%s.console.aws.amazon.com/sagemaker/home?region=%s#/%s/%s",
        name,
        region,
        region,
        {"Training": "jobs", "Processing": "processing-jobs"}[kind],
        name,
    )
    return name


def follow(kind: str, name: str, region: str) -> int:
    """Show the job's log until it ends; returns the exit code. Ctrl-C ends the watching, not the job."""
    os.environ["AWS_DEFAULT_REGION"] = region  # the only way to tell the library's log client
    resources, failed = _library()
    job = getattr(resources, f"{kind}Job").get(name, region=region)
    try:
        job.wait(poll=15, logs=True)
    except failed as error:
        log.error("%s", error)
        return EXIT_UNEXPECTED
    return EXIT_DONE


def _library() -> tuple[Any, type[Exception]]:
    """Import AWS's library for SageMaker, which is heavy and needed for following the log only."""
    try:
        from sagemaker.core import resources
        from sagemaker.core.utils.exceptions import FailedStatusError
    except ImportError as error:
        raise InputError(f'--wait: {error}; pip install "voxelfeed[sagemaker]", or leave --wait out') from error
    return resources, FailedStatusError
