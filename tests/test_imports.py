"""The straight line: imports go left only, and nothing collects what belongs nowhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINE = ("preprocessing", "pipelines", "training", "benchmarks")
DUMPS = {"utils", "util", "common", "helpers", "helper", "misc"}


def imported_by(path: Path) -> set[str]:
    """List the top-level packages a file imports, also within functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("package", LINE)
def test_imports_go_left_only(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    to_the_right = {*LINE[LINE.index(package) + 1 :], "tests"}
    assert {str(path): wrong for path in files if (wrong := imported_by(path) & to_the_right)} == {}


def test_no_folder_or_file_collects_odds_and_ends() -> None:
    paths = [path for package in (*LINE, "tests") for path in (ROOT / package).rglob("*")]
    assert [str(path) for path in paths if path.stem in DUMPS] == []
    assert [str(path) for path in ROOT.iterdir() if path.stem in DUMPS] == []
