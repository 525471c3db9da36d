"""Sources and stores on ``s3://``, against moto's server on this machine: byte for byte those of folders."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader
from preprocessing import check, merge, stage
from preprocessing.console.errors import InputError, RunError
from preprocessing.console.places import location
from preprocessing.shards.files import SOURCE
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert
from tests.conftest import write_msd
from tests.preprocessing.conftest import Command, Finished, kill, run_process, start, tree_bytes, wait_until

SHAPES = [(6, 7, 8), (7, 6, 5), (5, 9, 6), (8, 8, 8), (4, 5, 6)]


@dataclass(frozen=True)
class Bucket:
    """A bucket of the test's own: what it holds, and how to change it."""

    name: str
    client: Any

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def keys(self, folder: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=f"{folder}/")
        return [item["Key"].removeprefix(f"{folder}/") for page in pages for item in page.get("Contents", ())]

    def tree(self, folder: str) -> dict[str, bytes]:
        return {key: self.get(f"{folder}/{key}") for key in self.keys(folder) if key != SOURCE}

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def upload(self, root: Path, folder: str) -> str:
        for path in root.rglob("*"):
            if path.is_file():
                self.put(f"{folder}/{path.relative_to(root)}", path.read_bytes())
        return f"{self.url}/{folder}"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Any]:
    """Serve S3 on a free port of this machine, and have this process and its children use it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it has a line for every request
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield boto3.client("s3")
    server.stop()


@pytest.fixture
def bucket(endpoint: Any) -> Bucket:
    name = f"bucket-{uuid.uuid4()}"
    endpoint.create_bucket(Bucket=name)
    return Bucket(name, endpoint)


@pytest.fixture(scope="module")
def msd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_msd(tmp_path_factory.mktemp("source") / "msd", SHAPES)


@pytest.fixture(scope="module")
def local(msd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the cases from folder to folder."""
    root = tmp_path_factory.mktemp("local") / "store"
    assert convert(Options(input=msd, output=root, workers=1, cases_per_shard=2)) == 0
    return root


@pytest.fixture(scope="module")
def wanted(local: Path) -> dict[str, bytes]:
    return tree_bytes(local)


def to_shards(source: object, output: object, *more: object) -> Finished:
    flags = ["--input", source, "--output", output, "--cases-per-shard", 2, "--workers", 1, *more]
    return run_process("preprocessing.to_shards", *flags)


# Converting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_from_bucket_to_bucket_every_byte_is_that_of_a_local_store(
    bucket: Bucket, msd: Path, wanted: dict[str, bytes], workers: int
) -> None:
    source = bucket.upload(msd, "raw")
    ended = to_shards(source, f"{bucket.url}/shards", "--workers", workers)
    assert (ended.code, "Traceback" in ended.errors) == (0, False)
    assert f"{bucket.url}/shards/manifest.json: 5 cases in 3 shards" in ended.errors
    assert bucket.tree("shards") == wanted
    assert open_store(f"{bucket.url}/shards").source_root == source
    again = to_shards(source, f"{bucket.url}/shards", "--workers", workers)
    assert (again.code, "3 of 3 shards are there already" in again.errors) == (0, True)


def test_shares_on_a_bucket_are_merged_to_the_store_of_one_run(
    bucket: Bucket, msd: Path, wanted: dict[str, bytes]
) -> None:
    output, source = f"{bucket.url}/shards", bucket.upload(msd, "raw")
    assert to_shards(source, output, "--partition", "2/2").code == 0
    missing = run_process("preprocessing.merge", "--shards", output)
    assert (missing.code, missing.errors) == (
        2,
        f"error: {output}: 1 of 2 shares are missing, the first: --partition 1/2\n",
    )
    assert to_shards(source, output, "--partition", "1/2").code == 0
    assert "manifest.json" not in bucket.keys("shards")
    assert run_process("preprocessing.merge", "--shards", output).code == 0
    assert bucket.tree("shards") == wanted
    assert open_store(output).source_root == source
    assert "was merged already" in run_process("preprocessing.merge", "--shards", output).errors


