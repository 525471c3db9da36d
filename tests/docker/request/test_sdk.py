"""AWS's SDK on our requests: what it sends, the pipeline that it writes, and its local mode.

The SDK is about 1 GB and not in the extra ``dev``: these tests need ``pip install -e ".[dev,sagemaker]"``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from request.aws import check_request

from preprocessing.console.errors import InputError
from tests.docker.conftest import may_be_first_process
from tests.docker.request.pin_requests import PINNED, ROOT, made_by
from tests.docker.request.test_launch import IMAGE, MUST, ROLE, TRAIN
from tests.preprocessing.test_object_store import endpoint
from tests.test_imports import imported_by

__all__ = ["endpoint"]
needs_sdk = pytest.mark.skipif(find_spec("sagemaker") is None, reason='needs AWS\'s SDK: pip install ".[sagemaker]"')
PIPELINE = f"pipeline {MUST} --input s3://team-brats/msd --shards s3://team-brats/shards"
SMALL = "--patch 16,16,16 --net segresnet --samples-per-case 2 --batch-size 2 --epochs 1 --device cpu"
NETWORKLESS = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_EC2_METADATA_DISABLED": "true"}


def test_one_module_imports_the_sdk() -> None:
    importing = [path.name for path in (ROOT / "docker").rglob("*.py") if "sagemaker" in imported_by(path)]
    assert importing == ["sdk.py"]


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import the SDK, which warns of itself; it does not ask IAM about roles, which moto does not know."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("SAGEMAKER_VALIDATE_ROLE", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from request import sdk

        yield sdk


@pytest.fixture
def sent(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:  # noqa: ARG001
    """Listen to what the SDK creates through boto3 at moto's server."""
    bodies: list[tuple[str, dict[str, Any]]] = []
    session = botocore.session.get_session()

    def listen(model: Any, params: Any, **_: object) -> None:
        if model.name.startswith(("Create", "Update")):
            bodies.append((model.name, json.loads(params["body"])))

    session.register("before-call.sagemaker", listen)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", boto3.Session(botocore_session=session, region_name="us-west-2"))
    return bodies


@needs_sdk
@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_the_sdk_sends_what_a_dry_run_prints(path: Path, sdk: Any, sent: list[tuple[str, dict[str, Any]]]) -> None:
    """All of it, and nothing else; the SDK adds the time to the name."""
    kind, request = made_by(json.loads(path.read_text())["command"])
    session = sdk.Session(boto_session=boto3.DEFAULT_SESSION)
    if kind == "Training":
        sdk.model_trainer(request, session).train(wait=False, logs=False)
    else:
        words = request["AppSpecification"]["ContainerArguments"]
        sdk.processor(request, session).run(arguments=words, wait=False, logs=False)
    ((operation, body),) = sent
    name = f"{kind}JobName"
    assert operation == f"Create{kind}Job"
    assert body.pop(name).startswith(request.pop(name))
    assert body == request


@needs_sdk
def test_what_the_sdk_has_no_place_for_is_refused(sdk: Any, tmp_path: Path) -> None:
    path = tmp_path / "extra.json"
    path.write_text('{"ExperimentConfig": {"ExperimentName": "brats"}}')
    _, request = made_by(f"{TRAIN} --extra {path}")
    with pytest.raises(InputError, match=r"^ExperimentConfig: the SDK's ModelTrainer has no place for that"):
        sdk.model_trainer(request)


def value_of(part: Any, defaults: dict[str, Any]) -> Any:
    """Return a part of a definition as SageMaker fills it in for an execution called abc."""
    if isinstance(part, list):
        return [value_of(item, defaults) for item in part]
    if not isinstance(part, dict):
        return part
    if "Get" in part:
        return defaults[part["Get"]]
    if "Std:Join" in part:
        join = part["Std:Join"]
        return join["On"].join(str(value_of(value, defaults)) for value in join["Values"])
    return {name: value_of(value, defaults) for name, value in part.items()}


