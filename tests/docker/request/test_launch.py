"""The launcher: the requests of typical jobs, what cannot go together, and SageMaker's answer (moto's server)."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
import tyro
from botocore.validate import ParamValidator
from container import sagemaker_job
from container.train_job import training_flags
from launch import Options, launch, read_flags, split_at_dashes
from request.aws import check_request, submit
from request.job import disk_key, image_words, region_of
from request.processing import Process
from request.training import Train

from preprocessing.console.errors import InputError, RunError
from tests.docker.request.pin_requests import PINNED, ROOT, made_by
from tests.preprocessing.test_object_store import endpoint
from training.options import Options as TrainingOptions
from training.options import check_options

__all__ = ["endpoint"]
IMAGE = "123456789012.dkr.ecr.us-west-2.amazonaws.com/voxelfeed"
ROLE = "arn:aws:iam::123456789012:role/voxelfeed"
MUST = f"--image {IMAGE}:latest --role {ROLE} --output s3://team-brats/runs"
TRAIN = f"train {MUST} --shards s3://team-brats/shards"
VPC = "--subnets subnet-0a1b2c3d --security-groups sg-0a1b2c3d"
SHARED = ["image", "role", "output", "instance-type", "instances", "volume-gib", "max-hours", "subnets"]
SHARED += ["security-groups", "kms-key", "encrypt-traffic", "network-isolation", "environment", "tags", "extra", "name"]
SHARED += ["wait", "dry-run"]
TRAIN_ONLY = ["shards", "test", "checkpoints", "input-mode", "spot", "warm-minutes", "retries", "training-plan"]
TRAIN_ONLY += ["smddp"]


@pytest.mark.parametrize(
    ("options_type", "own"),
    [
        (
            Train,
            [
                "shards",
                "test",
                "checkpoints",
                "input-mode",
                "spot",
                "warm-minutes",
                "retries",
                "training-plan",
                "smddp",
            ],
        ),
        (Process, ["input"]),
    ],
)
def test_the_set_of_flags_is_this(options_type: Any, own: list[str]) -> None:
    assert [field.name.replace("_", "-") for field in dataclasses.fields(options_type)] == SHARED + own


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_requests_of_typical_jobs(path: Path) -> None:
    """Each is what it was, and fits the model of SageMaker's API, to botocore and to our closer look."""
    pinned = json.loads(path.read_text())
    kind, request = made_by(pinned["command"])
    assert request == pinned["request"], "if this is meant: python tests/docker/request/pin_requests.py"
    model = botocore.session.get_session().get_service_model("sagemaker").operation_model(f"Create{kind}Job")
    assert not ParamValidator().validate(request, model.input_shape).has_errors()
    check_request(kind, request)


@pytest.mark.parametrize("path", [path for path in PINNED if path.stem.startswith("train")], ids=lambda path: path.stem)
def test_the_container_makes_of_it_what_was_meant(path: Path, tmp_path: Path) -> None:
    """The other end: hyperparameters and channels, as SageMaker lays them out, become the trainer's options."""
    pinned = json.loads(path.read_text())
    request = pinned["request"]
    (tmp_path / "input" / "config").mkdir(parents=True)
    (tmp_path / "input" / "config" / "hyperparameters.json").write_text(json.dumps(request["HyperParameters"]))
    for channel in request["InputDataConfig"]:
        (tmp_path / "input" / "data" / channel["ChannelName"]).mkdir(parents=True)
    job = sagemaker_job.Job.read("train", {sagemaker_job.BASE_VARIABLE: str(tmp_path)})
    given = job.hyperparameters()
    is_smddp = given.pop(sagemaker_job.SMDDP, "false") == "true"
    made = tyro.cli(TrainingOptions, args=training_flags(job, given, is_smddp=is_smddp))
    meant = tyro.cli(TrainingOptions, args=split_at_dashes(shlex.split(pinned["command"]))[1])
    backend = "smddp" if "smddp" in path.stem else "auto"
    store = tmp_path / "input" / "data" / "shards"
    assert made == dataclasses.replace(meant, shards=store, output=job.run, resume="auto", backend=backend)
    assert request["CheckpointConfig"]["LocalPath"] == f"{sagemaker_job.BASE}/{job.run.relative_to(tmp_path)}"


