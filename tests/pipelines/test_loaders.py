"""The contract of all loaders, and DALI against its numpy twin, voxel by voxel."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from pipelines import loaders
from pipelines.batch import Batch, Loader
from pipelines.config import LoaderConfig
from pipelines.dali.device_patches import DevicePatches
from pipelines.dali.host_patches import HostPatches
from pipelines.dali.loader import DaliLoader
from pipelines.loaders import LOADERS, MONAI, check_memory
from pipelines.plan import Plan, Sample
from pipelines.reference import crop, flip, intensity_of, normalize, region_channels
from pipelines.workers.torch_loader import SampleDataset
from preprocessing.console.errors import InputError
from preprocessing.shards.files import write_manifest
from preprocessing.shards.store import Store, open_store
from preprocessing.to_shards import Options, convert

PATCH = (16, 16, 20)
QUARTER_SECOND = 500_000_000  # of a GPU's cycles
DEVICES = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]
VARIANTS: dict[str, dict[str, Any]] = {
    "dali/pool": {"crop": "device"},
    "dali/reader": {"read": "dali"},
    "torch/workers": {"num_workers": 2},
}
GPU_VARIANTS: dict[str, dict[str, Any]] = {
    "dali/gpu pool": {"device": "gpu"},
    "dali/gpu host path": {"device": "gpu", "crop": "host"},
    "dali/gpu reader": {"device": "gpu", "read": "dali"},
    "dali/gpu gds": {"device": "gpu", "read": "gds"},
    "torch/gpu": {"device": "gpu"},
}
ON_GPU = [pytest.param(name, marks=pytest.mark.gpu) for name in GPU_VARIANTS]
PLANNED = ["dali", *VARIANTS, "torch", *ON_GPU]
RESUMED = [*PLANNED, *MONAI]
ALL = [*LOADERS, *VARIANTS, *ON_GPU]


def config_for(store: Path, **changes: object) -> LoaderConfig:
    settings: dict[str, object] = {"batch_size": 2, "samples_per_case": 3, "num_workers": 0}
    return LoaderConfig(store=store, patch=PATCH, **(settings | changes))  # type: ignore[arg-type]


def layout_of(loader_name: str) -> torch.memory_format:
    """MONAI's batches are as MONAI makes them: turning them over would be work that its users do not do."""
    return torch.contiguous_format if loader_name in MONAI else torch.channels_last_3d


def build_loader(name: str, config: LoaderConfig, rank: int = 0, world_size: int = 1) -> Loader:
    """Build a loader, also one of the variants, which get their patches in another way."""
    settings = (VARIANTS | GPU_VARIANTS).get(name, {})
    try:
        return loaders.build_loader(name.partition("/")[0], dataclasses.replace(config, **settings), rank, world_size)
    except InputError as error:
        if settings.get("read") == "gds" and "does not work on this machine" in str(error):
            pytest.skip(str(error))
        raise


