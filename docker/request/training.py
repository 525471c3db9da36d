"""The request for a training job, the arguments of SageMaker's CreateTrainingJob; which flags contradict each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from container.sagemaker_job import BASE, HAS_GPU, SMDDP
from container.train_job import SHARDS, TEST

from preprocessing.console.errors import InputError
from request.job import (
    JobFlags,
    Request,
    Switch,
    check_job,
    check_s3,
    disk_key,
    image_words,
    job_name,
    named_values,
    network,
    seconds,
    tags,
)

NUMBER = r"([0-9.]+)"
EPOCH = "epoch [0-9]+  step [0-9]+  "
# what SageMaker reads out of the log and draws: lines of training/trainer/progress.py and of training/run.py
METRICS = {
    "epoch": "epoch ([0-9]+)  step",
    "loss": f"{EPOCH}loss {NUMBER}",
    "validation:dice": rf"  dice {NUMBER} \(",
    "patches_per_second": f"{EPOCH}.*  {NUMBER} patches/s",
    "waiting_percent": f"{EPOCH}.*waiting {NUMBER} %",
    "best:dice": f"best mean dice {NUMBER} in epoch",
}
FSX = re.compile(r"fsx://(fs-[0-9a-f]{8,})(/[A-Za-z0-9_-]{1,8}(?:/\S*)?)")
VOLTA = re.compile(r"ml\.p3(dn)?\.")
SMDDP_INSTANCES = ("ml.p4d.24xlarge", "ml.p4de.24xlarge", "ml.p3dn.24xlarge")
MOST_WARM_MINUTES = 60
PATCHWISE = {("crop", "host"), ("read", "dali"), ("read", "gds"), ("device", "cpu")}


@dataclass(frozen=True, kw_only=True)
class Train(JobFlags):
    """Submit a training job. Flags of training.run follow after --, for example: -- --epochs 8 --patch 128,128,128.

    The run folder is kept in --checkpoints while the job runs; a job that finds a run there continues it.
    """

    instance_type: str = "ml.g5.2xlarge"
    """Machine, for example ml.p3.2xlarge, ml.p3.16xlarge or ml.p4d.24xlarge."""
    shards: str = ""
    """The shard store: s3://BUCKET/FOLDER, or fsx://fs-0123456789abcdef0/MOUNTNAME/FOLDER on FSx for Lustre."""
    test: str = ""
    """Images to segment with the trained model, s3://BUCKET/FOLDER with nii.gz files."""
    checkpoints: str = "auto"
    """Where the run lives: auto is OUTPUT/NAME/run; give an earlier job's to continue it."""
    input_mode: str = "File"
    """How a store on S3 gets to the machine: File copies it first, FastFile streams volumes when they are read."""
    spot: Switch = False
    """Take spot capacity, often at less than half the price; an interrupted job continues from its checkpoint."""
    warm_minutes: int = 0
    """Keep the machines this long after the job, paid for, so that the next one starts at once."""
    retries: int = 0
    """Start again up to this often, 30 at most, when SageMaker itself failed (an internal server error)."""
    training_plan: str = ""
    """ARN of a SageMaker training plan whose reserved machines the job takes."""
    smddp: Switch = False
    """Exchange gradients with SageMaker's data parallel library (image of Dockerfile.smddp, ml.p4d and ml.p4de)."""


def training_request(job: Train, flags: Mapping[str, str]) -> Request:
    """Build the request; ``flags`` are the trainer's, by name. Raises ``InputError`` for flags that do not fit."""
    check_job(job)
    _check_machine(job)
    _check_backend(job, flags.get("backend", "auto"))
    _check_input_mode(job, flags)
    name = job_name(job, "train")
    output = check_s3("--output", job.output)
    run = f"{output}/{name}/run" if job.checkpoints == "auto" else check_s3("--checkpoints", job.checkpoints)
    limits = {"MaxRuntimeInSeconds": seconds(job)}
    if job.spot:
        limits["MaxWaitTimeInSeconds"] = 2 * seconds(job)  # running and waiting for capacity together
    return {
        "TrainingJobName": name,
        "RoleArn": job.role,
        "AlgorithmSpecification": {
            "TrainingImage": job.image,
            "TrainingInputMode": job.input_mode,
            "MetricDefinitions": [{"Name": metric, "Regex": regex} for metric, regex in METRICS.items()],
        },
        "HyperParameters": {**flags, **({SMDDP: "true"} if job.smddp else {})},
        "InputDataConfig": [_store(job), *([_channel(TEST, job.test, "File")] if job.test else [])],
        "OutputDataConfig": {"S3OutputPath": output, **({"KmsKeyId": job.kms_key} if job.kms_key else {})},
        # without the slash SageMaker would take it for the beginning of a name: run-1 would fetch run-10 as well
        "CheckpointConfig": {"S3Uri": f"{run}/", "LocalPath": f"{BASE}/checkpoints"},
        "ResourceConfig": _resources(job),
        "StoppingCondition": limits,
        "EnableManagedSpotTraining": job.spot,
        **tags(job),
        **network(job),
        **({"Environment": named_values("--environment", job.environment)} if job.environment else {}),
        **({"RetryStrategy": {"MaximumRetryAttempts": job.retries}} if job.retries else {}),
    }