def test_there_are_fifteen() -> None:
    assert len(PINNED) == 15


IMPOSSIBLE = {
    f"train --role {ROLE} --output s3://b-1/o --shards s3://b-1/s": "--image (none): not an address in ECR",
    f"{TRAIN.replace(ROLE, 'me')}": "--role me: give the ARN",
    f"{TRAIN} --output /tmp/out": "--output /tmp/out: give a place on S3",
    f"{TRAIN} --shards shards": "--shards shards: give a place on S3",
    f"{TRAIN} --spot --warm-minutes 5": "--spot and --warm-minutes 5: SageMaker does not keep spot machines",
    f"{TRAIN} --warm-minutes 90": "--warm-minutes 90: SageMaker keeps machines at most 60",
    f"{TRAIN} --smddp --instance-type ml.p5.48xlarge": "does not know ml.p5.48xlarge, only ml.p4d.24xlarge",
    f"{TRAIN} --smddp --instance-type ml.p4d.24xlarge": "is not the image of docker/Dockerfile.smddp",
    f"{TRAIN} --image {IMAGE}:smddp --smddp --instance-type ml.p4d.24xlarge -- --backend nccl": "--backend nccl with",
    f"{TRAIN} --image {IMAGE}:smddp": "is that of docker/Dockerfile.smddp, whose library works only in processes",
    f"{TRAIN} -- --backend smddp": "--backend smddp without --smddp",
    f"{TRAIN} --instance-type ml.p3.2xlarge": "has V100 GPUs, which the torch in",
    f"{TRAIN} --input-mode Pipe": "--input-mode Pipe: unknown; known: File, FastFile",
    f"{TRAIN} --input-mode FastFile -- --loader torch": "only --loader dali on a GPU reads whole volumes",
    f"{TRAIN} --input-mode FastFile -- --crop host": "FastFile with --crop host: only --loader dali",
    f"{TRAIN} --input-mode FastFile -- --gpu-cache 0": "FastFile with --gpu-cache 0: only --loader dali",
    f"{TRAIN} --input-mode FastFile -- --gpu_cache=0.0": "FastFile with --gpu-cache 0.0: only --loader dali",
    f"{TRAIN} --input-mode FastFile -- --read dali": "FastFile with --read dali: only --loader dali",
    f"{TRAIN} --input-mode FastFile -- --read gds": "FastFile with --read gds: only --loader dali",
    f"{TRAIN} --input-mode FastFile -- --device cpu": "FastFile with --device cpu: only --loader dali",
    f"{TRAIN} --input-mode FastFile --instance-type ml.c5.4xlarge": "only --loader dali on a GPU",
    f"{TRAIN} --shards fsx://fs-0123456789abcdef0/abcd": "a file system in your VPC; give its --subnets",
    f"{TRAIN} --shards fsx://fs-0123456789abcdef0/abcd {VPC} --input-mode FastFile": "and no --input-mode",
    f"{TRAIN} --shards fsx://abcd {VPC}": "write fsx://fs-0123456789abcdef0/MOUNTNAME/FOLDER",
    f"{TRAIN} --subnets subnet-0a1b2c3d": "--subnets and --security-groups go together",
    f"{TRAIN} --tags brats": "--tags brats: write names and values",
    f"{TRAIN} --environment A": "--environment A: write names and values",
    f"{TRAIN} --environment 1A=2": "Environment: the name is 1A; it must match",
    f"{TRAIN} --spot --training-plan arn:x": "--spot and --training-plan: the machines of a plan are reserved",
    f"{TRAIN} --training-plan {'b' * 60}": "TrainingPlanArn is bbb",
    f"{TRAIN} --retries 31": "MaximumRetryAttempts is 31; at most 30",
    f"{TRAIN} --retries=-1": "MaximumRetryAttempts",
    f"{TRAIN} --extra nowhere.json": "--extra nowhere.json: No such file or directory",
    f"process {MUST} --input s3://b-1/msd --network-isolation": "a conversion reads and writes S3 itself",
    f"{TRAIN} -- --output runs": "-- --output runs: the job sets this one",
    f"{TRAIN} --spot -- --resume never": "-- --resume never: the job sets this one",
    f"process {MUST} --input s3://b-1/msd -- --partition=1/2": "-- --partition 1/2: the job sets this one",
    f"{TRAIN} -- --loader dail": "unknown loader 'dail'; known: dali, torch",
    f"{TRAIN} -- --preset nope": "--preset nope: unknown; known: fast, nnunet, article",
    f"{TRAIN} -- --augment x": "unknown augment 'x'; known: none, basic, full",
    f"{TRAIN} -- --net vnet": "--net vnet: unknown; known: auto, segresnet",
    f"{TRAIN} -- --loss hinge": "--loss hinge: unknown; known: auto, dice",
    f"{TRAIN} -- --optimizer lion": "--optimizer lion: unknown; known: auto, adamw",
    f"{TRAIN} -- --amp int4": "--amp int4: unknown; known: auto, bf16",
    f"{TRAIN} -- --device gpu": "--device gpu: unknown; known: auto, cpu, cuda",
    f"{TRAIN} -- --backend mpi": "--backend mpi: unknown; known: auto, gloo",
    f"{TRAIN} -- --crop gpu": "unknown crop 'gpu'; known: auto, host, device",
    f"{TRAIN} -- --read fast": "unknown read 'fast'; known: mmap, dali, gds",
    f"{TRAIN} -- --gpu-cache lots": "gpu_cache 'lots': auto, a number of GiB",
    f"{TRAIN} -- --loader torch --crop device": 'crop "device" is for the loader dali',
    f"{TRAIN} -- --patch 100,128,128": "--patch 100,128,128: dynunet needs multiples of 8; use 104,128,128",
    f"{TRAIN} -- --foreground 2": "foreground is 2; it is a probability",
    f"{TRAIN} -- --epochs=-1": "--epochs, --val-every and --lr are 0 (choose) or positive",
    f"{TRAIN} -- --batch-size 3 --accumulate 2": "--accumulate 2: must divide --batch-size 3",
    f"{TRAIN} -- --batch-size 0": "--batch-size 0 --samples-per-case 4: at least 1 is needed",
    f"{TRAIN} -- --ema 1": "--ema 1: 0 (off), or a decay below 1",
    f"process {MUST} --input s3://b-1/msd -- --orientation XYZ": "--orientation XYZ: unknown",
    f"process {MUST} --input s3://b-1/msd -- --dtype int64": "--dtype int64: unknown; known: auto, uint8",
    f"process {MUST} --input s3://b-1/msd -- --layout foo": "--layout foo: unknown; known: auto, msd, nnunet",
    f"process {MUST} --input s3://b-1/msd -- --report true": "-- --report true: the store goes to S3",
    f"process {MUST} --input s3://team-brats/runs/": "--output s3://team-brats/runs is the input folder",
    f"process {MUST} --input msd": "--input msd: give a place on S3",
    f"{TRAIN} --instance-type ml.p4d.24xlarg": "InstanceType is ml.p4d.24xlarg, unknown; near: ml.p4d.24xlarge",
    f"{TRAIN} --name brats_1": "TrainingJobName is brats_1; it must match",
    f"{TRAIN} --name {'a' * 64}": "a length of 64; at most 63",
    f"{TRAIN} --instances 0": "--instances 0: it must be above 0",
    f"process {MUST} --input s3://b-1/msd --max-hours 500": "MaxRuntimeInSeconds is 1800000; at most 777600",
}


