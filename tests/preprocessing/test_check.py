"""The checker notices every changed, missing and additional byte or file, and names it.

Changed bytes as often as wanted: ``PYTHONPATH=. python tests/preprocessing/test_check.py 200``.
"""

from __future__ import annotations

import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from preprocessing.check import Options, check, find_problems
from preprocessing.console.errors import InputError
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from tests.conftest import write_msd
from tests.preprocessing.conftest import Command, run_process

FLIPS_PER_FILE = 12
FILES = [
    "errors.json",
    "manifest.json",
    "shard-00000/case_000.foreground.npy",
    "shard-00000/case_000.image.npy",
    "shard-00000/case_000.label.npy",
    "shard-00000/index.json",
    "shard-00001/case_002.foreground.npy",
    "shard-00001/case_002.image.npy",
    "shard-00001/case_002.label.npy",
    "shard-00001/index.json",
    "source.json",
]


def make_store(folder: Path) -> Path:
    """Convert three tiny cases, one of them refused, into two shards: a store with every kind of file."""
    source = write_msd(folder / "msd", [(6, 7, 8), (7, 6, 5), (5, 9, 6)])
    (source / "labelsTr" / "case_001.nii.gz").unlink()
    assert convert(ConvertOptions(input=source, output=folder / "store", workers=1, cases_per_shard=2)) == 3
    return folder / "store"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("checked"))


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "store"))


def problems_of(store: Path, caplog: pytest.LogCaptureFixture, *, fast: bool = False) -> list[str]:
    """Check a store that must fail, and return the lines that say why."""
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        assert check(Options(shards=store, fast=fast)) == 1
    return [record.getMessage() for record in caplog.records]


def owner_of(name: str) -> str:
    """Name the case that a file belongs to, or nothing: indices and lists belong to several."""
    return f"case {Path(name).name.split('.')[0]}:" if name.endswith(".npy") else ""


def test_the_list_of_files_is_complete(pristine: Path) -> None:
    assert sorted(str(path.relative_to(pristine)) for path in pristine.rglob("*.*")) == FILES


def test_a_whole_store_passes(pristine: Path, coordinate_store: Path) -> None:
    for root in (pristine, coordinate_store):
        assert check(Options(shards=root)) == 0
        assert check(Options(shards=root, fast=True)) == 0


def check_flips(store: Path, names: list[str], flips: int, draw: random.Random) -> int:
    """Change ``flips`` single bytes of ``store``, one at a time; returns how many ``check`` found, naming the file."""
    found = 0
    for _ in range(flips):
        path = store / draw.choice(names)
        content = path.read_bytes()
        place = draw.choice([0, len(content) - 1, *draw.choices(range(len(content)), k=8)])  # ends more often
        changed = bytearray(content)
        changed[place] ^= draw.randrange(1, 256)
        path.write_bytes(changed)
        found += any(str(path) in line and owner_of(path.name) in line for line in said_by_check(store))
        path.write_bytes(content)
    return found


def said_by_check(store: Path) -> list[str]:
    """Check a store; returns what is wrong with it."""
    try:
        return list(find_problems(open_store(store), fast=False))
    except InputError as error:
        return [str(error)]


@pytest.mark.parametrize("name", FILES)
def test_any_changed_byte_is_noticed_and_the_file_named(store: Path, name: str) -> None:
    assert check_flips(store, [name], FLIPS_PER_FILE, random.Random(name)) == FLIPS_PER_FILE
    assert check(Options(shards=store)) == 0


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
@pytest.mark.parametrize("fast", [False, True])
def test_a_missing_or_cut_file_is_named(store: Path, caplog: pytest.LogCaptureFixture, name: str, fast: bool) -> None:
    path = store / name
    path.write_bytes(path.read_bytes()[:-1])
    assert any(str(path) in line and owner_of(name) in line for line in problems_of(store, caplog, fast=fast))
    path.unlink()
    if name == "source.json":  # who shares a store may take the place of the originals away
        assert check(Options(shards=store, fast=fast)) == 0
        return
    missing = problems_of(store, caplog, fast=fast)
    assert any(str(path) in line and owner_of(name) in line and "missing" in line for line in missing)