def expected(store: Store, sample: Sample, patch: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Make one sample from the specification: image [C,D,H,W] and label [1,D,H,W]."""
    case = store.case(sample.case_id)
    label_volume = case.label()
    assert label_volume is not None
    image = np.empty((*patch, case.image().shape[3]), store.manifest.image_dtype)
    label = np.empty((*patch, 1), np.uint8)
    image = flip(crop(case.image(), sample.position_dhw, image), sample.flips_dhw)
    label = flip(crop(label_volume, sample.position_dhw, label), sample.flips_dhw)
    values = normalize(image, intensity_of(case, store.manifest), sample.scale, sample.shift)
    return values.transpose(3, 0, 1, 2), label.transpose(3, 0, 1, 2)


def assert_same(left: Batch, right: Batch) -> None:
    assert (list(left.samples), left.case_ids) == (list(right.samples), right.case_ids)
    torch.testing.assert_close(left.image.cpu(), right.image.cpu(), rtol=0, atol=1e-5)
    assert torch.equal(left.label.cpu(), right.label.cpu())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("augment", ["none", "basic"])
def test_dali_equals_the_reference_on_coordinate_volumes(coordinate_store: Path, augment: str, device: str) -> None:
    store = open_store(coordinate_store)
    with build_loader("dali", config_for(coordinate_store, augment=augment, device=device)) as loader:
        seen_flips = set()
        for batch in loader:
            for index, sample in enumerate(batch.samples):
                image, label = expected(store, sample, PATCH)
                np.testing.assert_array_equal(batch.label[index].cpu().numpy(), label)
                np.testing.assert_allclose(batch.image[index].cpu().numpy(), image, rtol=0, atol=1e-5)
                seen_flips.add(sample.flips_dhw)
        assert seen_flips == {(False, False, False)} if augment == "none" else len(seen_flips) > 3


@pytest.mark.parametrize("loader_name", PLANNED)
def test_voxels_tell_the_case_and_position_the_plan_drew(coordinate_store: Path, loader_name: str) -> None:
    """Undo the normalisation: the numbers in a patch are its coordinates, whatever the reference says."""
    store = open_store(coordinate_store)
    with build_loader(loader_name, config_for(coordinate_store)) as loader:
        for batch in loader:
            for index, sample in enumerate(batch.samples):
                case = store.case(sample.case_id)
                raw = batch.image[index].cpu().numpy().transpose(1, 2, 3, 0).astype(np.float64) - sample.shift
                raw = raw / sample.scale * case.channel_std + case.channel_mean
                raw = raw[tuple(slice(None, None, -1 if reverse else None) for reverse in sample.flips_dhw)]
                inside = [slice(max(-p, 0), s - p) for p, s in zip(sample.position_dhw, case.shape_dhw, strict=True)]
                voxel = np.rint(raw[tuple(inside)]).astype(int)
                start = [max(p, 0) + 1 for p in sample.position_dhw]
                assert voxel[0, 0, 0, :3].tolist() == start
                assert (voxel[..., 3] == int(sample.case_id[-3:]) + 1).all()


@pytest.mark.parametrize("loader_name", PLANNED)
@pytest.mark.parametrize("regions", [False, True])
def test_all_planned_loaders_deliver_the_same_batches(coordinate_store: Path, regions: bool, loader_name: str) -> None:
    config = config_for(coordinate_store, regions=regions)
    with build_loader(loader_name, config) as dali, build_loader("torch", config) as workers:
        for left, right in zip(dali, workers, strict=True):
            assert_same(left, right)


def test_regions_are_the_labels_they_unite(coordinate_store: Path) -> None:
    with (
        build_loader("dali", config_for(coordinate_store)) as plain,
        build_loader("dali", config_for(coordinate_store, regions=True)) as joined,
    ):
        regions = list((open_store(coordinate_store).manifest.regions or {}).values())
        assert regions == [[1, 2, 3], [2, 3], [3]]
        for classes, masks in zip(plain, joined, strict=True):
            wanted = region_channels(classes.label.permute(0, 2, 3, 4, 1).numpy(), regions)
            np.testing.assert_array_equal(masks.label.permute(0, 2, 3, 4, 1).numpy(), wanted)


@pytest.mark.parametrize("augment", ["none", "basic", "full"])
def test_ct_is_clipped_and_has_no_background(coordinate_store: Path, tmp_path: Path, augment: str) -> None:
    """A CT store: the data set's percentiles and moments, zero is an intensity like any other."""
    root = shutil.copytree(coordinate_store, tmp_path / "ct")
    write_manifest(root, dataclasses.replace(open_store(root).manifest, modality="ct"))
    config = LoaderConfig(store=root, patch=(24, 16, 20), samples_per_case=2, num_workers=0, augment=augment)
    store, padded = open_store(root), 0
    with build_loader("dali", config) as dali, build_loader("torch", config) as workers:
        for left, right in zip(dali, workers, strict=True):
            torch.testing.assert_close(left.image, right.image, rtol=0, atol=2e-3 if augment == "full" else 1e-5)
            sample = left.samples[0]
            if augment == "full" or sample.position_dhw[0] >= 0:
                continue
            low, mean, std = (
                np.array([getattr(channel, name) for channel in store.manifest.channels])
                for name in ("percentile_00_5", "mean", "std")
            )
            padded += 1
            padding = np.maximum(0, low) - mean  # air of a padded plane
            wanted = padding / std * sample.scale + sample.shift
            plane = left.image[0, :, -1 if sample.flips_dhw[0] else 0]
            torch.testing.assert_close(
                plane, torch.tensor(wanted)[:, None, None].expand_as(plane).float(), rtol=0, atol=1e-5
            )
    assert padded > 3 or augment == "full"


@pytest.mark.parametrize("loader_name", ALL)
@pytest.mark.parametrize("augment", ["none", "basic", "full"])
def test_float16_is_float32_rounded(coordinate_store: Path, loader_name: str, augment: str) -> None:
    """Also the background, which is set after the cast, and the strides."""
    settings = {"augment": augment, "samples_per_case": 2}
    with (
        build_loader(loader_name, config_for(coordinate_store, **settings)) as single,
        build_loader(loader_name, config_for(coordinate_store, **settings, dtype="float16")) as half,
    ):
        for left, right in zip(single, half, strict=True):
            assert right.image.dtype == torch.float16
            assert right.image.is_contiguous(memory_format=layout_of(loader_name))
            assert right.image.device == left.image.device
            torch.testing.assert_close(right.image.cpu(), left.image.cpu().half(), rtol=1e-3, atol=1e-6)
            assert torch.equal(left.label, right.label)


@pytest.mark.data
def test_dali_equals_the_reference_on_a_real_case(real_data: Path, tmp_path: Path) -> None:
    source = Options(input=real_data / "Task01_BrainTumour", output=tmp_path / "S", workers=1)
    assert convert(source) == 0
    store = open_store(tmp_path / "S")
    config = LoaderConfig(store=tmp_path / "S", patch=(48, 64, 32), batch_size=1, samples_per_case=2, foreground=1.0)
    with build_loader("dali", config) as loader:
        for batch in loader:
            image, label = expected(store, batch.samples[0], config.patch)
            np.testing.assert_array_equal(batch.label[0].numpy(), label)
            np.testing.assert_allclose(batch.image[0].numpy(), image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("loader_name", ALL)
def test_contract_shapes_strides_and_length(coordinate_store: Path, loader_name: str) -> None:
    with build_loader(loader_name, config_for(coordinate_store)) as loader:
        batches = list(loader)
        assert len(batches) == len(loader) == 9  # 5 cases over 2 lanes: 3 cases a lane, 3 samples each
        for batch in batches:
            assert batch.image.shape == (2, 4, *PATCH)
            assert batch.image.dtype == torch.float32
            assert batch.image.is_contiguous(memory_format=layout_of(loader_name))
            assert batch.label.shape == (2, 1, *PATCH)
            assert batch.label.dtype == torch.uint8
            assert len(batch.case_ids) == 2


@pytest.mark.parametrize("loader_name", RESUMED)
def test_contract_epochs_differ_and_repeat_by_seed(coordinate_store: Path, loader_name: str) -> None:
    with build_loader(loader_name, config_for(coordinate_store)) as loader:
        first, second = list(loader), list(loader)
        loader.set_epoch(0)
        again = list(loader)
    for left, right in zip(first, again, strict=True):
        assert_same(left, right)
    assert not any(torch.equal(left.image, right.image) for left, right in zip(first, second, strict=True))
    with build_loader(loader_name, config_for(coordinate_store, seed=1)) as other:
        assert not torch.equal(next(iter(other)).image, first[0].image)


@pytest.mark.parametrize("loader_name", RESUMED)
def test_contract_restores_at_every_step(coordinate_store: Path, loader_name: str) -> None:
    with build_loader(loader_name, config_for(coordinate_store)) as loader:
        whole, states = [], [loader.state_dict()]
        for batch in itertools.chain(loader):
            whole.append(batch)
            states.append(loader.state_dict())
    with build_loader(loader_name, config_for(coordinate_store)) as restored:
        for step, state in enumerate(states[:-1]):
            restored.load_state_dict(state)
            for left, right in zip(restored, whole[step:], strict=True):
                assert_same(left, right)
        restored.load_state_dict(states[-1])
        next(iter(restored))
        assert (restored.state_dict()["epoch"], restored.state_dict()["step"]) == (1, 1)


def held_files(root: Path) -> list[str]:
    """Return the files below ``root``, or MONAI's own, that this process holds open or mapped."""
    process = psutil.Process()
    held = [file.path for file in process.open_files()] + [place.path for place in process.memory_maps()]
    return [path for path in held if path.startswith(str(root)) or "voxelfeed-monai-" in path]


def assert_threads_end(before: set[threading.Thread]) -> None:
    """Python's own thread behind a worker's queue ends by itself, a moment after the queue."""
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), thread


@pytest.mark.parametrize("loader_name", ALL)
def test_contract_close_twice_and_leave_no_thread_file_or_process(
    coordinate_store: Path, tmp_path: Path, loader_name: str
) -> None:
    store = shutil.copytree(coordinate_store, tmp_path / "store")  # no other test's loader maps its files
    before, children = set(threading.enumerate()), psutil.Process().children(recursive=True)
    loader = build_loader(loader_name, config_for(store, num_workers=1))
    batches = iter(loader)
    next(batches)
    if loader_name in ("dali", "dali/gpu host path"):
        assert held_files(store)  # the maps of the cases in use
    loader.close()
    loader.close()
    assert_threads_end(before)
    assert held_files(store) == []
    left = [child for child in psutil.Process().children(recursive=True) if child not in children]
    assert [child.name() for child in left if "resource_tracker" not in " ".join(child.cmdline())] == []
    with pytest.raises(RuntimeError, match="closed"):
        next(iter(loader))


@pytest.mark.parametrize("loader_name", ALL)
def test_a_loader_dropped_half_way_cleans_up_silently_and_soon(coordinate_store: Path, loader_name: str) -> None:
    """Without ``close``; what fails while Python collects the loader would be reported here as an error.

    A DataLoader that is collected after the queues of its workers waits five seconds for each of them.
    """
    before = set(threading.enumerate())
    loader = build_loader(loader_name, config_for(coordinate_store, num_workers=1))
    batches = iter(loader)
    next(batches)
    begin = time.perf_counter()
    del loader, batches
    gc.collect()
    assert_threads_end(before)
    assert time.perf_counter() - begin < 4


def test_a_loader_open_at_the_end_of_python_ends_silently(coordinate_store: Path) -> None:
    script = (
        "from pipelines.loaders import LoaderConfig, build_loader\n"
        f"loader = build_loader('dali', LoaderConfig(store={str(coordinate_store)!r}, patch={PATCH}))\n"
        "batches = iter(loader)\n"
        "next(batches)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("loader_name", RESUMED)
def test_leaving_an_epoch_half_way_goes_on_there(coordinate_store: Path, loader_name: str) -> None:
    with build_loader(loader_name, config_for(coordinate_store)) as loader:
        first = list(itertools.islice(loader, 4))
        rest = list(loader)
        loader.set_epoch(0)
        for left, right in zip([*first, *rest], loader, strict=True):
            assert_same(left, right)


@pytest.mark.parametrize("loader_name", RESUMED)
def test_a_loader_can_start_anew_with_every_iteration(coordinate_store: Path, loader_name: str) -> None:
    """As validation needs it: a sanity check of one batch takes nothing away, and every pass is over the same."""
    with build_loader(loader_name, config_for(coordinate_store, start_anew=True)) as loader:
        loader.set_epoch(1)
        first = next(iter(loader)).clone()
        passes = [[batch.clone() for batch in loader] for _ in range(2)]
        assert [len(batches) for batches in passes] == [len(loader)] * 2
        for one, other in zip(*passes, strict=True):
            assert_same(one, other)
        assert_same(first, passes[0][0])
        assert loader.state_dict()["epoch"] == 1
    with build_loader(loader_name, config_for(coordinate_store)) as usual:
        usual.set_epoch(1)
        assert_same(first, next(iter(usual)))


@pytest.mark.parametrize("how", ["set_epoch", "load_state_dict"])
@pytest.mark.parametrize("loader_name", ALL)
def test_a_jump_ends_the_iteration_under_way(coordinate_store: Path, loader_name: str, how: str) -> None:
    """What the old iterator would still deliver belongs to another place than the state tells."""
    with build_loader(loader_name, config_for(coordinate_store, samples_per_case=1)) as loader:
        there = loader.state_dict() | {"epoch": 5}
        old = iter(loader)
        next(old)
        if how == "set_epoch":
            loader.set_epoch(5)
        else:
            loader.load_state_dict(there)
        assert list(old) == []
        assert loader.state_dict() == there
        wanted = [loader.plan.case_id_at(5, 0, lane) for lane in loader.lanes]
        batch = next(iter(loader))
        assert batch.case_ids == wanted or loader_name in ("monai-smartcache", "synthetic")
        assert loader.state_dict() == there | {"step": 1}


def test_batches_own_their_memory_unless_told_otherwise(coordinate_store: Path) -> None:
    with build_loader("dali", config_for(coordinate_store)) as loader:
        kept = [(batch, batch.image.clone()) for batch in loader]
        assert all(torch.equal(batch.image, copy) for batch, copy in kept)


@pytest.mark.parametrize("loader_name", ALL)
@pytest.mark.parametrize("world_size", [2, 4])
def test_contract_ranks_share_the_epoch(coordinate_store: Path, loader_name: str, world_size: int) -> None:
    """Equally long on every rank; each global batch is cut in pieces, one for each rank, and nothing else.

    Synthetic repeats the rank's part of the first one, and SmartCacheDataset delivers the cases that it holds.
    """
    with build_loader(loader_name, config_for(coordinate_store, batch_size=4)) as loader:
        whole, plan, repeats = list(loader), loader.plan, loader_name == "synthetic"
    parts = []
    for rank in range(world_size):
        config = config_for(coordinate_store, batch_size=4 // world_size)
        with build_loader(loader_name, config, rank, world_size) as loader:
            assert len(loader) == len(whole) == plan.steps_per_epoch
            parts.append(list(loader))
    for step, (batch, pieces) in enumerate(zip(whole, zip(*parts, strict=True), strict=True)):
        if loader_name != "monai-smartcache":
            wanted = [plan.case_id_at(0, 0 if repeats else step, lane) for lane in range(4)]
            assert [case_id for piece in pieces for case_id in piece.case_ids] == batch.case_ids == wanted
            torch.testing.assert_close(torch.cat([piece.image for piece in pieces]), batch.image, rtol=0, atol=1e-5)
            assert torch.equal(torch.cat([piece.label for piece in pieces]), batch.label)
        if loader_name.partition("/")[0] in ("dali", "torch"):
            samples = [sample for piece in pieces for sample in piece.samples]
            assert samples == list(batch.samples) == plan.batch(0, step, range(4))
            assert [sample.lane for sample in samples] == [0, 1, 2, 3]


def wait_for_error(loader: Loader) -> tuple[InputError, float]:
    """Return the error that ends the epoch, and for how long its batch was waited for."""
    batches, begin = iter(loader), 0.0
    try:
        while True:
            begin = time.perf_counter()
            next(batches)
    except InputError as error:
        return error, time.perf_counter() - begin


@pytest.mark.parametrize("loader_name", PLANNED)
def test_an_error_in_a_source_reaches_the_consumer_at_once(
    coordinate_store: Path, tmp_path: Path, loader_name: str
) -> None:
    """From a thread or a worker process, within a second, as the one line that it is, and with its cause."""
    broken = shutil.copytree(coordinate_store, tmp_path / "broken")
    for image in broken.glob("*/case_002.image.npy"):
        image.unlink()
    with build_loader(loader_name, config_for(broken)) as loader:
        error, waited_s = wait_for_error(loader)
    assert re.fullmatch(r"case .*case_002.* is missing or damaged .*", str(error))  # the dot is no new line
    assert waited_s < 1
    assert error.__cause__ is not None
    assert loader_name != "torch/workers" or "Original Traceback" in str(error.__cause__)


def test_what_is_wrong_with_the_program_keeps_the_traceback_of_its_worker(
    coordinate_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("in the reference")

    monkeypatch.setattr("pipelines.workers.torch_loader.make_sample", fail)
    with (
        build_loader("torch", config_for(coordinate_store, num_workers=1)) as loader,
        pytest.raises(ZeroDivisionError, match=r"(?s)Original Traceback.*in the reference"),
    ):
        next(iter(loader))


def test_a_case_without_a_label_is_refused_by_name(coordinate_store: Path, tmp_path: Path) -> None:
    root = shutil.copytree(coordinate_store, tmp_path / "unlabelled")
    manifest = open_store(root).manifest
    shards = [dataclasses.replace(shard, unlabelled=shard.case_ids[:1]) for shard in manifest.shards]
    write_manifest(root, dataclasses.replace(manifest, shards=shards))
    with pytest.raises(InputError, match=r"case case_000: has no label in .*unlabelled; leave it out"):
        build_loader("dali", config_for(root, cases=("case_001", "case_000")))


def test_worker_processes_deliver_the_same(coordinate_store: Path) -> None:
    with (
        build_loader("torch", config_for(coordinate_store, num_workers=2)) as workers,
        build_loader("torch", config_for(coordinate_store)) as inline,
    ):
        for _ in range(2):
            for left, right in zip(workers, inline, strict=True):
                assert_same(left, right)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_batch_does_not_wait_for_the_epoch_to_be_drawn(
    coordinate_store: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """An epoch over tens of thousands of cases takes seconds to draw, after every restore again."""
    draws, steps = Plan.batch, []

    def batch(plan: Plan, epoch: int, step: int, lanes: Sequence[int]) -> list[Sample]:
        steps.append(step)
        return draws(plan, epoch, step, lanes)

    monkeypatch.setattr(Plan, "batch", batch)
    with build_loader("torch", config_for(coordinate_store, samples_per_case=100, num_workers=workers)) as loader:
        loader.load_state_dict(loader.state_dict() | {"step": 7})
        first = next(iter(loader))
    assert steps == list(range(7, 8 + 2 * workers))  # what DataLoader prefetches
    assert list(first.samples) == draws(loader.plan, 0, 7, loader.lanes)


def test_workers_that_are_not_forked_open_the_store_themselves(coordinate_store: Path) -> None:
    dataset = SampleDataset(open_store(coordinate_store), PATCH, None)
    with build_loader("torch", config_for(coordinate_store)) as loader:
        sample = loader.plan.sample(0, 0, 0)
    sent = ForkingPickler.loads(ForkingPickler.dumps(dataset))
    for left, right in zip(dataset[sample][:2], sent[sample][:2], strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dahli", {}, "unknown loader 'dahli'; known: dali, torch, monai"),
        ("dali", {"augment": "loud"}, "unknown augment 'loud'"),
        ("monai", {"patch_rule": "nnunet"}, "patch_rule \"nnunet\" is the plan's, MONAI's loaders draw for themselves"),
        ("dali", {"patch_rule": "far"}, "unknown patch_rule 'far'; known: inside, nnunet"),
        ("dali", {"dtype": "float64"}, "unknown dtype 'float64'; known: float32, float16"),
        ("dali", {"crop": "gpu"}, "unknown crop 'gpu'; known: auto, host, device"),
        ("dali", {"gpu_cache": "much"}, "gpu_cache 'much': auto, a number of GiB, or 0 for none"),
        ("dali", {"gpu_cache": "-1"}, "gpu_cache '-1': auto, a number of GiB, or 0 for none"),
        ("dali", {"gpu_cache": "0", "crop": "device"}, 'gpu_cache 0 leaves no memory for crop "device"'),
        (
            "dali",
            {"gpu_cache": "8", "crop": "host"},
            'crop "host" keeps no volumes, gpu_cache 8 is for volumes',
        ),
        ("dali", {"read": "disk"}, "unknown read 'disk'; known: mmap, dali, gds"),
        ("dali", {"read": "dali", "crop": "device"}, 'read "dali" reads patches, crop "device" needs volumes'),
        ("dali", {"read": "dali", "gpu_cache": "8"}, 'read "dali" reads patches, gpu_cache 8 is for volumes; drop one'),
        ("torch", {"crop": "device"}, 'crop "device" is for the loader dali, this one is torch; leave it out'),
        ("monai", {"read": "dali"}, 'read "dali" is for the loader dali, this one is monai; leave it out'),
        ("synthetic", {"gpu_cache": "0"}, 'gpu_cache "0" is for the loader dali, this one is synthetic; leave it out'),
        ("dali", {"read": "gds"}, 'read "gds" reads into a GPU, the device is "cpu"; take read "dali" or "mmap"'),
        ("dali", {"device": "cuda"}, "unknown device 'cuda'; known: cpu, and gpu for the current CUDA device"),
        ("dali", {"batch_size": 0}, "batch_size is 0"),
        ("dali", {"foreground": 2.0}, "foreground is 2"),
        ("dali", {"cases": ("nobody",)}, "no case 'nobody'"),
        ("dali", {"cases": ()}, "cases is empty; name at least one case, or pass None for every labelled one"),
        ("torch", {"cases": ("case_001", "case_003", "case_001")}, "case case_001: is listed twice among the 3 cases"),
    ],
)
def test_wrong_settings_are_one_clear_line(
    coordinate_store: Path, name: str, changes: dict[str, object], message: str
) -> None:
    def use() -> None:
        with build_loader(name, config_for(coordinate_store, **changes)) as loader:
            next(iter(loader))

    with pytest.raises(InputError, match=message):
        use()


@pytest.mark.parametrize(("gpu_cache", "where"), [("auto", "host"), ("0", "host"), ("0.5", "device")])
def test_memory_that_is_given_for_volumes_is_used(coordinate_store: Path, gpu_cache: str, where: str) -> None:
    config = config_for(coordinate_store, gpu_cache=gpu_cache)
    assert config.where_to_crop == where
    with build_loader("dali", config) as loader:
        assert isinstance(loader, DaliLoader)
        assert isinstance(loader.slots, {"host": HostPatches, "device": DevicePatches}[where])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("loader_name", list(LOADERS))
def test_a_gpu_that_is_not_there_is_one_clear_line(coordinate_store: Path, loader_name: str) -> None:
    with pytest.raises(InputError, match=r'device "gpu": torch finds no CUDA device here; use device "cpu"'):
        build_loader(loader_name, config_for(coordinate_store, device="gpu"))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("settings", [{}, {"crop": "host"}], ids=["pool", "host path"])
@pytest.mark.parametrize("augment", ["basic", "full"])
def test_a_warm_loader_never_waits_for_the_gpu(coordinate_store: Path, augment: str, settings: dict[str, Any]) -> None:
    """The next batch comes while the model still works on the last one; torch alone sees only its own waits."""
    config = config_for(coordinate_store, augment=augment, device="gpu", samples_per_case=40, **settings)
    made = []
    with build_loader("dali", config) as loader:
        batches = iter(loader)
        for _ in range(20 if augment == "basic" else 60):  # loading a kernel waits: all have to have run once
            next(batches).image.sum()
        torch.cuda._sleep(1)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        try:
            torch.cuda.set_sync_debug_mode("error")
            for _ in range(6):  # more than the loader has slots
                torch.cuda._sleep(QUARTER_SECOND)  # type: ignore[no-untyped-call]  # the model
                modelled = torch.cuda.current_stream().record_event()
                made.append(next(batches).image.sum())
                assert not modelled.query()
                modelled.synchronize()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(total) for total in made)


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"crop": "host"}], ids=["pool", "host path"])
def test_closing_waits_for_what_still_reads_the_buffers(coordinate_store: Path, settings: dict[str, Any]) -> None:
    with build_loader("dali", config_for(coordinate_store, device="gpu", **settings)) as loader:
        batches = iter(loader)
        next(batches)
        torch.cuda._sleep(QUARTER_SECOND)  # type: ignore[no-untyped-call]
        next(batches)
    assert torch.cuda.current_stream().query()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("settings", [{}, {"crop": "host"}, {"read": "dali"}], ids=["pool", "host path", "reader"])