@pytest.mark.parametrize(("command", "message"), IMPOSSIBLE.items(), ids=range(len(IMPOSSIBLE)))
def test_what_cannot_be_is_said_before_anything_is_sent(command: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        check_request(*made_by(command))
    assert message in str(refused.value)


def test_extra_is_merged_before_the_request_is_checked(tmp_path: Path) -> None:
    """As RFC 7386 says: parts merge, null removes, and the API's model has the last word."""
    path = tmp_path / "extra.json"
    path.write_text(
        """{"ExperimentConfig": {"ExperimentName": "brats"}, "Tags": null,
        "ResourceConfig": {"InstanceCount": 3}, "Environment": {"A": null, "B": "b,c"}}"""
    )
    kind, request = made_by(f"{TRAIN} --name extra --tags a=b --environment A=a,C=c --extra {path}")
    _, plain = made_by(f"{TRAIN} --name extra")
    plain["ResourceConfig"]["InstanceCount"] = 3
    assert request == plain | {"ExperimentConfig": {"ExperimentName": "brats"}, "Environment": {"B": "b,c", "C": "c"}}
    check_request(kind, request)
    path.write_text('{"ResourceConfig": {"InstanceType": "ml.p4d.24xlarg"}}')
    with pytest.raises(InputError, match=r"InstanceType is ml.p4d.24xlarg, unknown"):
        check_request(*made_by(f"{TRAIN} --extra {path}"))


@pytest.mark.parametrize("text", ["[1]", "{"])
def test_extra_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "extra.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^--extra {path}: (expected names and values|not JSON)"):
        made_by(f"{TRAIN} --extra {path}")