def test_a_changed_index_names_its_cases(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = store / "shard-00000" / "index.json"
    index.write_bytes(index.read_bytes() + b" ")
    assert problems_of(store, caplog) == [f"{index}: checksum does not match the manifest (index of cases case_000)"]


def test_a_missing_shard_names_its_cases(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(store / "shard-00001")
    assert problems_of(store, caplog) == [f"{store}/shard-00001/index.json: missing (index of cases case_002)"]


@pytest.mark.parametrize(
    "name", ["stranger.txt", "shard-00000/case_009.image.npy", "shard-00002/index.json", "shard-00002.tmp/a.npy"]
)
def test_an_additional_file_is_named(store: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    (store / name).parent.mkdir(exist_ok=True)
    (store / name).touch()
    known = (store / name).parent.name in ("store", "shard-00000")
    expected = store / name if known else (store / name).parent
    assert problems_of(store, caplog) == [f"{expected}: not part of the store"]


def test_an_error_list_that_the_manifest_does_not_know_is_a_stranger(
    coordinate_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(shutil.copytree(coordinate_store, tmp_path / "copy"))
    (root / "errors.json").write_text("{}")
    assert problems_of(root, caplog) == [f"{root}/errors.json: not part of the store"]


def test_every_problem_is_told_not_only_the_first(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("shard-00000/case_000.label.npy", "shard-00001/case_002.image.npy"):
        (store / name).unlink()
    assert len(problems_of(store, caplog)) == 2


def test_an_image_whose_header_the_index_contradicts_is_named(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = store / "shard-00000" / "case_000.image.npy"
    image.write_bytes(image.read_bytes().replace(b"(6, 7, 8, 4)", b"(8, 7, 6, 4)"))
    assert f"case case_000: {image}: header is not uint8 (6, 7, 8) as the index says" in problems_of(store, caplog)


def test_fast_compares_sizes_only(store: Path) -> None:
    image = store / "shard-00000" / "case_000.image.npy"
    image.write_bytes(image.read_bytes()[:-1] + b"\xff")
    assert check(Options(shards=store, fast=True)) == 0
    assert check(Options(shards=store)) == 1


def test_a_conversion_that_did_not_finish_is_not_whole(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    (store / "manifest.json").unlink()
    assert "no manifest.json there" in problems_of(store, caplog)[0]


def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path, command: Command) -> None:
    with pytest.raises(InputError, match="no manifest"):
        check(Options(shards=tmp_path / "nowhere"))
    ended = command(check, Options, "--shards", tmp_path / "nowhere")
    assert (ended.code, ended.errors.count("\n")) == (2, 1)


def test_the_command_says_what_it_found(store: Path) -> None:
    ended = run_process("preprocessing.check", "--shards", store)
    assert (ended.code, ended.errors) == (0, f"{store}: 2 cases in 2 shards: every checksum matches\n")
    label = store / "shard-00000" / "case_000.label.npy"
    label.unlink()
    ended = run_process("preprocessing.check", "--shards", store, "--fast", "true")
    assert ended.code == 1
    assert ended.errors.splitlines() == [
        f"case case_000: {label}: missing",
        f"{store}: 2 cases in 2 shards: 1 problems",
        "to repair it, delete the shard folders named here and give the same to_shards command again",
    ]


def main(flips: int) -> None:
    """Change as many bytes as asked in a store that has every kind of file."""
    with tempfile.TemporaryDirectory() as folder:
        found = check_flips(make_store(Path(folder)), FILES, flips, random.Random(flips))
    print(f"{found} of {flips} changed bytes found, each with the name of its file and case")  # noqa: T201
    sys.exit(found != flips)


if __name__ == "__main__":
    main(int(sys.argv[1]))