@needs_sdk
def test_a_pipelines_definition_needs_no_credentials_and_no_network(tmp_path: Path) -> None:
    """As typed, without even a region; its steps, filled in, are the requests of single jobs."""
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **NETWORKLESS}
    command = f"{PIPELINE} --name brats --test s3://team-brats/imagesTs --spot --tags a=b --dry-run"
    convert, train = "--layout nnunet --dtype float32", "--patch 128,128,128 --epochs 8"
    words = [sys.executable, "docker/launch.py", *f"{command} -- {train} -- {convert}".split()]
    dry = subprocess.run(words, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    definition = json.loads(dry.stdout)
    parameters = {item["Name"]: item["DefaultValue"] for item in definition["Parameters"]}
    assert parameters == {
        "Data": "s3://team-brats/msd",
        "Shards": "s3://team-brats/shards",
        "Epochs": 8,
        "InstanceType": "ml.g5.2xlarge",
    }
    defaults = {f"Parameters.{name}": value for name, value in parameters.items()}
    defaults["Execution.PipelineExecutionId"] = "abc"
    first, second = definition["Steps"]
    assert second["DependsOn"] == [first["Name"]]
    converting, training = (value_of(step["Arguments"], defaults) for step in (first, second))
    process = f"process {MUST} --output s3://team-brats/shards --input s3://team-brats/msd --tags a=b"
    _, alone = made_by(f"{process} --name x -- {convert}")
    assert converting | {"ProcessingJobName": "x"} == alone
    flags = "--test s3://team-brats/imagesTs --spot --tags a=b --checkpoints s3://team-brats/runs/brats/abc/run"
    _, alone = made_by(f"{TRAIN} {flags} --name x -- {train}")
    assert training | {"TrainingJobName": "x"} == alone
    check_request("Training", training | {"TrainingJobName": "x"})


@needs_sdk
@pytest.mark.usefixtures("sdk")
def test_a_pipeline_is_defined_and_then_updated(sent: list[tuple[str, dict[str, Any]]], tmp_path: Path) -> None:
    from launch import Options, launch, split_at_dashes
    from tyro import cli

    words, passed = split_at_dashes(shlex.split(f"{PIPELINE} --name brats-{tmp_path.name.replace('_', '-')}"))
    for _ in range(2):
        assert launch(passed, cli(Options, args=words)) == 0
    assert [operation for operation, _ in sent] == ["CreatePipeline", "CreatePipeline", "UpdatePipeline"]
    assert sent[0][1]["RoleArn"] == ROLE
    assert {step["Name"] for step in json.loads(sent[2][1]["PipelineDefinition"])["Steps"]} == {"convert", "train"}


@needs_sdk
@pytest.mark.usefixtures("endpoint")
def test_the_pages_notebook_sends_a_job(tmp_path: Path) -> None:
    """As it stands in docs/sagemaker.md, in a process of its own; moto's server takes the job."""
    first, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sagemaker.md").read_text(), flags=re.DOTALL)
    own = {"IMAGE": IMAGE, "ROLE": ROLE, "BUCKET": "team-brats", "SAGEMAKER_VALIDATE_ROLE": "false"}
    own |= {"HOME": str(tmp_path), "AWS_DEFAULT_REGION": "us-west-2"}
    words = [sys.executable, "-W", "ignore", "-c", first]
    ran = subprocess.run(words, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    client = boto3.client("sagemaker", region_name="us-west-2")
    (job,) = client.list_training_jobs(NameContains="brats-notebook")["TrainingJobSummaries"]
    described = client.describe_training_job(TrainingJobName=job["TrainingJobName"])
    assert described["HyperParameters"] == {"patch": "128,128,128", "batch-size": "2"}


IMPOSSIBLE = {
    f"{PIPELINE} --wait": "--wait: a pipeline is only defined here",
    f"{PIPELINE} --checkpoints s3://b-1/run": "--checkpoints s3://b-1/run: leave it out; each execution",
    f"{PIPELINE} --shards fsx://fs-0123456789abcdef0/abcd": "--shards fsx://fs-0123456789abcdef0/abcd: give a place",
    f"{PIPELINE} -- -- --layout foo": "--layout foo: unknown; known: auto, msd",
    f"{PIPELINE} -- --epochs 8 -- --input x": "-- --input x: the job sets this one",
    f"{PIPELINE} --instance-type ml.p4d.24xlarg": "InstanceType is ml.p4d.24xlarg, unknown",
    f"{PIPELINE} -- --epochs many": "--epochs many: expected a whole number",
}


@pytest.mark.parametrize(("command", "message"), IMPOSSIBLE.items(), ids=range(len(IMPOSSIBLE)))
def test_a_pipeline_that_cannot_be_is_refused(command: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        made_by(command)
    assert message in str(refused.value)


@pytest.mark.skipif(find_spec("sagemaker") is not None, reason="AWS's SDK is here")
def test_a_pipeline_without_the_sdk_says_what_to_install() -> None:
    with pytest.raises(InputError, match=r'a pipeline needs AWS\'s SDK: pip install "voxelfeed\[sagemaker\]"'):
        made_by(PIPELINE)


@needs_sdk
@pytest.mark.skipif(not may_be_first_process(), reason="this user may not make namespaces (unshare)")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("instances", [1, 2])
def test_local_mode_trains(
    instances: int, sdk: Any, coordinate_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's own runner, the image's own command; only docker itself is a stand-in."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("docker_standin.py")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for name, value in NETWORKLESS.items():
        monkeypatch.setenv(name, value)
    command = f"train --name local --role {ROLE} --image {IMAGE}:latest --output s3://b-1/o --shards s3://b-1/s"
    _, request = made_by(f"{command} --instances {instances} -- {SMALL}")
    folder = tmp_path / "job"
    sdk.local_trainer(request, {"shards": coordinate_store}, folder).train()
    with tarfile.open(folder / "compressed_artifacts" / "model.tar.gz") as model:
        assert model.getnames() == ["best.pt"]
    metrics = folder / "artifacts" / "output" / "data" / "metrics.jsonl"
    (line,) = metrics.read_text().splitlines()
    assert json.loads(line)["step"] == -(-4 // (2 * instances)) * 2