@pytest.mark.parametrize(
    ("machine", "has_key"),
    [
        ("ml.p3.16xlarge", True),
        ("ml.m5.4xlarge", True),
        ("ml.c5.9xlarge", True),
        ("ml.c6i.8xlarge", True),
        ("ml.p3dn.24xlarge", False),
        ("ml.p4de.24xlarge", False),
        ("ml.p5.48xlarge", False),
        ("ml.p5en.48xlarge", False),
        ("ml.p6-b200.48xlarge", False),
        ("ml.g4dn.xlarge", False),
        ("ml.g5.2xlarge", False),
        ("ml.g6e.2xlarge", False),
        ("ml.m5d.large", False),
    ],
)
def test_disks_that_are_part_of_the_machine_take_no_key(machine: str, has_key: bool) -> None:
    job = Train(instance_type=machine, kms_key="1234abcd-12ab-34cd-56ef-1234567890ab")
    assert bool(disk_key(job)) == has_key


@pytest.mark.parametrize("given", ["s3://team-brats/run-1", "s3://team-brats/run-1/"])
def test_a_checkpoint_location_does_not_match_its_neighbours(given: str) -> None:
    """SageMaker compares the beginnings of names: run-1 would fetch run-10 as well."""
    _, request = made_by(f"{TRAIN} --checkpoints {given}")
    assert request["CheckpointConfig"]["S3Uri"] == "s3://team-brats/run-1/"


def test_volta_takes_the_images_that_have_its_kernels() -> None:
    for tag in ("v100", "0.1.0-v100"):
        made_by(f"{TRAIN} --image {IMAGE}:{tag} --instance-type ml.p3.16xlarge")
    made_by(f"{TRAIN} --image {IMAGE}:smddp --smddp --instance-type ml.p3dn.24xlarge")
    assert image_words(f"{IMAGE}-v100@sha256:0123") == {"voxelfeed", "v100"}
    assert region_of("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/v:1") == "cn-north-1"


