"""``--augment full``: every DALI operation against its numpy twin, then whole samples, also of a real case."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import pipeline_def
from scipy import stats

from pipelines.augment import in_dali as dali
from pipelines.augment import in_numpy as reference
from pipelines.augment.placement import Placement, place
from pipelines.batch import Batch
from pipelines.config import LoaderConfig
from pipelines.dali.graph import GraphOptions, normalize
from pipelines.dali.inputs import SWITCHES, statistics, switches
from pipelines.loaders import build_loader, open_plan
from pipelines.reference import Intensity
from pipelines.reference import normalize as reference_normalize
from preprocessing.console.errors import InputError
from preprocessing.shards.files import write_manifest
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert
from preprocessing.volumes.grid import Int3
from tests.pipelines.augment.test_augmentation import STILL, moved

Float = npt.NDArray[np.float32]
PATCH: Int3 = (18, 20, 22)
CHANNELS = 3
INTENSITY = {"mean": [300, 410.5], "std": [90, 133.25], "low": [5, 20], "high": [700, 800]}
DEVICES = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


def floats(values: object) -> Float:
    return np.array(values, np.float32)


def run(
    operation: Callable[[DataNode, DataNode], DataNode],
    image: npt.NDArray[Any],
    parameters: npt.NDArray[Any],
    device: str,
) -> npt.NDArray[Any]:
    """Run one operation of the graph on one sample."""

    @pipeline_def(  # type: ignore[call-overload, untyped-decorator]  # DALI's stub is behind: no exec_dynamic, no CPU
        batch_size=1,
        num_threads=1,
        device_id=0 if device == "gpu" else None,
        prefetch_queue_depth=1,
        exec_dynamic=device == "gpu",
        enable_conditionals=True,
    )
    def graph() -> DataNode:
        given = fn.external_source(name="image", layout="DHWC"), fn.external_source(name="parameters")
        return operation(given[0].gpu() if device == "gpu" else given[0], given[1])

    pipeline = graph()
    pipeline.build()
    pipeline.feed_input("image", [image], layout="DHWC")
    pipeline.feed_input("parameters", [parameters])
    (made,) = pipeline.run()
    return np.array(made.as_cpu()[0] if device == "gpu" else made[0])


@pytest.fixture
def image() -> Float:
    """Make tissue with some structure in front of a background of zeros, each channel on its own scale."""
    random = np.random.default_rng(0)
    values = random.standard_normal((*PATCH, CHANNELS)) * [1.0, 0.5, 2.0] + [0.0, 1.0, -1.0]
    values[:, :6] = 0
    return values.astype(np.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("keep_zero", [True, False])
@pytest.mark.parametrize("augment", ["basic", "full"])
def test_the_graph_normalises_alone(keep_zero: bool, augment: str, device: str) -> None:
    """As it does on a GPU, where nothing follows it; negative intensities are foreground too."""
    patch = np.random.default_rng(2).integers(-50, 900, (*PATCH, 2)).astype(np.int16)
    patch[:, :6] = 0
    column = {name: floats(values) for name, values in INTENSITY.items()}
    intensity = Intensity(**column, keep_zero=keep_zero)
    scale, shift = (1.07, -0.06) if augment == "basic" else (1.0, 0.0)
    options = GraphOptions(
        batch_size=1,
        patch=PATCH,
        num_channels=2,
        image_dtype="int16",
        augment=augment,
        dtype="float32",
        keep_zero=keep_zero,
        clips=not keep_zero,
        regions=None,
        device=device,
        raw_patches=False,
        patch_device="cpu",
        num_threads=1,
        prefetch=1,
    )
    made = run(lambda i, p: normalize(i, p, options), patch, statistics(intensity, scale, shift), device)
    wanted = reference_normalize(patch, intensity, scale, shift)
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_brightness_and_contrast(image: Float, device: str) -> None:
    factors = [0.8, 1.25, 1.1]
    made = run(lambda i, p: dali.brightness(i, p, CHANNELS), image, floats(factors), device)
    np.testing.assert_allclose(made, reference.brightness(image, factors), rtol=0, atol=1e-5)
    made = run(lambda i, p: dali.contrast(i, p, CHANNELS), image, floats(factors), device)
    np.testing.assert_allclose(made, reference.contrast(image, factors), rtol=0, atol=1e-5)
    assert made[..., 1].max() == pytest.approx(image[..., 1].max(), abs=1e-6)  # the range stays


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_bends_the_range_and_keeps_the_moments(image: Float, inverted: bool, device: str) -> None:
    exponents = [0.7, 1.0, 1.5]
    made = run(lambda i, p: dali.gamma(i, p, CHANNELS, inverted=inverted), image, floats(exponents), device)
    np.testing.assert_allclose(made, reference.gamma(image, exponents, inverted=inverted), rtol=0, atol=2e-5)
    space = (0, 1, 2)
    np.testing.assert_allclose(made.mean(axis=space), image.mean(axis=space), rtol=0, atol=1e-4)
    np.testing.assert_allclose(made.std(axis=space), image.std(axis=space), rtol=0, atol=1e-4)
    np.testing.assert_allclose(made[..., 1], image[..., 1], rtol=0, atol=2e-5)  # exponent 1
    order = np.argsort(image[..., 2], axis=None)
    assert (np.diff(made[..., 2].ravel()[order]) >= -1e-6).all()  # and it never changes the order of intensities


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_leaves_an_empty_channel_alone(image: Float, inverted: bool, device: str) -> None:
    image[..., 0] = 0
    image[..., 1] = 0.25
    made = run(lambda i, p: dali.gamma(i, p, CHANNELS, inverted=inverted), image, floats([0.7, 1.5, 1.2]), device)
    np.testing.assert_allclose(made[..., :2], image[..., :2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(made, reference.gamma(image, (0.7, 1.5, 1.2), inverted=inverted), rtol=0, atol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_gaussian_blur(image: Float, device: str) -> None:
    sigma = ((0.5, 0.75, 1.0), (0.0, 0.0, 0.0), (1.0, 0.6, 0.9))
    made = run(lambda i, p: dali.gaussian_blur(i, p, CHANNELS), image, floats(sigma), device)
    np.testing.assert_allclose(made, reference.gaussian_blur(image, sigma), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(made[..., 1], image[..., 1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kept", [0.5, 0.6, 0.75, 0.9, 0.99])
def test_low_resolution(image: Float, kept: float, device: str) -> None:
    sizes = floats([reference.low_resolution_size(PATCH, kept), (0, 0, 0), PATCH])
    made = run(lambda i, p: dali.low_resolution(i, p, PATCH, CHANNELS), image, sizes, device)
    np.testing.assert_allclose(made, reference.low_resolution(image, (kept, 1.0, 1.0)), rtol=0, atol=1e-5)


def test_low_resolution_is_torchs() -> None:
    """nnU-Net shrinks with nearest-exact and enlarges with trilinear; no centre lies between two voxels here."""
    ramp = np.random.default_rng(1).standard_normal((15, 21, 25, 1)).astype(np.float32)
    volume = torch.from_numpy(ramp[..., 0])[None, None]
    size = reference.low_resolution_size(ramp.shape[:3], 0.7)
    small = torch.nn.functional.interpolate(volume, size, mode="nearest-exact")
    wanted = torch.nn.functional.interpolate(small, ramp.shape[:3], mode="trilinear")[0, 0].numpy()
    np.testing.assert_allclose(reference.low_resolution(ramp, (0.7,))[..., 0], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_noise_is_normal_the_same_for_all_channels_and_its_own_for_each_seed(image: Float, device: str) -> None:
    seeded = [type(STILL)(**{**vars(STILL), "noise_std": 0.07, "noise_seed": seed}) for seed in (1, 2)]
    noises = [reference.noise_volume(one, PATCH) for one in seeded]
    np.testing.assert_array_equal(noises[0], reference.noise_volume(seeded[0], PATCH))
    assert abs(np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1]) < 0.05
    for noise in noises:
        assert stats.kstest(noise.ravel() / 0.07, "norm").pvalue > 0.01
        assert noise.std() == pytest.approx(0.07, rel=0.03)
    made = run(dali.gaussian_noise, image, noises[0], device)
    np.testing.assert_array_equal(made, reference.gaussian_noise(image, noises[0]))
    np.testing.assert_allclose(made - image, np.repeat(noises[0], CHANNELS, axis=3), rtol=0, atol=1e-6)


def places_of(placement: Placement) -> npt.NDArray[np.float64]:
    """Return the place in the volume, D,H,W in voxels, that each voxel of a moved patch is read from."""
    index = np.stack(np.meshgrid(*(np.arange(side) for side in PATCH), indexing="ij"), axis=-1)
    return np.asarray(index @ placement.matrix[:, :3].T + placement.matrix[:, 3] + placement.start_dhw)


def is_outside(placement: Placement, volume_dhw: Int3) -> npt.NDArray[np.bool_]:
    """Mark the voxels of a moved patch that are read from nowhere near the volume."""
    places = places_of(placement)
    return np.asarray(((places < -1) | (places > np.array(volume_dhw))).any(axis=-1))


MOVES = [
    ((0.0, 0.0, 0.0), 1.0),
    ((0.0, 0.0, 0.0), 0.83),  # 0.8 would put centres half-way between two voxels
    ((0.4, 0.0, 0.0), 1.0),
    ((0.0, -0.3, 0.0), 1.0),
    ((0.0, 0.0, 0.5), 1.0),
    ((0.3, -0.4, 0.5), 1.4),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("angles", "zoom"), MOVES)
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True)])
def test_an_affine_patch_holds_the_coordinates_it_was_sent_to(
    angles: tuple[float, float, float], zoom: float, flips: tuple[bool, bool, bool], device: str
) -> None:
    """Interpolating a coordinate volume gives coordinates: no reference needed. Outside lies what is asked for."""
    volume_dhw, position = (30, 34, 38), (6, 7, 8)
    sample = moved(position, flips, angles, zoom)
    assert sample.augmentation is not None
    placement = place(sample.augmentation, sample.position_dhw, sample.flips_dhw, PATCH, volume_dhw)
    axes = [np.arange(side, dtype=np.float32) for side in volume_dhw]
    volume = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    box = volume[tuple(slice(a, a + n) for a, n in zip(placement.start_dhw, placement.shape_dhw, strict=True))]
    matrix = dali.to_xyz(placement.matrix)
    outside = floats([-7.0, 0.5, 90.0])
    given = np.vstack([matrix, [*outside, 0]]).astype(np.float32)
    box = np.ascontiguousarray(box)
    made = run(lambda i, p: dali.affine(i, p[0:3], PATCH, p[3, 0:3], CHANNELS), box, given, device)
    background = run(lambda i, p: dali.affine(i, p, PATCH, None, CHANNELS), box, matrix, device)

    middle = (np.array(PATCH) - 1) / 2
    place_dhw = places_of(placement)
    inside = ((place_dhw >= 0) & (place_dhw <= np.array(volume_dhw) - 1)).all(axis=-1)
    assert inside.mean() > 0.7
    np.testing.assert_allclose(made[inside], place_dhw[inside], rtol=0, atol=1e-3)
    np.testing.assert_allclose(place_dhw.mean(axis=(0, 1, 2)), middle + position, rtol=0, atol=1e-9)  # same centre
    far = is_outside(placement, volume_dhw)
    for values, fill in ((made, outside), (background, floats([0, 0, 0]))):
        np.testing.assert_allclose(values[far], np.broadcast_to(fill, values[far].shape), rtol=0, atol=1e-5)
        np.testing.assert_allclose(values, reference.affine(box, placement.matrix, PATCH, fill), rtol=0, atol=1e-2)

    label = (box.sum(axis=-1, keepdims=True) % 4).astype(np.uint8)
    nearest = run(lambda i, p: dali.affine_nearest(i, p, PATCH), label, matrix, device)
    different = nearest != reference.affine_nearest(label, placement.matrix, PATCH)
    assert different.mean() < 2e-3  # centres that rounding puts on either side of half-way


# Whole samples ----------------------------------------------------------------------------------------------------


def assert_close(left: Batch, right: Batch) -> set[str]:
    """Compare a DALI batch with the numpy one; returns the names of the operations that fired."""
    assert list(left.samples) == list(right.samples)
    fired: set[str] = set()
    for index, sample in enumerate(left.samples):
        assert sample.augmentation is not None
        names = {name for name, fires in zip(SWITCHES, switches(sample.augmentation), strict=True) if fires}
        error = (left.image[index].cpu() - right.image[index]).abs()
        assert float(error.max()) < (2e-3 if "spatial" in names else 2e-4), (names, float(error.max()))
        assert float(error.mean()) < 5e-5, (names, float(error.mean()))
        different = (left.label[index].cpu() != right.label[index]).float().mean()
        assert float(different) <= (2e-3 if "spatial" in names else 0), names
        fired |= names
    return fired


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("source", [{"crop": "host"}, {"crop": "device"}, {"read": "dali"}])
@pytest.mark.parametrize("regions", [False, True])
def test_full_samples_are_the_references(
    coordinate_store: Path, regions: bool, source: dict[str, Any], device: str
) -> None:
    config = LoaderConfig(
        store=coordinate_store,
        patch=(12, 14, 16),
        samples_per_case=8,
        num_workers=0,
        augment="full",
        regions=regions,
        device=device,
    )
    fired: set[str] = set()
    with build_loader("dali", dataclasses.replace(config, **source)) as left, build_loader("torch", config) as right:
        for made, wanted in zip(left, right, strict=True):
            fired |= assert_close(made, wanted)
    assert fired == set(SWITCHES)


def test_full_samples_of_thick_voxels_are_the_references(coordinate_store: Path, tmp_path: Path) -> None:
    """Where voxels are more than three times as long along H, patches turn about H only, and H keeps its resolution."""
    root = shutil.copytree(coordinate_store, tmp_path / "thick")
    for index in root.glob("*/index.json"):
        shard = json.loads(index.read_text())
        for case in shard["cases"]:
            case["spacing_mm"] = [1.0, 4.0, 1.0]
        index.write_text(json.dumps(shard))
    config = LoaderConfig(store=root, patch=(12, 14, 16), samples_per_case=8, num_workers=0, augment="full")
    fired: set[str] = set()
    with build_loader("dali", config) as left, build_loader("torch", config) as right:
        for made, wanted in zip(left, right, strict=True):
            fired |= assert_close(made, wanted)
            assert {sample.augmentation and sample.augmentation.thick_axis for sample in made.samples} == {1}
    assert fired == set(SWITCHES)


@pytest.mark.parametrize("crop", ["host", "device"])
def test_a_case_of_a_narrower_dtype_moves_too(coordinate_store: Path, tmp_path: Path, crop: str) -> None:
    """Its mapped volume cannot go into a batch of the store's dtype, so what is read is copied and converted."""
    root = shutil.copytree(coordinate_store, tmp_path / "mixed")
    stored = open_store(root)
    assert stored.manifest.image_dtype == "uint8"
    write_manifest(root, dataclasses.replace(stored.manifest, image_dtype="int16"))
    config = LoaderConfig(store=root, patch=(12, 14, 16), samples_per_case=4, num_workers=0, augment="full")
    fired: set[str] = set()
    with build_loader("dali", dataclasses.replace(config, crop=crop)) as left, build_loader("torch", config) as right:
        for made, wanted in zip(left, right, strict=True):
            fired |= assert_close(made, wanted)
    assert "spatial" in fired


