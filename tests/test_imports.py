"""The straight line: imports go left only, and nothing collects what belongs nowhere."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINE = ("preprocessing", "pipelines", "training", "benchmarks")
DUMPS = {"utils", "util", "common", "helpers", "helper", "misc"}


def imported_modules(path: Path) -> set[str]:
    """List the modules a file imports, also within functions and for type checking, and each name it takes from one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imported_by(path: Path) -> set[str]:
    """List the top-level packages a file imports."""
    return {name.split(".")[0] for name in imported_modules(path)}


def graph_of(package: str) -> dict[str, set[str]]:
    """Return what each module of a package imports of it. Files in docker/ find each other without naming a package."""
    root = ROOT / package if package == "docker" else ROOT
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    return {name: imported_modules(path) & set(modules) for name, path in modules.items()}


def folders_of(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return what each subfolder imports of the others; a file that lies in no subfolder stands for itself."""

    def folder(module: str) -> str:
        return ".".join(module.split(".")[:2])

    found: dict[str, set[str]] = {}
    for module, imported in graph.items():
        found.setdefault(folder(module), set()).update(map(folder, imported))
    return {name: others - {name} for name, others in found.items()}


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """Return one cycle, its first member again at its end; nothing where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


@pytest.mark.parametrize("package", LINE)
def test_imports_go_left_only(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    to_the_right = {*LINE[LINE.index(package) + 1 :], "tests"}
    assert {str(path): wrong for path in files if (wrong := imported_by(path) & to_the_right)} == {}


@pytest.mark.parametrize("package", [*LINE, "docker"])
def test_nothing_imports_in_a_circle(package: str) -> None:
    graph = graph_of(package)
    assert any(graph.values())
    assert cycle_in(graph) == []
    assert cycle_in(folders_of(graph)) == []


def test_no_folder_or_file_collects_odds_and_ends() -> None:
    paths = [path for package in (*LINE, "tests") for path in (ROOT / package).rglob("*")]
    assert [str(path) for path in paths if path.stem in DUMPS] == []
    assert [str(path) for path in ROOT.iterdir() if path.stem in DUMPS] == []
