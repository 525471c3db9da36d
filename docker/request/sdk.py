"""AWS's SDK (sagemaker 3): its ModelTrainer, Processor and Pipeline, made from the requests that ``--dry-run`` prints.

The only module that imports the SDK. Nothing here decides anything about a job: for that there are ``training.py`` and
``processing.py``. What the SDK has no place for is refused.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from sagemaker.core import shapes
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.network import NetworkConfig
from sagemaker.core.processing import Processor
from sagemaker.core.training.configs import Compute, Networking
from sagemaker.core.utils.code_injection.codec import transform
from sagemaker.core.workflow.execution_variables import ExecutionVariables
from sagemaker.core.workflow.functions import Join
from sagemaker.core.workflow.parameters import ParameterInteger, ParameterString
from sagemaker.core.workflow.pipeline_context import PipelineSession
from sagemaker.mlops.workflow.pipeline import Pipeline
from sagemaker.mlops.workflow.steps import ProcessingStep, TrainingStep
from sagemaker.train.model_trainer import Mode, ModelTrainer

from preprocessing.console.errors import InputError
from request.job import Request, merged, region_of

ENCRYPTION = "EnableInterContainerTrafficEncryption"
TRAINING_PARTS = {"TrainingJobName", "RoleArn", "AlgorithmSpecification", "HyperParameters", "InputDataConfig"}
TRAINING_PARTS |= {"OutputDataConfig", "CheckpointConfig", "ResourceConfig", "StoppingCondition", "Tags", "VpcConfig"}
TRAINING_PARTS |= {"EnableManagedSpotTraining", "EnableNetworkIsolation", ENCRYPTION}
TRAINING_PARTS |= {"Environment", "RetryStrategy"}
ALGORITHM_PARTS = {"TrainingImage", "TrainingInputMode", "MetricDefinitions"}
PROCESSING_PARTS = {"ProcessingJobName", "RoleArn", "AppSpecification", "ProcessingResources", "StoppingCondition"}
PROCESSING_PARTS |= {"Tags", "NetworkConfig", "Environment"}
CHECK_ROLE = "SAGEMAKER_VALIDATE_ROLE"
# instead of the user's settings: no defaults beside the request, and no reports of use to AWS, which want a network
NOTHING_ELSE = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}


def model_trainer(request: Request, session: Session | None = None) -> ModelTrainer:
    """Return a ModelTrainer whose ``train()`` sends ``request``, with a name that begins as the request's.

    Raises ``InputError`` for parts of the request that a ModelTrainer cannot hold.
    """
    _refuse_others(request, TRAINING_PARTS, "ModelTrainer")
    _refuse_others(request["AlgorithmSpecification"], ALGORITHM_PARTS, "ModelTrainer")
    isolation, encryption = (request.get(name) for name in ("EnableNetworkIsolation", ENCRYPTION))
    algorithm = request["AlgorithmSpecification"]
    made = ModelTrainer(
        sagemaker_session=session,
        role=request["RoleArn"],
        base_job_name=request["TrainingJobName"],
        training_image=algorithm["TrainingImage"],
        training_input_mode=algorithm["TrainingInputMode"],
        hyperparameters=request["HyperParameters"],
        input_data_config=[_channel(channel) for channel in request["InputDataConfig"]],
        output_data_config=_shape(shapes.OutputDataConfig, request["OutputDataConfig"]),
        checkpoint_config=_shape(shapes.CheckpointConfig, request["CheckpointConfig"]),
        compute=Compute(
            **transform(request["ResourceConfig"], "ResourceConfig"),
            enable_managed_spot_training=request["EnableManagedSpotTraining"],
        ),
        networking=Networking(
            **transform(request.get("VpcConfig", {}), "VpcConfig"),
            enable_network_isolation=isolation,
            enable_inter_container_traffic_encryption=encryption,
        ),
        stopping_condition=_shape(shapes.StoppingCondition, request["StoppingCondition"]),
        environment=request.get("Environment", {}),
        tags=[_shape(shapes.Tag, tag) for tag in request.get("Tags", [])],
    ).with_metric_definitions([_shape(shapes.MetricDefinition, metric) for metric in algorithm["MetricDefinitions"]])
    if "RetryStrategy" in request:
        made.with_retry_strategy(_shape(shapes.RetryStrategy, request["RetryStrategy"]))
    return made


def local_trainer(
    request: Request, channels: Mapping[str, Path], folder: Path, machine: str = "local_cpu"
) -> ModelTrainer:
    """Return a ModelTrainer that runs the job in docker on this machine, with ``channels`` from its own folders.

    ``folder`` is where the SDK writes the containers' input and output, ``machine`` is ``local_cpu`` or ``local_gpu``.
    The number of containers is the request's number of machines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return ModelTrainer(
        training_mode=Mode.LOCAL_CONTAINER,
        base_job_name=request["TrainingJobName"],
        training_image=request["AlgorithmSpecification"]["TrainingImage"],
        hyperparameters=request["HyperParameters"],
        input_data_config=[_folder(name, path) for name, path in channels.items()],
        compute=Compute(instance_type=machine, instance_count=request["ResourceConfig"]["InstanceCount"]),
        environment=request.get("Environment", {}),
        local_container_root=str(folder.resolve()),
    )