def test_killed_at_any_instant_it_goes_on_to_the_same_bytes(
    bucket: Bucket, msd: Path, wanted: dict[str, bytes]
) -> None:
    flags = ["--input", msd, "--output", f"{bucket.url}/shards", "--cases-per-shard", 2, "--workers", 2]
    for reached in (1, 5, 9):  # objects of 20, seven a shard of two cases
        process = start("preprocessing.to_shards", *flags)
        wait_until(lambda reached=reached: len(bucket.keys("shards")) >= reached, process)  # type: ignore[misc]
        kill(process)
        held = bucket.tree("shards")
        assert "manifest.json" not in held
        for index in (name for name in held if name.endswith("index.json")):
            shard = index.removesuffix("index.json")
            assert {n: c for n, c in held.items() if n.startswith(shard)} == {
                name: content for name, content in wanted.items() if name.startswith(shard)
            }
    bucket.delete("shards/shard-00002/index.json")  # in case the last kill came after it
    bucket.put("shards/shard-00002/left_by_a_killed_run.npy", b"")
    assert run_process("preprocessing.to_shards", *flags).code == 0
    assert bucket.tree("shards") == wanted


def test_refused_cases_are_named_with_their_urls(bucket: Bucket, msd: Path, tmp_path: Path) -> None:
    source = bucket.upload(msd, "raw")
    bucket.delete("raw/labelsTr/case_001.nii.gz")
    bucket.put("raw/imagesTr/case_003.nii.gz", b"cut")
    ended = to_shards(source, f"{bucket.url}/shards")
    assert (ended.code, "Traceback" in ended.errors) == (3, False)
    assert f"case case_001: no label at {source}/labelsTr/case_001.nii.gz" in ended.errors
    assert f"case case_003: {source}/imagesTr/case_003.nii.gz: 3 bytes are too few" in ended.errors
    assert to_shards(source, tmp_path / "store").code == 3
    assert bucket.tree("shards") == tree_bytes(tmp_path / "store")
    stopped = to_shards(source, f"{bucket.url}/stopped", "--on-error", "stop")
    assert (stopped.code, "Traceback" in stopped.errors) == (3, False)
    assert not any(key.startswith("shard-00000") and key.endswith("index.json") for key in bucket.keys("stopped"))


def test_changed_sources_and_options_are_noticed(bucket: Bucket, msd: Path) -> None:
    source, output = bucket.upload(msd, "raw"), f"{bucket.url}/shards"
    assert to_shards(source, output).code == 0
    assert "--dtype auto, now float32" in to_shards(source, output, "--dtype", "float32").errors
    image = bytearray(bucket.get("raw/imagesTr/case_002.nii.gz"))
    image[5] ^= 1  # the time in a gzip header: same size, same voxels
    bucket.put("raw/imagesTr/case_002.nii.gz", bytes(image))
    changed = to_shards(source, output)
    assert (changed.code, "Traceback" in changed.errors) == (2, False)
    assert f"{source}/imagesTr/case_002.nii.gz has the same size and other content" in changed.errors


def test_a_local_list_may_name_files_in_a_bucket(bucket: Bucket, msd: Path, tmp_path: Path) -> None:
    url = bucket.upload(msd, "raw")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {str(n): str(n) for n in range(4)}}))
    rows = f"id,image,label\na,{url}/labelsTr/case_000.nii.gz,{url}/labelsTr/case_000.nii.gz\n"
    (tmp_path / "cases.csv").write_text(rows)
    assert convert(Options(input=tmp_path / "cases.csv", output=tmp_path / "store", workers=1)) == 0
    assert open_store(tmp_path / "store").case("a").shape_dhw == SHAPES[0]


# Checking and staging ---------------------------------------------------------------------------------------------


def test_check_finds_what_is_wrong_in_a_bucket(bucket: Bucket, local: Path) -> None:
    url = bucket.upload(local, "shards")
    whole = run_process("preprocessing.check", "--shards", url)
    assert (whole.code, whole.errors) == (0, f"{url}: 5 cases in 3 shards: every checksum matches\n")
    name = "shards/shard-00001/case_003.image.npy"
    image = bucket.get(name)
    bucket.put(name, image[:-1] + bytes([image[-1] ^ 1]))
    bucket.put("shards/stranger.txt", b"")
    bucket.delete("shards/shard-00000/case_000.label.npy")
    bucket.delete("shards/shard-00002/index.json")
    found = run_process("preprocessing.check", "--shards", url)
    assert found.code == 1
    assert f"case case_003: {bucket.url}/{name}: checksum" in found.errors
    assert f"{url}/stranger.txt: not part of the store" in found.errors
    assert f"case case_000: {url}/shard-00000/case_000.label.npy: missing" in found.errors
    assert f"{url}/shard-00002/index.json: missing (index of cases case_004)" in found.errors
    assert "3 problems" in run_process("preprocessing.check", "--shards", url, "--fast", "true").errors