@pytest.mark.parametrize("loader_name", ["dali", "torch"])
def test_what_lies_outside_a_moved_ct_volume_is_air_as_where_it_is_not_moved(
    coordinate_store: Path, tmp_path: Path, loader_name: str
) -> None:
    """What a raw zero becomes, per channel: a zero after standardising would be the mean of the tissue."""
    root = shutil.copytree(coordinate_store, tmp_path / "ct")
    store = open_store(root)
    channels = [dataclasses.replace(channel, percentile_00_5=-9.0) for channel in store.manifest.channels]
    channels[0] = dataclasses.replace(channels[0], percentile_00_5=2.0)
    write_manifest(root, dataclasses.replace(store.manifest, modality="ct", channels=channels))
    air = [(max(0.0, channel.percentile_00_5) - channel.mean) / channel.std for channel in channels]
    config = LoaderConfig(store=root, patch=PATCH, samples_per_case=12, num_workers=0, augment="full", foreground=0.0)
    only_moved = np.arange(len(SWITCHES)) == SWITCHES.index("spatial")
    num_outside = 0
    with build_loader(loader_name, config) as loader:
        for batch in loader:
            for image, sample in zip(batch.image, batch.samples, strict=True):
                assert sample.augmentation is not None
                if np.array_equal(switches(sample.augmentation), only_moved):
                    volume_dhw = store.case(sample.case_id).shape_dhw
                    far = is_outside(
                        place(sample.augmentation, sample.position_dhw, sample.flips_dhw, PATCH, volume_dhw), volume_dhw
                    )
                    wanted = torch.tensor(air)[:, None].expand(-1, int(far.sum())).float()
                    torch.testing.assert_close(image[:, torch.from_numpy(far)], wanted, rtol=0, atol=1e-5)
                    num_outside += int(far.sum())
    assert num_outside > 1000


