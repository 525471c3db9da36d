"""The one place that talks to AWS: check a request against the service's own model, send it, follow the job."""

from __future__ import annotations

import difflib
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError, RunError
from request.job import Request

JAVA_ONLY = r"\p{"  # the patterns are Java's; classes of Unicode characters (tags have them) are unknown to re
log = logging.getLogger(__name__)
CONSOLE = {"Training": "jobs", "Processing": "processing-jobs"}
ENDED = ("Completed", "Failed", "Stopped")
LOOK_EVERY_S = 15.0
LATE_MS = 60_000  # how long after others the lines of a slow machine may arrive


def check_request(kind: str, request: Request) -> None:
    """Compare the request for a job with the API's model; raises ``InputError`` with the first thing that does not fit.

    ``kind`` is ``Training``, ``Processing`` or ``Pipeline``. botocore itself checks names, types and minima only;
    patterns, maxima and enumerations are in the model as well.
    """
    try:
        import botocore.session
        from botocore.validate import ParamValidator
    except ImportError as error:
        raise InputError(f'{error}; the launcher needs boto3: pip install "voxelfeed[aws]"') from error
    operation = "CreatePipeline" if kind == "Pipeline" else f"Create{kind}Job"
    shape = botocore.session.get_session().get_service_model("sagemaker").operation_model(operation).input_shape
    report = ParamValidator().validate(request, shape)
    problems = report.generate_report().splitlines() if report.has_errors() else [*_problems(operation, request, shape)]
    if problems:
        raise InputError(f"SageMaker would refuse the request: {problems[0]}")


def _problems(place: str, value: Any, shape: Any) -> Iterator[str]:
    """Yield what in ``value`` breaks a maximum, a pattern or an enumeration of the model's ``shape``."""
    most = shape.metadata.get("max")
    if most is not None:
        is_number = shape.type_name in ("integer", "long")
        if (value if is_number else len(value)) > most:
            yield f"{place} is {_short(value)}{'' if is_number else f', a length of {len(value)}'}; at most {most}"
    if shape.type_name == "structure":
        for name, inner in value.items():
            yield from _problems(f"{place}.{name}", inner, shape.members[name])
    elif shape.type_name == "list":
        for index, inner in enumerate(value):
            yield from _problems(f"{place}[{index}]", inner, shape.member)
    elif shape.type_name == "map":
        for name, inner in value.items():
            yield from _problems(f"{place}: the name", name, shape.key)
            yield from _problems(f"{place}.{name}", inner, shape.value)
    elif shape.type_name == "string":
        yield from _odd_text(place, value, shape)


def _odd_text(place: str, text: str, shape: Any) -> Iterator[str]:
    pattern = shape.metadata.get("pattern", JAVA_ONLY)
    if JAVA_ONLY not in pattern and not re.fullmatch(pattern, text):
        yield f"{place} is {_short(text)}; it must match {pattern}"
    if shape.enum and text not in shape.enum:
        near = difflib.get_close_matches(text, shape.enum)
        yield f"{place} is {text}, unknown; " + (f"near: {', '.join(near)}" if near else "see the API's documentation")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def submit(kind: str, request: Request, region: str) -> str:
    """Create the job, or define the pipeline; ``kind`` is as ``check_request`` takes it. Returns its name.

    Raises ``InputError`` without credentials and ``RunError`` with SageMaker's own words when it refuses.
    """
    import boto3

    client = boto3.client("sagemaker", region_name=region)
    if kind == "Pipeline":
        return _define(client, request, region)
    create = {"Training": client.create_training_job, "Processing": client.create_processing_job}[kind]
    with _aws_errors_in_one_line(region):
        create(**request)
    name: str = request[f"{kind}JobName"]
    console = f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/{CONSOLE[kind]}/{name}"
    log.info("%s: submitted; %s", name, console)
    return name


def _define(client: Any, request: Request, region: str) -> str:
    """Define a pipeline; where there is one of that name it gets the new definition."""
    from botocore.exceptions import ClientError

    name: str = request["PipelineName"]
    with _aws_errors_in_one_line(region):
        try:
            client.create_pipeline(**request)
        except ClientError as error:
            if "already exists" not in str(error) and "must be unique" not in str(error):  # it has no code of its own
                raise
            client.update_pipeline(
                **{part: request[part] for part in ("PipelineName", "PipelineDefinition", "RoleArn")}
            )
    log.info("%s: defined; start it with aws sagemaker start-pipeline-execution --pipeline-name %s", name, name)
    return name


def follow(kind: str, name: str, region: str) -> int:
    """Show the job's log until it ends; returns the exit code. Ctrl-C ends the watching, not the job."""
    import boto3
    from botocore.config import Config

    many_retries = Config(retries={"mode": "standard", "max_attempts": 10})  # jobs take hours, in which networks fail
    client = boto3.client("sagemaker", region_name=region, config=many_retries)
    describe = {"Training": client.describe_training_job, "Processing": client.describe_processing_job}[kind]
    lines = JobLog(
        boto3.client("logs", region_name=region, config=many_retries), f"/aws/sagemaker/{kind}Jobs", f"{name}/"
    )
    stage = ""
    while True:
        with _aws_errors_in_one_line(region):
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
def _aws_errors_in_one_line(region: str) -> Iterator[None]:
    """Turn errors of AWS's library into our own, in one line."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise InputError("no AWS credentials here; run aws configure, or look first with --dry-run") from error
    except (BotoCoreError, ClientError) as error:
        raise RunError(f"SageMaker in {region} refused: {' '.join(str(error).split())}") from error
