"""A processing job on S3 (moto's server): the launcher's arguments, three machines, the store of one local run."""

from __future__ import annotations

from pathlib import Path

from preprocessing.to_shards import Options, convert
from tests.conftest import coordinate_image, coordinate_label
from tests.docker.conftest import make_hosts
from tests.docker.container.test_processing_shares import run_all
from tests.docker.request.pin_requests import made_by
from tests.docker.request.test_launch import MUST
from tests.preprocessing.conftest import tree_bytes
from tests.preprocessing.layouts.test_layout_files import Volumes, write_nnunet
from tests.preprocessing.test_object_store import Bucket, bucket, endpoint

__all__ = ["bucket", "endpoint"]
NUM_CASES, NUM_HOSTS = 24, 3


def test_three_machines_make_the_store_of_one_local_run(bucket: Bucket, tmp_path: Path) -> None:
    """24 cases of four files each, so that dealing the objects to machines would have parted them."""
    shapes = [(6 + case % 3, 6 + case % 5, 6 + case % 7) for case in range(NUM_CASES)]
    volumes: Volumes = {
        f"case_{case:03d}": (coordinate_image(shape, case), coordinate_label(shape))
        for case, shape in enumerate(shapes)
    }
    source = write_nnunet(tmp_path / "raw", volumes)
    alone = Options(input=source, output=tmp_path / "alone", workers=1, cases_per_shard=2)
    assert convert(alone) == 0
    command = f"process {MUST} --instances {NUM_HOSTS} --input {bucket.upload(source, 'raw')}"
    _, request = made_by(f"{command} --output {bucket.url}/shards -- --workers 1 --cases-per-shard 2")
    container, cluster = request["AppSpecification"], request["ProcessingResources"]["ClusterConfig"]
    assert container["ContainerEntrypoint"] == ["process"]
    hosts = make_hosts(tmp_path / "hosts", "process", cluster["InstanceCount"])
    assert run_all(hosts, *container["ContainerArguments"]) == [0] * NUM_HOSTS, [host.said for host in hosts]
    assert bucket.tree("shards") == tree_bytes(alone.output)
    for number, host in enumerate(hosts, start=1):
        assert f"share {number}/{NUM_HOSTS}, 4 of 12 shards, 8 converted now" in "".join(host.said)


KEY = "arn:aws:kms:us-west-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def test_what_a_job_writes_is_encrypted_with_its_key(bucket: Bucket, msd_folder: Path, tmp_path: Path) -> None:
    command = f"process {MUST} --input {bucket.upload(msd_folder, 'raw')} --output {bucket.url}/shards --kms-key {KEY}"
    _, request = made_by(f"{command} -- --workers 1")
    hosts = make_hosts(tmp_path / "hosts", "process", 1)
    words = request["AppSpecification"]["ContainerArguments"]
    assert run_all(hosts, *words, environment=request["Environment"]) == [0], hosts[0].said
    keys = bucket.keys("shards")
    assert "manifest.json" in keys
    heads = [bucket.client.head_object(Bucket=bucket.name, Key=f"shards/{name}") for name in keys]
    assert {(head.get("ServerSideEncryption"), head.get("SSEKMSKeyId")) for head in heads} == {("aws:kms", KEY)}