def test_flags_of_the_trainer_in_every_spelling() -> None:
    words = ["train", "--spot", "--", "--batch_size", "4", "--amp=bf16", "--patch", "32,48,64"]
    own, passed = split_at_dashes(words)
    assert own == ["train", "--spot"]
    assert read_flags(passed, TrainingOptions, check_options, ()) == {
        "batch-size": "4",
        "amp": "bf16",
        "patch": "32,48,64",
    }
    with pytest.raises(InputError, match=r"^--epoch: unknown flag; near: --epochs$"):
        read_flags(["--epoch", "8"], TrainingOptions, check_options, ())


def test_the_help_of_the_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_flags(["--help"], TrainingOptions, check_options, ())
    assert ended.value.code == 0
    assert "--samples-per-case" in capsys.readouterr().out


def test_dry_run_needs_no_credentials_and_no_network(tmp_path: Path) -> None:
    """As typed, in a process that would fail at the first connection."""
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    bare |= {"AWS_EC2_METADATA_DISABLED": "true", "PYTHONPATH": str(ROOT)}
    convert = f"process {MUST} --input s3://team-brats/msd --name looked-at"
    words = [sys.executable, "docker/launch.py", *convert.split()]
    dry = subprocess.run([*words, "--dry-run"], cwd=ROOT, env=bare, capture_output=True, text=True, check=True)
    assert json.loads(dry.stdout) == made_by(convert)[1]
    sent = subprocess.run(words, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert sent.returncode == 2
    assert "no AWS credentials here" in sent.stderr
    assert "Traceback" not in sent.stderr


@pytest.fixture
def sagemaker(endpoint: Any) -> Any:  # noqa: ARG001
    """Have boto3 in this process talk to SageMaker's API as moto serves it."""
    return boto3.client("sagemaker", region_name="us-west-2")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Listen to what boto3 sends: moto forgets parts of a request, so its answers are not enough."""
    bodies: list[dict[str, Any]] = []
    session = botocore.session.get_session()
    session.register("before-call.sagemaker", lambda params, **_: bodies.append(json.loads(params["body"])))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", boto3.Session(botocore_session=session))
    return bodies


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_sagemaker_takes_it(path: Path, sagemaker: Any, sent: list[dict[str, Any]]) -> None:
    pinned = json.loads(path.read_text())
    kind, request = made_by(pinned["command"])
    name = submit(kind, request, "us-west-2")
    assert sent == [pinned["request"]]
    describe = {"Training": sagemaker.describe_training_job, "Processing": sagemaker.describe_processing_job}[kind]
    described = describe(**{f"{kind}JobName": name})
    kept = ("InputDataConfig", "OutputDataConfig", "ResourceConfig") if kind == "Training" else ("AppSpecification",)
    assert {part: described[part] for part in kept} == {part: request[part] for part in kept}


@pytest.mark.usefixtures("sagemaker")
def test_a_refusal_is_one_line() -> None:
    kind, request = made_by(f"{TRAIN} --name refused")
    with pytest.raises(RunError, match=r"^SageMaker in us-west-2 refused: .*Invalid length for parameter RoleArn"):
        submit(kind, request | {"RoleArn": "nobody"}, "us-west-2")


def test_the_command_submits(
    sagemaker: Any, sent: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Train(image=f"{IMAGE}:latest", role=ROLE, output="s3://b-1/o", shards="s3://b-1/s", name="by-command")
    with caplog.at_level("INFO"):
        assert launch(["--epochs", "3"], Options(job=job)) == 0
    assert sent[0]["HyperParameters"] == {"epochs": "3"}
    assert "by-command: submitted; https://us-west-2.console.aws.amazon.com" in caplog.text
    assert capsys.readouterr().out == ""
    assert launch([], Options(job=dataclasses.replace(job, name="never-sent", dry_run=True))) == 0
    assert len(sent) == 1
    assert sagemaker.list_training_jobs(NameContains="never")["TrainingJobSummaries"] == []
