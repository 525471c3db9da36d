"""What the pages in docs/ say is true: messages still occur in the code, names and defaults are the code's own."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import nibabel
import pytest

from pipelines.batch import Batch, Loader
from pipelines.config import LoaderConfig
from pipelines.loaders import LOADERS, build_loader
from preprocessing.shards.case import Case
from preprocessing.shards.store import Store, open_store
from training.inference.predictor import Predictor
from training.options import Options
from training.run import train

ROOT = Path(__file__).parents[1]
SOURCES = ("preprocessing", "pipelines", "training")
ANY = "\0"  # stands for what a message fills in

# Messages --------------------------------------------------------------------------------------------------------


def template(node: ast.expr) -> str:
    """Return the text of a string, an f-string or a format of logging, with ``ANY`` for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) if isinstance(part, ast.Constant) else ANY for part in node.values)
    return re.sub(r"%\.?\d*[sdf]", ANY, str(node.value)) if isinstance(node, ast.Constant) else ANY


def templates() -> list[str]:
    """List every text of the code."""
    files = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return [template(node) for node in nodes if isinstance(node, (ast.JoinedStr, ast.Constant))]


def messages() -> list[str]:
    """List the messages that the first column of the tables in troubleshooting.md quotes."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(.+?)` \|", page, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return templates()


def test_there_are_messages_to_check() -> None:
    assert len(messages()) > 40


@pytest.mark.parametrize("message", messages())
def test_a_quoted_message_occurs_in_the_code(message: str, texts: list[str]) -> None:
    """``...`` in the page stands for anything; a message may go on after what is quoted."""
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("...")), flags=re.DOTALL)
    assert any(pattern.match(text) for text in texts), message


# The interface ---------------------------------------------------------------------------------------------------


def documented(name: str) -> dict[str, str]:
    """Read a section of api.md: the first column of its tables (a field, property or call) to the second one."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    section = re.search(rf"^## `{name}`\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL)
    assert section, name
    return dict(re.findall(r"^\| `([^`]+)` \| (?:`([^`]*)`)?", section[1], flags=re.MULTILINE))


def shown(value: Any) -> str:
    """Write a default as the page does; ``...`` for one that is no plain value."""
    return repr(value) if value is None or isinstance(value, (bool, int, float, str, tuple)) else "..."


def call(name: str, function: Any) -> str:
    """Write a call with its parameters and defaults."""
    parameters = [
        parameter.name + ("" if parameter.default is parameter.empty else f"={shown(parameter.default)}")
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]
    return f"{name}({', '.join(parameters)})"


def interface(kind: type) -> Iterator[tuple[str, str]]:
    """Yield each public field with its default, each property, and each method as a call."""
    for field in dataclasses.fields(kind):
        if not field.name.startswith("_"):
            yield field.name, "" if field.default is dataclasses.MISSING else shown(field.default)
    for name, member in inspect.getmembers(kind):
        if name.startswith("_"):
            continue
        if inspect.isfunction(member) or inspect.ismethod(member):
            yield call(name, member), ""
        elif isinstance(member, property) or type(member).__name__ == "cached_property":
            yield name, ""


@pytest.mark.parametrize("kind", [LoaderConfig, Batch, Loader, Store, Case, Predictor], ids=lambda kind: kind.__name__)
def test_the_interface_is_documented_as_it_is(kind: type) -> None:
    assert documented(kind.__name__) == dict(interface(kind))


@pytest.mark.parametrize("function", [build_loader, open_store], ids=lambda function: function.__name__)
def test_functions_are_documented_as_they_are(function: Any) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert f"## `{call(function.__name__, function)}`\n" in page


def test_loaders_are_documented_as_they_are() -> None:
    assert list(documented("LOADERS")) == list(LOADERS)


def test_the_python_of_the_interface_runs(
    msd_folder: Path, coordinate_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both blocks are executed as they stand, on a small store with a patch that fits it, and a run of one epoch."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/shards").symlink_to(coordinate_store)
    Path("imagesTs").symlink_to(msd_folder / "imagesTr")
    options = Options(shards=coordinate_store, output=Path("runs/mine"), patch=(16, 16, 16), epochs=1, device="cpu")
    assert train(options) == 0
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").replace("patch=(64, 64, 64)", "patch=(16, 16, 16)")
    first, second = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    defined: dict[str, Any] = {}
    exec(compile(first, "api.md", "exec"), defined)
    assert defined["image"].shape == (2, 4, 16, 16, 16)
    exec(compile(second, "api.md", "exec"), defined)
    assert defined["label"].shape == nibabel.load(msd_folder / "imagesTr" / "case_004.nii.gz").shape[:3]  # type: ignore[attr-defined]


# The folders -----------------------------------------------------------------------------------------------------


def test_the_picture_of_the_folders_is_complete() -> None:
    """What stands at the top of a folder stands in the picture, and what the picture names is there."""
    picture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    rows = [line.split("|")[1::2] for line in picture.splitlines() if line.startswith(" | ")]
    for folder, column in zip((*SOURCES, "benchmarks"), zip(*rows[1:], strict=True), strict=True):
        drawn = {name for cell in column for name in cell.split()}
        found = {
            f"{path.name}/" if path.is_dir() else path.stem
            for path in (ROOT / folder).iterdir()
            if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        assert drawn <= found
        assert folder == "benchmarks" or drawn == found - {"__init__"}


# The picture -----------------------------------------------------------------------------------------------------


def description(path: Path) -> str:
    """Return the description in an SVG's metadata."""
    (found,) = ET.parse(path).iter("{http://purl.org/dc/elements/1.1/}description")
    return str(found.text)


def test_the_picture_shows_the_newest_comparison(tmp_path: Path) -> None:
    """Where this fails after a new result: ``python docs/draw_readme_picture.py``."""
    script = ROOT / "docs" / "draw_readme_picture.py"
    subprocess.run([sys.executable, script, tmp_path], check=True)
    for name in ("voxelfeed-light.svg", "voxelfeed-dark.svg"):
        drawn = description(tmp_path / name)
        assert drawn.startswith("dali ")
        assert description(ROOT / "docs" / name) == drawn


# Other people's loops ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "package"), [("lightning.md", "lightning"), ("monai.md", "ignite")])
def test_a_page_about_another_loop_trains_an_epoch(
    page: str, package: str, coordinate_store: Path, tmp_path: Path
) -> None:
    """Its Python runs as it stands, in a process of its own, with smaller patches and network."""
    pytest.importorskip(package)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    code = code.replace("patch=(64, 64, 64)", "patch=(16, 16, 16)").replace("SegResNet(", "SegResNet(init_filters=8, ")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shards").symlink_to(coordinate_store)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