def processor(request: Request, session: Session | None = None) -> Processor:
    """Return a Processor for ``request``; ``run(arguments=...)`` takes its ContainerArguments.

    Raises ``InputError`` for parts of the request that a Processor cannot hold.
    """
    _refuse_others(request, PROCESSING_PARTS, "Processor")
    cluster, within = request["ProcessingResources"]["ClusterConfig"], request.get("NetworkConfig")
    vpc = (within or {}).get("VpcConfig", {})
    return Processor(
        sagemaker_session=session,
        role=request["RoleArn"],
        base_job_name=request["ProcessingJobName"],
        image_uri=request["AppSpecification"]["ImageUri"],
        entrypoint=request["AppSpecification"]["ContainerEntrypoint"],
        instance_type=cluster["InstanceType"],
        instance_count=cluster["InstanceCount"],
        volume_size_in_gb=cluster["VolumeSizeInGB"],
        volume_kms_key=cluster.get("VolumeKmsKeyId"),
        max_runtime_in_seconds=request["StoppingCondition"]["MaxRuntimeInSeconds"],
        tags=request.get("Tags"),
        env=request.get("Environment"),
        network_config=None
        if within is None
        else NetworkConfig(
            enable_network_isolation=within.get("EnableNetworkIsolation"),
            encrypt_inter_container_traffic=within.get(ENCRYPTION),
            subnets=vpc.get("Subnets"),
            security_group_ids=vpc.get("SecurityGroupIds"),
        ),
    )


def pipeline(convert: Request, train: Request) -> Pipeline:
    """Return the pipeline convert, then train, named as the training job; its parameters have their values as defaults.

    Each execution has its own checkpoints, under its id: a second one would otherwise continue the first one's run,
    which is finished. Nothing is asked of AWS, not even about the role.
    """
    region = region_of(train["AlgorithmSpecification"]["TrainingImage"])
    session = PipelineSession(boto_session=boto3.Session(region_name=region), sagemaker_config=NOTHING_ELSE)
    words = convert["AppSpecification"]["ContainerArguments"]
    data = ParameterString(name="Data", default_value=words[words.index("--input") + 1])
    shards = ParameterString(name="Shards", default_value=words[words.index("--output") + 1])
    epochs = ParameterInteger(name="Epochs", default_value=int(train["HyperParameters"].get("epochs", 0)))
    machine = ParameterString(name="InstanceType", default_value=train["ResourceConfig"]["InstanceType"])
    varying = {parameter.default_value: parameter for parameter in (data, shards)}
    own = _own_checkpoints(train) | {"ResourceConfig": {"InstanceType": machine}}
    own |= {"HyperParameters": {"epochs": epochs.to_string()}, "InputDataConfig": _channels_on(shards, train)}
    with _role_unchecked():
        run = processor(convert, session).run(arguments=[varying.get(word, word) for word in words])
        converting = ProcessingStep(name="convert", step_args=run)
        run = model_trainer(merged(train, own), session).train()
        training = TrainingStep(name="train", step_args=run, depends_on=[converting])
    return Pipeline(
        name=train["TrainingJobName"],
        parameters=[data, shards, epochs, machine],
        steps=[converting, training],
        sagemaker_session=session,
        pipeline_experiment_config=None,
    )


def _own_checkpoints(train: Request) -> Request:
    """Put the execution's id into the location OUTPUT/NAME/run/."""
    folder = train["CheckpointConfig"]["S3Uri"].removesuffix("/run/")
    return {"CheckpointConfig": {"S3Uri": Join("/", [folder, ExecutionVariables.PIPELINE_EXECUTION_ID, "run", ""])}}


def _channels_on(shards: ParameterString, train: Request) -> list[Request]:
    """Have the first channel, the store, read what ``shards`` names."""
    channel, *others = train["InputDataConfig"]
    return [merged(channel, {"DataSource": {"S3DataSource": {"S3Uri": Join("/", [shards, ""])}}}), *others]


@contextmanager
def _role_unchecked() -> Iterator[None]:
    """Keep the SDK from asking IAM about the role, and from warning that a step of a pipeline starts no job."""
    before = os.environ.get(CHECK_ROLE)
    os.environ[CHECK_ROLE] = "false"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Running within a PipelineSession")
            yield
    finally:
        del os.environ[CHECK_ROLE]
        if before is not None:
            os.environ[CHECK_ROLE] = before


def _refuse_others(request: Request, known: set[str], kind: str) -> None:
    others = sorted(request.keys() - known)
    if others:
        raise InputError(
            f"{', '.join(others)}: the SDK's {kind} has no place for that; leave it out, or send the job with "
            "docker/launch.py"
        )


def _shape(kind: Any, part: Request) -> Any:
    return kind(**transform(part, kind.__name__))


def _channel(channel: Request) -> Any:
    return _shape(shapes.Channel, channel)


def _folder(name: str, path: Path) -> Any:
    """Describe a folder of this machine; the SDK knows only EFS by that name, and mounts what is given."""
    place = {"FileSystemId": "local", "FileSystemType": "EFS", "FileSystemAccessMode": "ro"}
    place["DirectoryPath"] = str(path.resolve())
    return _channel({"ChannelName": name, "DataSource": {"FileSystemDataSource": place}})
