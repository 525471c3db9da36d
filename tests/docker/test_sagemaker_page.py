"""What docs/sagemaker.md tells people to type: launcher commands make valid requests, aws commands exist."""

from __future__ import annotations

import math
import re
import shlex
import string
import subprocess
from importlib.util import find_spec
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name
from request.aws import check_request

from tests.docker.request.pin_requests import ROOT, made_by

PAGE = (ROOT / "docs" / "sagemaker.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
FOUND_OUT = {"SUBNET": "subnet-0a1b2c3d", "SG": "sg-0a1b2c3d", "VPC": "vpc-0a1b2c3d", "ROUTES": "rtb-0a1b2c3d"}
FOUND_OUT |= {"FSX": "fs-0123456789abcdef0", "MOUNT": "abcdefgh"}  # what a reader's account answers
COMMON_FLAGS = {"query", "output", "region"}
BY_HAND = {("s3", "mb"), ("s3", "cp"), ("s3", "ls"), ("ecr", "get-login-password"), ("logs", "tail")}
"""Commands that ``aws`` has beside those of the services' models."""


def exported() -> dict[str, str]:
    """Read the page's exports, each in the terms of those before it."""
    values = dict(FOUND_OUT)
    for line in re.findall(r"^export (.*)$", "\n".join(BLOCKS), flags=re.MULTILINE):
        for word in shlex.split(line):
            name, _, value = word.partition("=")
            values[name] = string.Template(value).substitute(values)
    return values


def job_commands() -> list[str]:
    """Return the commands that submit one job each."""
    return [command for command in launcher_commands() if not command.startswith("pipeline ")]


def launcher_commands() -> list[str]:
    lines = "\n".join(BLOCKS).replace("\\\n", " ").splitlines()
    return [
        line.removeprefix("python docker/launch.py ") for line in lines if line.startswith("python docker/launch.py")
    ]


def aws_commands() -> list[tuple[str, str, set[str]]]:
    """Return service, operation and flags of every aws command, those within $(...) too."""
    text = re.sub(r"'\{.*?\}'", "JSON", "\n".join(BLOCKS).replace("\\\n", " "), flags=re.DOTALL)
    found = re.findall(r"\baws ([a-z0-9]+) ([a-z0-9-]+)([^\n)|]*)", text)
    return [(service, operation, set(re.findall(r"--([a-z-]+)", rest))) for service, operation, rest in found]


@pytest.mark.parametrize("command", job_commands(), ids=lambda command: command.split()[2])
def test_launcher_commands_make_valid_requests(command: str) -> None:
    check_request(*made_by(string.Template(command).substitute(exported())))


@pytest.mark.skipif(find_spec("sagemaker") is None, reason='needs AWS\'s SDK: pip install ".[sagemaker]"')
@pytest.mark.filterwarnings("ignore")
def test_the_pipeline_is_valid() -> None:
    (command,) = set(launcher_commands()) - set(job_commands())
    check_request(*made_by(string.Template(command).substitute(exported())))


def test_the_extra_file_makes_a_valid_request(tmp_path: Path) -> None:
    (content,) = re.findall(r"echo '(\{.*\})' > extra.json", PAGE)
    path = tmp_path / "extra.json"
    path.write_text(content)
    command = string.Template(job_commands()[-1]).substitute(exported())
    kind, request = made_by(command.replace(" -- ", f" --extra {path} -- "))
    assert request["ExperimentConfig"] == {"ExperimentName": "brats"}
    check_request(kind, request)


def test_aws_commands_are_in_the_services_models() -> None:
    for service, operation, flags in aws_commands():
        if (service, operation) not in BY_HAND:
            model = botocore.session.get_session().get_service_model(service)
            names = {xform_name(name, "-"): name for name in model.operation_names}
            known = {xform_name(name, "-") for name in model.operation_model(names[operation]).input_shape.members}
            assert flags <= known | COMMON_FLAGS | special(operation), operation


def special(operation: str) -> set[str]:
    """Return the shorthands that ``aws`` adds to an operation's own parameters."""
    return {"protocol", "source-group"} if operation.startswith("authorize-security-group-") else set()


def test_every_job_has_its_quota() -> None:
    """Spot has one of its own; each is for as many machines as the largest of the page's jobs."""
    wanted: dict[str, int] = {}
    for command in job_commands():
        kind, request = made_by(string.Template(command).substitute(exported()))
        use = "spot training" if request.get("EnableManagedSpotTraining") else kind.lower()
        cluster = request.get("ResourceConfig") or request["ProcessingResources"]["ClusterConfig"]
        name = f"{cluster['InstanceType']} for {use} job usage"
        wanted[name] = max(wanted.get(name, 0), cluster["InstanceCount"])
    named = re.findall(r"\| (ml\.\S+ for [\w ]+ job usage) \| (\d+) \|", PAGE)
    assert {name: int(num) for name, num in named} == wanted


def test_images_are_built_for_sagemaker_on_any_machine() -> None:
    """An ARM laptop would build for ARM, and docker's attestations make an index that SageMaker does not read."""
    first = BLOCKS[0]
    assert {"DOCKER_DEFAULT_PLATFORM=linux/amd64", "BUILDX_NO_DEFAULT_ATTESTATIONS=1"} <= set(first.split())


def test_machines_with_efa_may_talk_to_each_other_both_ways() -> None:
    found = re.findall(r"authorize-security-group-(\w+) --group-id (\S+) --protocol all --source-group (\S+)", PAGE)
    assert found == [("ingress", "$SG", "$SG"), ("egress", "$SG", "$SG")]


def test_the_page_has_what_it_promises() -> None:
    text = " ".join(launcher_commands())
    for machines in ("ml.p3.2xlarge", "ml.p3.16xlarge --instances 2", "ml.p4d.24xlarge", "--smddp", "fsx://", "--spot"):
        assert machines in text
    assert len(aws_commands()) > 15


def test_every_image_that_a_job_takes_is_built_and_pushed_before() -> None:
    """A base in a registry is preceded by a login there; an image, once built and pushed, can be named by a job."""
    text = "\n".join(BLOCKS).replace("\\\n", " ")
    for tag in {re.search(r"--image \$IMAGE:(\S+)", command)[1] for command in launcher_commands()}:  # type: ignore[index]
        built, pushed = text.find(f"-t $IMAGE:{tag} ."), text.find(f"docker push $IMAGE:{tag}\n")
        assert -1 < built < pushed < text.index(f"--image $IMAGE:{tag}"), tag
    for base in re.findall(r"BASE_IMAGE=\$(\w+)", text):
        given, login = text.find(f"{base}="), text.find(f"docker login --username AWS --password-stdin ${{{base}%%/*}}")
        assert -1 < given < login < text.index(f"BASE_IMAGE=${base}"), base


def test_the_blocks_are_bash() -> None:
    subprocess.run(["bash", "-n"], input="\n".join(BLOCKS), text=True, check=True)


def test_the_costs_follow_from_hours_and_prices() -> None:
    """Each job of the table is on the page with these machines and hours; the last column is their product."""
    commands = {re.search(r"--name (\S+)", command)[1]: command for command in job_commands()}  # type: ignore[index]
    rows = re.findall(r"\| `([\w-]+)` \| (?:(\d+) x )?(\S+), (\d+) h \| ([\d.]+) .*?\| (\d+) \|", PAGE)
    assert len(rows) == 6
    for name, machines, kind, hours, price, most in rows:
        _, request = made_by(string.Template(commands[name]).substitute(exported()))
        cluster = request.get("ResourceConfig") or request["ProcessingResources"]["ClusterConfig"]
        assert (cluster["InstanceType"], cluster["InstanceCount"]) == (kind, int(machines or 1))
        assert request["StoppingCondition"]["MaxRuntimeInSeconds"] == 3600 * int(hours)
        assert int(most) == math.ceil(int(machines or 1) * int(hours) * float(price))
