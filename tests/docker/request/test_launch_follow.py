"""``--wait``: the log of a job is shown until it ends, as moto's server tells both; moto's jobs are done at once."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.sagemaker.models import sagemaker_backends
from request import aws
from request.aws import follow

from preprocessing.console.errors import RunError
from tests.docker.request.pin_requests import FOLDER
from tests.preprocessing.test_object_store import endpoint

__all__ = ["endpoint"]
REGION = "us-west-2"
PINNED = {"Training": "train_on_cpu.json", "Processing": "process_brats.json"}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A job that moto holds, and the log stream of one of its machines."""

    kind: str
    name: str
    logs: Any

    @property
    def held(self) -> Any:
        """The job as moto keeps it."""
        backend = sagemaker_backends[DEFAULT_ACCOUNT_ID][REGION]
        return (backend.training_jobs if self.kind == "Training" else backend.processing_jobs)[self.name]

    def become(self, status: str, **reason: str) -> None:
        prefix = self.kind.lower()
        if self.kind == "Training":
            self.held.secondary_status = status
        for name, value in {f"{prefix}_job_status": status, **reason}.items():
            setattr(self.held, name, value)

    def say(self, machine: str, message: str, late_ms: int = 0) -> None:
        group, stream = f"/aws/sagemaker/{self.kind}Jobs", f"{self.name}/{machine}-1234"
        existing = self.logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]
        if not existing:
            self.logs.create_log_group(logGroupName=group)
        if not self.logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=stream)["logStreams"]:
            self.logs.create_log_stream(logGroupName=group, logStreamName=stream)
        event = {"timestamp": int(time.time() * 1000) - late_ms, "message": message}
        self.logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[event])


@pytest.fixture(params=PINNED)
def job(request: pytest.FixtureRequest, endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> Sent:  # noqa: ARG001
    monkeypatch.setattr(aws, "LOOK_EVERY_S", 0.05)
    body = json.loads((FOLDER / PINNED[request.param]).read_text())["request"]
    body[f"{request.param}JobName"] = f"followed-{time.monotonic_ns()}"
    name = aws.submit(request.param, body, REGION)
    return Sent(kind=request.param, name=name, logs=boto3.client("logs", region_name=REGION))


def test_the_log_is_shown_until_the_job_is_done(job: Sent, caplog: pytest.LogCaptureFixture) -> None:
    """Each line once, also one that comes late from another machine; the end is waited for."""
    job.become("InProgress")
    ended: list[int] = []
    with caplog.at_level("INFO"):
        watching = threading.Thread(target=lambda: ended.append(follow(job.kind, job.name, REGION)))
        watching.start()
        job.say("algo-1", "epoch 1  step 4  loss 0.5000")
        while "epoch 1" not in caplog.text:
            assert watching.is_alive(), caplog.text
            time.sleep(0.01)
        job.say("algo-2", "late", late_ms=5000)
        job.say("algo-1", "epoch 2  step 8  loss 0.2500")
        job.become("Completed")
        watching.join(timeout=20)
    assert ended == [0]
    shown = [record.message for record in caplog.records]
    lines = ["epoch 1  step 4  loss 0.5000", "late", "epoch 2  step 8  loss 0.2500"]
    assert [shown.count(line) for line in lines] == [1, 1, 1], shown
    assert f"{job.name}: InProgress" in shown
    assert shown[-1] == f"{job.name}: Completed"


@pytest.mark.parametrize("status", ["Failed", "Stopped"])
def test_a_job_that_did_not_complete_ends_with_its_reason(
    job: Sent, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    job.become(status, failure_reason="AlgorithmError: InputError: no manifest.json there, exit code: 2")
    with caplog.at_level("ERROR"):
        assert follow(job.kind, job.name, REGION) == 1
    assert f"{job.name}: {status}. AlgorithmError: InputError: no manifest.json there" in caplog.text


@pytest.mark.usefixtures("endpoint")
def test_a_job_that_is_not_there_is_one_line() -> None:
    with pytest.raises(RunError, match=r"SageMaker in us-west-2 refused: .*Could not find"):
        follow("Training", "never-sent", REGION)
