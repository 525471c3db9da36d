"""Files that change under a loader: one line that names case and file, never a signal or a traceback."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.config import LoaderConfig
from pipelines.loaders import MONAI, build_loader
from preprocessing.console.errors import InputError
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert
from tests.conftest import write_msd

PATCH = (16, 16, 20)
SHRINK = """
import os, sys
from pathlib import Path
from pipelines.loaders import LoaderConfig, build_loader
from preprocessing.console.errors import InputError
name, crop, read, store, kind = sys.argv[1:]
settings = {"crop": crop, "read": read} if name == "dali" else {}
config = LoaderConfig(store=store, patch=(16, 16, 20), samples_per_case=50, num_workers=0, **settings)
with build_loader(name, config) as loader:
    batches = iter(loader)
    next(batches)
    loader.set_epoch(0)  # what is being filled ends; the maps are kept
    for path in Path(store).glob(f"*/*.{kind}.npy"):
        os.truncate(path, 4096)  # its pages are gone; to touch one of them ends a process
    try:
        for batch in loader:
            pass
    except InputError as error:
        print(error)
"""


@pytest.mark.parametrize("kind", ["image", "label"])
@pytest.mark.parametrize("loader", [("dali", "host", "mmap"), ("dali", "host", "dali"), ("torch", "", "")])
def test_a_shard_file_that_shrinks_while_it_is_mapped_is_named(
    coordinate_store: Path, tmp_path: Path, loader: tuple[str, str, str], kind: str
) -> None:
    """In a process of its own, which a bus error would end."""
    store = shutil.copytree(coordinate_store, tmp_path / "S")
    command = [sys.executable, "-c", SHRINK, *loader, str(store), kind]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(
        rf"case (case_00\d): {store}/shard-0000\d/\1.{kind}.npy is missing or damaged \(it has 4096 bytes, the index "
        r"says \d+\); run preprocessing.check\n",
        ended.stdout,
    )


@pytest.mark.parametrize("by", [-1, 1])
def test_a_file_of_another_size_is_refused_when_its_case_is_opened(
    coordinate_store: Path, tmp_path: Path, by: int
) -> None:
    store = shutil.copytree(coordinate_store, tmp_path / "S")
    (path,) = store.glob("*/case_002.label.npy")
    content = path.read_bytes()
    path.write_bytes(content[:by] if by < 0 else content + bytes(by))
    case = open_store(store).case("case_002")
    case.image()
    for read in (case.label, case.check_files):
        with pytest.raises(InputError, match=rf"case case_002: .*label.npy .*it has {len(content) + by} bytes, .*says"):
            read()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loader_name", MONAI)
def test_a_source_file_that_vanishes_is_named(tmp_path: Path, loader_name: str, workers: int) -> None:
    """After the loader was built; those that keep everything in memory need no file any more."""
    source = write_msd(tmp_path / "set", [(18, 20, 22)] * 4)
    assert convert(Options(input=source, output=tmp_path / "S", workers=1)) == 0
    config = LoaderConfig(store=tmp_path / "S", patch=PATCH, samples_per_case=3, num_workers=workers)
    with build_loader(loader_name, config) as loader:
        lost = source / "imagesTr" / "case_001.nii.gz"
        lost.unlink()
        if loader_name in ("monai-cache", "monai-thread"):
            assert len(list(loader)) == len(loader)
            return
        with pytest.raises(InputError) as raised:
            [list(loader) for _ in range(6)]  # the smart cache comes to the case later
    assert re.fullmatch(
        rf"case case_001: {lost} is gone since .*/S was made; put it back, or convert again", str(raised.value)
    )
