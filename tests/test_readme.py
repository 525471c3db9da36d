"""What the pages say is true: commands parse, the README's Python runs, files and headings exist."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import tyro

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader
from preprocessing.layouts.known import LAYOUTS
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
WITH_COMMANDS = (*DOCUMENTS, "docs/own-data.md", "docs/quality.md", "docs/gpu.md")
COMMANDS = {
    "preprocessing.to_shards": "Options",
    "preprocessing.check": "Options",
    "preprocessing.stage": "Options",
    "training.run": "Options",
    "training.study": "Options",
    "training.predict": "Options",
    "training.evaluate": "Options",
    "training.report": "Options",
    "benchmarks.gpu_check": "Options",
}


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def python_commands() -> list[list[str]]:
    lines = [
        line
        for document in WITH_COMMANDS
        for block in blocks(document, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"python |torchrun ", line)]


@pytest.mark.parametrize("words", python_commands(), ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    """Every flag and value of a documented command is accepted by the command's own parser."""
    first, *rest = words[1:] if words[0] == "python" else words[words.index("-m") :]
    module = rest.pop(0) if first == "-m" else first.removesuffix(".py").replace("/", ".")
    options = getattr(importlib.import_module(module), COMMANDS[module])
    assert isinstance(tyro.cli(options, args=rest), options)


def test_there_are_commands_and_python_to_check() -> None:
    assert len(python_commands()) >= 8
    assert blocks("README.md", "python")


def test_the_python_runs(
    coordinate_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The block is executed as it stands, with the reader's store in the place it names and a patch that fits it."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/shards").symlink_to(coordinate_store)
    code = "\n".join(blocks("README.md", "python")).replace("patch=(32, 32, 32)", "patch=(16, 16, 16)")
    exec(compile(code, "README.md", "exec"), {})
    assert "torch.Size([2, 4, 16, 16, 16])" in capsys.readouterr().out


def example(path: str) -> dict[str, Any]:
    """Run the block of CONTRIBUTING.md that says it is the file ``path``; returns what it defines."""
    (code,) = (block for block in blocks("CONTRIBUTING.md", "python") if block.startswith(f"# {path}\n"))
    defined: dict[str, Any] = {"__name__": path}
    exec(compile(code, path, "exec"), defined)
    return defined


@pytest.mark.parametrize("settings", [{}, {"dtype": "float16"}, {"augment": "full"}], ids=str)
def test_the_loader_of_the_guide_delivers_the_plan(coordinate_store: Path, settings: dict[str, str]) -> None:
    config = LoaderConfig(store=coordinate_store, patch=(16, 16, 16), device="cpu", **settings)  # type: ignore[arg-type]
    plain = example("pipelines/workers/plain_loader.py")["PlainLoader"]
    with build_loader("plain", config, table={"plain": plain}) as ours, build_loader("torch", config) as theirs:
        for left, right in zip(ours, theirs, strict=True):
            assert list(left.samples) == list(right.samples)
            assert torch.equal(left.image, right.image)
            assert torch.equal(left.label, right.label)


def test_the_layout_of_the_guide_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, dtype in (("images", np.int16), ("masks", np.uint8)):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
        voxels = np.indices((9, 8, 7)).sum(axis=0).astype(dtype) % (2 if folder == "masks" else 99)
        image = nibabel.Nifti1Image(voxels, np.eye(4))  # type: ignore[no-untyped-call]
        nibabel.save(image, tmp_path / "pairs" / folder / "one.nii.gz")
    monkeypatch.setitem(LAYOUTS, "pairs", example("preprocessing/layouts/pairs.py")["read_pairs"])
    assert convert(Options(input=tmp_path / "pairs", output=tmp_path / "store", layout="pairs", workers=1)) == 0
    store = open_store(tmp_path / "store")
    assert list(store.case_ids) == ["one"]
    assert store.manifest.label_names == {0: "background", 1: "mask"}


PAGES = [*DOCUMENTS, *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))), "docker/README.md"]
TO_BE_WRITTEN = ("pipelines/workers/plain_loader.py", "preprocessing/layouts/pairs.py")  # by readers of CONTRIBUTING.md


@pytest.mark.parametrize("document", PAGES)
def test_files_that_are_named_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if not link.startswith("http")]
    for link in [*links, *re.findall(r"src(?:set)?=\"([^\"]+)\"", text)]:
        assert ((ROOT / document).parent / link).exists(), link
    text = re.sub(r"https?://\S+", "", text)
    named = re.findall(r"(?:preprocessing|pipelines|training|benchmarks|tests|docker|docs)/[\w/]*(?:\.\w+|/)", text)
    for path in set(named) - set(TO_BE_WRITTEN):
        assert (ROOT / path).exists() or (ROOT / "docs" / path).exists(), path


@pytest.mark.parametrize("document", PAGES)
def test_headings_that_are_linked_exist(document: str) -> None:
    """GitHub's anchor of a heading: small letters, spaces to hyphens, all but letters, digits and these left out."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for page, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", text):
        if not page.startswith("http"):
            target = (ROOT / document).parent / page if page else ROOT / document
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            made = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in made, (anchor, made)