def _resources(job: Train) -> Request:
    return {
        "InstanceType": job.instance_type,
        "InstanceCount": job.instances,
        "VolumeSizeInGB": job.volume_gib,
        **disk_key(job),
        **({"KeepAlivePeriodInSeconds": 60 * job.warm_minutes} if job.warm_minutes else {}),
        **({"TrainingPlanArn": job.training_plan} if job.training_plan else {}),
    }


def _check_machine(job: Train) -> None:
    machine = job.instance_type
    if job.spot and job.warm_minutes:
        raise InputError(
            f"--spot and --warm-minutes {job.warm_minutes}: SageMaker does not keep spot machines; leave one out"
        )
    if job.spot and job.training_plan:
        raise InputError("--spot and --training-plan: the machines of a plan are reserved; leave one out")
    if not 0 <= job.warm_minutes <= MOST_WARM_MINUTES:
        raise InputError(f"--warm-minutes {job.warm_minutes}: SageMaker keeps machines at most {MOST_WARM_MINUTES}")
    if VOLTA.match(machine) and not image_words(job.image) & {"v100", "smddp"}:
        raise InputError(
            f"--instance-type {machine} has V100 GPUs, which the torch in {job.image} has no kernels for; build "
            "docker/Dockerfile with --build-arg CONSTRAINTS=constraints-v100.txt and give it a tag with v100 in it, "
            "such as voxelfeed:v100"
        )


def _check_backend(job: Train, backend: str) -> None:
    if backend != "auto" and job.smddp != (backend == "smddp"):
        raise InputError(
            f"--backend {backend} {'with' if job.smddp else 'without'} --smddp: they contradict each other"
        )
    if job.smddp and job.instance_type not in SMDDP_INSTANCES:
        raise InputError(
            f"--smddp: SMDDP does not know {job.instance_type}, only {', '.join(SMDDP_INSTANCES)}; "
            "leave --smddp out, the processes then talk over NCCL"
        )
    if not job.smddp and "smddp" in image_words(job.image):
        raise InputError(
            f"--image {job.image} is that of docker/Dockerfile.smddp, whose library works only in processes that "
            "--smddp starts; add --smddp, or take another image"
        )
    if job.smddp and "smddp" not in image_words(job.image):
        raise InputError(
            f"--smddp: {job.image} is not the image of docker/Dockerfile.smddp; give that one a tag with smddp in it, "
            "such as voxelfeed:smddp"
        )


def _check_input_mode(job: Train, flags: Mapping[str, str]) -> None:
    if job.input_mode not in ("File", "FastFile"):
        raise InputError(f"--input-mode {job.input_mode}: unknown; known: File, FastFile")
    if job.input_mode != "FastFile":
        return
    patchwise = [f"--{name} {value}" for name, value in flags.items() if _reads_patches(name, value)]
    if patchwise or not HAS_GPU.match(job.instance_type):
        raise InputError(
            f"--input-mode FastFile with {', '.join(patchwise) or job.instance_type}: only --loader dali on a GPU "
            "reads whole volumes; patches would be read from a stream again and again; use --input-mode File or "
            "FSx for Lustre"
        )


def _reads_patches(name: str, value: str) -> bool:
    """Tell whether a flag of the trainer has it read patches, not volumes that stay on the GPU."""
    is_zero = not value.strip("0.")
    return (name, value) in PATCHWISE or (name == "loader" and value != "dali") or (name == "gpu-cache" and is_zero)


def _store(job: Train) -> Request:
    found = FSX.fullmatch(job.shards)
    if found is None:
        if job.shards.startswith("fsx://"):
            raise InputError(f"--shards {job.shards}: write fsx://fs-0123456789abcdef0/MOUNTNAME/FOLDER")
        return _channel(SHARDS, check_s3("--shards", job.shards), job.input_mode)
    if not job.subnets or job.input_mode != "File":
        raise InputError(
            f"--shards {job.shards}: a file system in your VPC; give its --subnets and --security-groups, and no "
            "--input-mode"
        )
    place = {"FileSystemId": found[1], "DirectoryPath": found[2].rstrip("/")}
    place |= {"FileSystemType": "FSxLustre", "FileSystemAccessMode": "ro"}
    return {"ChannelName": SHARDS, "DataSource": {"FileSystemDataSource": place}}


def _channel(name: str, place: str, input_mode: str) -> Request:
    """Describe a folder on S3 that every machine gets as a whole, because any rank may read any case."""
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": check_s3(f"--{name}", place) + "/",
        "S3DataDistributionType": "FullyReplicated",
    }
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": input_mode}
