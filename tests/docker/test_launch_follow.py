"""``--wait``: AWS's own SDK shows the log of a job. It is not in the development environment, whose pins it refuses."""

from __future__ import annotations

import json
import time
from typing import Any

import boto3
import pytest
from submit import follow, submit

from tests.docker.pin_requests import FOLDER
from tests.preprocessing.test_object_store import endpoint

__all__ = ["endpoint"]
REGION = "us-west-2"
GROUP = "/aws/sagemaker/TrainingJobs"


@pytest.mark.usefixtures("endpoint")
@pytest.mark.filterwarnings("default")  # the SDK's own
def test_the_log_of_a_job_is_shown_until_it_ends(capsys: pytest.CaptureFixture[str], caplog: Any) -> None:
    pytest.importorskip("sagemaker.core", reason="needs sagemaker-core, which wants rich<15 and protobuf<7")
    request = json.loads((FOLDER / "train_on_cpu.json").read_text())["request"]
    name = submit("Training", request, REGION)
    logs, stream = boto3.client("logs", region_name=REGION), f"{name}/algo-1-1234"
    logs.create_log_group(logGroupName=GROUP)
    logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
    said = {"timestamp": int(time.time() * 1000), "message": "epoch 1  step 4  loss 0.5000"}
    logs.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=[said])
    with caplog.at_level("INFO"):
        assert follow("Training", name, REGION) == 0
    assert said["message"] in caplog.text + "".join(capsys.readouterr())