def test_the_threads_of_a_loader_are_on_its_gpu(coordinate_store: Path, settings: dict[str, Any]) -> None:
    with (
        torch.cuda.device(1),
        build_loader("dali", config_for(coordinate_store, device="gpu", **settings)) as loader,
    ):
        assert isinstance(loader, DaliLoader)
        next(iter(loader))
        assert loader.slots._threads.submit(torch.cuda.current_device).result() == 1


@pytest.mark.gpu
def test_batches_lie_on_the_gpu_in_channels_last(coordinate_store: Path) -> None:
    with build_loader("dali", config_for(coordinate_store, device="gpu")) as loader:
        for batch in loader:
            assert batch.image.is_cuda
            assert batch.label.is_cuda
            assert batch.image.contiguous(memory_format=torch.channels_last_3d).data_ptr() == batch.image.data_ptr()


def test_a_patch_larger_than_memory_is_refused(coordinate_store: Path) -> None:
    config = LoaderConfig(store=coordinate_store, patch=(4000, 4000, 4000), batch_size=2)
    with pytest.raises(InputError, match=r"needs about .* GiB, .* GiB are free"):
        build_loader("dali", config)


def test_a_batch_larger_than_memory_is_refused_with_both_numbers() -> None:
    check_memory((128, 128, 128), 4, 2, 2, available_bytes=2**30)
    with pytest.raises(InputError, match=r"patch 128,128,128 with batch size 2 and 4 channels .* 0\.4 GiB, 0\.1 GiB"):
        check_memory((128, 128, 128), 4, 2, 2, available_bytes=2**30 // 10)
    with pytest.raises(InputError, match="lower --patch or --batch-size"):
        check_memory((2**21, 2**21, 2**21), 4, 2, 2, available_bytes=2**40)


def test_loader_is_a_loader(coordinate_store: Path) -> None:
    for name in LOADERS:
        with build_loader(name, config_for(coordinate_store)) as loader:
            assert isinstance(loader, Loader)
