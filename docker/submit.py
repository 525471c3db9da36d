"""Send a request to SageMaker and, if wanted, follow the job to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from job_request import Request

from preprocessing.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError, RunError

log = logging.getLogger(__name__)
CONSOLE = {"Training": "jobs", "Processing": "processing-jobs"}
ENDED = ("Completed", "Failed", "Stopped")
LOOK_EVERY_S = 15.0
LATE_MS = 60_000  # by so much may the lines of one machine come after those of another


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
    import boto3
    from botocore.config import Config

    patient = Config(retries={"mode": "standard", "max_attempts": 10})  # jobs take hours, in which networks fail
    client = boto3.client("sagemaker", region_name=region, config=patient)
    describe = {"Training": client.describe_training_job, "Processing": client.describe_processing_job}[kind]
    lines = JobLog(boto3.client("logs", region_name=region, config=patient), f"/aws/sagemaker/{kind}Jobs", f"{name}/")
    stage = ""
    while True:
        with _answering(region):
            job = describe(**{f"{kind}JobName": name})
            status: str = job[f"{kind}JobStatus"]
            if status in ENDED:
                time.sleep(LOOK_EVERY_S)  # the last lines reach CloudWatch a little later
            for line in lines.new():
                log.info("%s", line)
        if stage != (stage := job.get("SecondaryStatus", status)):
            log.info("%s: %s", name, stage)
        if status in ENDED:
            break
        time.sleep(LOOK_EVERY_S)
    if status == "Completed":
        return EXIT_DONE
    log.error("%s: %s. %s", name, status, job.get("FailureReason") or job.get("ExitMessage") or "")
    return EXIT_UNEXPECTED


class JobLog:
    """What the machines of a job have written to CloudWatch, each line once."""

    def __init__(self, client: Any, group: str, streams: str) -> None:
        self.client, self.group, self.streams = client, group, streams
        self.shown: set[str] = set()
        self.newest_ms = 0

    def new(self) -> Iterator[str]:
        """Yield the lines that came since the last call."""
        pages = self.client.get_paginator("filter_log_events").paginate(
            logGroupName=self.group,
            logStreamNamePrefix=self.streams,
            startTime=max(self.newest_ms - LATE_MS, 0),
        )
        try:
            events = [event for page in pages for event in page["events"] if event["eventId"] not in self.shown]
        except self.client.exceptions.ResourceNotFoundException:  # no job of this kind has written anything yet
            return
        for event in events:
            self.shown.add(event["eventId"])
            self.newest_ms = max(self.newest_ms, event["timestamp"])
            yield event["message"].rstrip()


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