def test_dalis_reader_refuses_a_case_of_a_narrower_dtype(coordinate_store: Path, tmp_path: Path) -> None:
    root = shutil.copytree(coordinate_store, tmp_path / "mixed")
    write_manifest(root, dataclasses.replace(open_store(root).manifest, image_dtype="int16"))
    with (
        build_loader("dali", LoaderConfig(store=root, patch=(12, 14, 16), read="dali")) as loader,
        pytest.raises(InputError, match=r"stored as uint8, the store as int16, .* cannot convert; take --read mmap"),
    ):
        next(iter(loader))


def test_samples_that_only_flip_are_those_of_none(coordinate_store: Path) -> None:
    """What fires nothing is the standardised patch itself, bit by bit what numpy makes of it within 1e-5."""
    settings: dict[str, Any] = {"store": coordinate_store, "patch": (12, 14, 16), "samples_per_case": 24}
    still = 0
    with (
        build_loader("dali", LoaderConfig(**settings, augment="full")) as full,
        build_loader("dali", LoaderConfig(**settings, augment="none")) as none,
    ):
        for left, right in zip(full, none, strict=True):
            for index, sample in enumerate(left.samples):
                if sample.augmentation is None or any(switches(sample.augmentation)):
                    continue
                axes = [1 + axis for axis, reverse in enumerate(sample.flips_dhw) if reverse]
                torch.testing.assert_close(left.image[index], right.image[index].flip(axes), rtol=0, atol=1e-5)
                assert torch.equal(left.label[index], right.label[index].flip(axes))
                still += 1
    assert still > 3


