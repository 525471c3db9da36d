"""The house: imports go left and down only, and every folder opens like a table of contents.

``preprocessing <- pipelines <- training <- benchmarks``: a folder imports those to its left. Within a folder the rooms
(sub-packages) import those below them only, in the order of ``ROOMS``, and never a command. ``docker`` stands apart:
its scripts find each other without naming it.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINE = ("preprocessing", "pipelines", "training", "benchmarks")
ROOMS = {  # from the ground up
    "preprocessing": ("console", "volumes", "layouts", "shards", "conversion"),
    "pipelines": ("augment", "workers", "dali", "nnunet"),
    "training": ("model", "distributed", "inference", "trainer"),
    "benchmarks": ("contenders", "measuring", "reporting", "experiments"),
    "docker": ("container", "request"),
}
MOST_ENTRIES, MOST_ARROWS = 10, 25  # what a newcomer takes in at a glance
DUMPS = {"utils", "util", "common", "helpers", "helper", "misc"}
Graph = dict[str, set[str]]


def imports_of(path: Path) -> Iterable[tuple[str, str]]:
    """Yield (module, name) of everything that a file imports, also within functions; the name is empty for modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((str(node.module), alias.name) for alias in node.names)


def imported_by(path: Path) -> set[str]:
    """List the top-level packages a file imports."""
    return {module.split(".")[0] for module, _ in imports_of(path)}


def modules_of(package: str) -> dict[str, Path]:
    """Map every module of a package to its file; a face (``__init__.py``) bears its package's name."""
    root = ROOT / package if package == "docker" else ROOT
    paths = {path: path.relative_to(root).with_suffix("").parts for path in (ROOT / package).rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in paths.items()}


def graph_of(package: str) -> Graph:
    """Return what each file of a package imports of it, a name taken from a face being the file that defines it."""
    modules = modules_of(package)
    faces = {
        name: {taken: module for module, taken in imports_of(path)}
        for name, path in modules.items()
        if path.name == "__init__.py"
    }

    def files(module: str, name: str) -> Iterable[str]:
        if f"{module}.{name}" in modules:
            yield f"{module}.{name}"
        elif module in faces:
            yield faces[module].get(name, module)
        elif module in modules:
            yield module

    return {
        name: {file for imported in imports_of(path) for file in files(*imported)} - {name, package}
        for name, path in modules.items()
        if name not in faces
    }


def entries_of(package: str, graph: Mapping[str, set[str]]) -> Graph:
    """Return what each entry of a folder, a room or a file at its top, imports of the others."""
    depth = 0 if package == "docker" else 1

    def entry(module: str) -> str:
        return module.split(".")[depth]

    found: Graph = {}
    for module, imported in graph.items():
        found.setdefault(entry(module), set()).update(map(entry, imported))
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


@pytest.mark.parametrize("package", ROOMS)
def test_nothing_imports_in_a_circle(package: str) -> None:
    graph = graph_of(package)
    assert any(graph.values())
    assert cycle_in(graph) == []
    assert cycle_in(entries_of(package, graph)) == []


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_downwards_only(package: str) -> None:
    rooms = ROOMS[package]
    entries = entries_of(package, graph_of(package))
    assert set(rooms) == {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    upwards = {room: entries[room] & set(rooms[place + 1 :]) for place, room in enumerate(rooms)}
    assert {room: above for room, above in upwards.items() if above} == {}


@pytest.mark.parametrize("package", ROOMS)
def test_no_room_imports_a_command(package: str) -> None:
    commands = {path.stem for path in (ROOT / package).glob("*.py") if '"__main__"' in path.read_text(encoding="utf-8")}
    assert commands or package == "pipelines"
    entries = entries_of(package, graph_of(package))
    assert {room: wrong for room in ROOMS[package] if (wrong := entries[room] & commands)} == {}


@pytest.mark.parametrize("package", ROOMS)
def test_a_folder_opens_like_a_table_of_contents(package: str) -> None:
    entries = entries_of(package, graph_of(package))
    assert len(entries) <= MOST_ENTRIES, sorted(entries)
    arrows = sum(map(len, entries.values()))
    assert arrows <= MOST_ARROWS, entries


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_says_what_it_is_for(package: str) -> None:
    faces = [path for path in (ROOT / package).rglob("__init__.py") if path.parent.name in ROOMS[package]]
    assert len(faces) == len(ROOMS[package])
    for path in faces:
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert said, path
        assert said.endswith("."), path


@pytest.mark.parametrize("package", LINE)
def test_inside_the_project_imports_name_the_file_and_not_the_face(package: str) -> None:
    faces = {name for each in LINE for name, path in modules_of(each).items() if path.name == "__init__.py"}
    named = {name for each in LINE for name in modules_of(each)}
    wrong = {
        f"{path.relative_to(ROOT)}: from {module} import {name}"
        for path in (ROOT / package).rglob("*.py")
        for module, name in imports_of(path)
        if module in faces and f"{module}.{name}" not in named
    }
    assert wrong == set()


def test_no_folder_or_file_collects_odds_and_ends() -> None:
    paths = [path for package in (*LINE, "tests") for path in (ROOT / package).rglob("*")]
    assert [str(path) for path in paths if path.stem in DUMPS] == []
    assert [str(path) for path in ROOT.iterdir() if path.stem in DUMPS] == []