def test_a_staged_store_is_the_store(bucket: Bucket, local: Path, wanted: dict[str, bytes], tmp_path: Path) -> None:
    url, output = bucket.upload(local, "shards"), tmp_path / "staged"
    ended = run_process("preprocessing.stage", "--shards", url, "--output", output)
    assert (ended.code, ended.errors) == (0, f"{output}: 5 cases in 3 shards, every checksum matches\n")
    assert tree_bytes(output) == wanted
    assert open_store(output).source_root == open_store(local).source_root
    (output / "manifest.json").unlink()
    for path in (output / "shard-00001").iterdir():
        path.unlink()
    (output / "shard-00001").rename(output / "shard-00001.0123.tmp")
    again = run_process("preprocessing.stage", "--shards", url, "--output", output)
    assert (again.code, "2 of 3 shards are there already" in again.errors) == (0, True)
    assert tree_bytes(output) == wanted


def test_staging_takes_over_nothing_that_is_damaged(
    bucket: Bucket, local: Path, wanted: dict[str, bytes], tmp_path: Path
) -> None:
    url = bucket.upload(local, "shards")
    image = wanted["shard-00001/case_002.image.npy"]
    bucket.put("shards/shard-00001/case_002.image.npy", image[:-1] + bytes([image[-1] ^ 1]))
    with pytest.raises(RunError, match=r"shard-00001/case_002\.image\.npy: its checksum is not the one in the store"):
        stage.stage(stage.Options(shards=location(url), output=tmp_path / "staged"))
    assert not (tmp_path / "staged" / "manifest.json").exists()
    assert not (tmp_path / "staged" / "shard-00001").exists()
    bucket.put("shards/shard-00001/case_002.image.npy", image)
    assert stage.stage(stage.Options(shards=location(url), output=tmp_path / "staged")) == 0
    assert tree_bytes(tmp_path / "staged") == wanted
    bucket.put("shards/shard-00000/index.json", b"{}")
    with pytest.raises(RunError, match=r"shard-00000/index\.json: its checksum"):
        stage.stage(stage.Options(shards=location(url), output=tmp_path / "other"))


def test_training_names_the_command_that_stages(bucket: Bucket, local: Path) -> None:
    url = bucket.upload(local, "shards")
    with pytest.raises(InputError, match=rf"python -m preprocessing\.stage --shards {url} --output FOLDER"):
        build_loader("torch", LoaderConfig(store=url, patch=(4, 4, 4)))


# Wrong usage ------------------------------------------------------------------------------------------------------


def test_places_that_cannot_be_used_are_said_in_one_line(
    bucket: Bucket, msd: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = command(convert, Options, "--input", f"{bucket.url}/nowhere", "--output", f"{bucket.url}/shards")
    assert nowhere.errors == f"error: {bucket.url}/nowhere: no such folder; give the data set's folder with --input\n"
    no_bucket = to_shards(msd, "s3://no-such-bucket/shards")
    assert (no_bucket.code, "Traceback" in no_bucket.errors) == (1, False)
    assert no_bucket.errors.splitlines()[-1].startswith("error: The specified bucket does not exist")
    no_store = command(check.check, check.Options, "--shards", f"{bucket.url}/nowhere")
    assert (no_store.code, "no manifest.json there" in no_store.errors) == (2, True)
    no_share = command(merge.merge, merge.Options, "--shards", f"{bucket.url}/nowhere")
    assert (no_share.code, "no such folder" in no_share.errors) == (2, True)
    sheet = command(convert, Options, "--input", msd, "--output", f"{bucket.url}/shards", "--report", "true")
    assert (sheet.code, "is an object store; stage it" in sheet.errors) == (2, True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    silent = run_process("preprocessing.check", "--shards", f"{bucket.url}/shards")
    assert (silent.code, silent.errors.count("\n")) == (1, 1)
    assert "the object store did not answer" in silent.errors


def test_folders_stay_paths(tmp_path: Path) -> None:
    assert location("data/shards") == Path("data/shards")
    assert location(f"file://{tmp_path}") == tmp_path
    assert location(tmp_path) == tmp_path


def test_a_kind_of_store_that_nobody_knows_is_wrong_usage(command: Command) -> None:
    ended = command(check.check, check.Options, "--shards", "what://is/this")
    assert (ended.code, "Traceback" in ended.errors) == (2, False)
    assert "what://is/this" in ended.errors