def test_full_is_resumed_exactly(coordinate_store: Path) -> None:
    config = LoaderConfig(store=coordinate_store, patch=(12, 14, 16), samples_per_case=4, augment="full")
    with build_loader("dali", config) as loader:
        whole, states = [], []
        states.append(loader.state_dict())
        for batch in loader:
            whole.append(batch)
            states.append(loader.state_dict())
    for step in (1, len(whole) // 2):
        with build_loader("dali", config) as loader:
            loader.load_state_dict(states[step])
            for left, right in zip(loader, whole[step:], strict=True):
                assert torch.equal(left.image, right.image)
                assert torch.equal(left.label, right.label)


@pytest.mark.data
def test_full_on_a_real_case(real_data: Path, tmp_path: Path) -> None:
    assert convert(Options(input=real_data / "Task01_BrainTumour", output=tmp_path / "S", workers=1)) == 0
    case = open_store(tmp_path / "S").labelled_ids[0]
    config = LoaderConfig(
        store=tmp_path / "S",
        cases=(case,),
        patch=(40, 48, 32),
        samples_per_case=24,
        num_workers=0,
        augment="full",
        foreground=1.0,
    )
    fired: set[str] = set()
    with build_loader("dali", config) as left, build_loader("torch", config) as right:
        for made, wanted in zip(left, right, strict=True):
            fired |= assert_close(made, wanted)
    assert fired == set(SWITCHES)
    assert open_plan(config)[1].num_channels == 4
