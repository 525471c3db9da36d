"""nnU-Net's list as numbers: how often each entry fires, its ranges, and where a moved patch lies."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.augment.in_numpy import low_resolution_size
from pipelines.augment.parameters import Augmentation, draw_augmentation, num_words
from pipelines.augment.placement import place, rotation
from pipelines.plan import Plan, PlanOptions, Sample
from preprocessing.volumes.grid import Int3
from tests.pipelines.test_plan import Volume, Volumes, plan_of

CHANNELS = 3
NAMES = ("blur_sigma", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma")


def drawn(count: int) -> list[Augmentation]:
    plan = Plan(
        Volumes({"A": Volume((8, 9, 10))}),
        ["A"],
        PlanOptions(seed=3, global_batch=1, patch=(4, 4, 4), samples_per_case=count, augment="full"),
        CHANNELS,
    )
    made = [plan.sample(0, step, 0).augmentation for step in range(count)]
    return [augmentation for augmentation in made if augmentation is not None]


@pytest.fixture(scope="module")
def many() -> list[Augmentation]:
    return drawn(4000)


def test_each_operation_fires_as_often_as_in_nnunet(many: list[Augmentation]) -> None:
    fired = Counter(name for one in many for name in NAMES if getattr(one, name))
    fired["rotation"] = sum(any(one.rotation_rad) for one in many)
    fired["zoom"] = sum(one.zoom != 1 for one in many)
    fired["noise"] = sum(one.noise_std > 0 for one in many)
    fired["blurred channels"] = sum(sigma[0] > 0 for one in many for sigma in one.blur_sigma)
    fired["coarse channels"] = sum(share < 1 for one in many for share in one.low_resolution)
    wanted = {
        "rotation": 0.2,
        "zoom": 0.2,
        "noise": 0.1,
        "blur_sigma": 0.2,
        "blurred channels": 0.2 * 0.5 * CHANNELS,
        "brightness": 0.15,
        "contrast": 0.15,
        "low_resolution": 0.25,
        "coarse channels": 0.25 * 0.5 * CHANNELS,
        "gamma_inverted": 0.1,
        "gamma": 0.3,
    }
    assert {name: fired[name] / len(many) for name in wanted} == pytest.approx(wanted, abs=0.035)


def test_parameters_fill_their_ranges_and_are_drawn_apart(many: list[Augmentation]) -> None:
    angles = np.array([one.rotation_rad for one in many if any(one.rotation_rad)])
    found = {
        "angle": np.degrees(angles).ravel(),
        "zoom": np.array([one.zoom for one in many if one.zoom != 1]),
        "noise": np.array([one.noise_std for one in many if one.noise_std > 0]),
        "sigma": np.array([value for one in many for row in one.blur_sigma if row[0] > 0 for value in row]),
        "brightness": np.ravel([one.brightness for one in many if one.brightness]),
        "contrast": np.ravel([one.contrast for one in many if one.contrast]),
        "kept": np.array([share for one in many for share in one.low_resolution if share < 1]),
        "gamma": np.ravel([one.gamma for one in many if one.gamma]),
    }
    limits = {
        "angle": (-30, 30),
        "zoom": (0.7, 1.4),
        "noise": (0, 0.1),
        "sigma": (0.5, 1),
        "brightness": (0.75, 1.25),
        "contrast": (0.75, 1.25),
        "kept": (0.5, 1),
        "gamma": (0.7, 1.5),
    }
    for name, (low, high) in limits.items():
        margin = 0.03 * (high - low)
        assert low <= found[name].min() < low + margin, name
        assert high - margin < found[name].max() <= high, name
    assert np.mean(found["gamma"] < 1) == pytest.approx(0.5, abs=0.05)  # below 1 as often as above
    assert np.abs(np.corrcoef(angles.T) - np.eye(3)).max() < 0.15
    assert len({one.noise_seed for one in many}) == len(many)


@pytest.mark.parametrize(
    ("spacing_mm", "thick"),
    [((1.0, 1.0, 1.0), None), ((3.0, 1.0, 1.0), None), ((3.1, 1.0, 1.0), 0), ((0.5, 0.6, 2.0), 2)],
)
def test_thick_voxels_turn_and_shrink_in_their_plane_only(
    spacing_mm: tuple[float, float, float], thick: int | None
) -> None:
    """nnU-Net's dummy 2D: any angle about the thick axis, no zoom and no lower resolution along it."""
    plan = plan_of([Volume((40, 40, 40), spacing_mm=spacing_mm)], samples_per_case=1000, augment="full")
    samples = [plan.sample(0, step, 0) for step in range(1000)]
    largest, shrunken = np.zeros(3), set()
    for sample in samples:
        made = sample.augmentation
        assert made is not None
        assert made.thick_axis == thick
        largest = np.maximum(largest, np.abs(made.rotation_rad))
        shrunken |= {low_resolution_size((40, 40, 40), share, thick) for share in made.low_resolution}
        if thick is not None:
            across = place(made, sample.position_dhw, sample.flips_dhw, (4, 4, 4), (40, 40, 40)).matrix[:, :3]
            assert np.abs(across[thick]).tolist() == [float(axis == thick) for axis in range(3)]
            assert np.abs(across[:, thick]).tolist() == [float(axis == thick) for axis in range(3)]
    if thick is None:
        assert np.degrees(largest) == pytest.approx([30, 30, 30], abs=1)
    else:
        assert np.degrees(largest) == pytest.approx([180 * (axis == thick) for axis in range(3)], abs=3)
        assert {sides[thick] for sides in shrunken} == {40}
    assert {sides[1] for sides in shrunken} > {20, 30, 40}


def test_channels_do_not_change_each_other() -> None:
    """More channels add parameters at the end; those of the first ones and of the sample stay."""
    words = np.random.default_rng(0).random(num_words(5))
    words[9:15] = 0  # everything per channel fires
    few, more = draw_augmentation(words[: num_words(2)], 7), draw_augmentation(words, 7)
    assert (few.rotation_rad, few.zoom, few.noise_std) == (more.rotation_rad, more.zoom, more.noise_std)
    for name in NAMES:
        assert getattr(more, name)[:2] == getattr(few, name)
        assert len(getattr(more, name)) == 5


def test_full_keeps_cases_positions_and_flips_of_basic() -> None:
    full, basic = plan_of(4, augment="full"), plan_of(4)
    for step, lane in itertools.product(range(full.steps_per_epoch), range(2)):
        left, right = full.sample(1, step, lane), basic.sample(1, step, lane)
        for name in ("case_id", "position_dhw", "flips_dhw"):
            assert getattr(left, name) == getattr(right, name)
        assert (left.scale, left.shift) == (1.0, 0.0)
        assert left.augmentation is not None
        assert right.augmentation is None


GOLDEN = [
    Augmentation(
        rotation_rad=(0.09075807931740264, -0.38213490751940066, 0.46069332358467435),
        zoom=1.0,
        noise_std=0.0016091612111371557,
        noise_seed=7122065883438143982,
        blur_sigma=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.6687467974044551, 0.6640973413246467, 0.5479089834196805)),
        brightness=(1.0855131887651868, 1.1303068174113788, 1.1003966679395887),
        contrast=(),
        low_resolution=(),
        gamma_inverted=(),
        gamma=(1.02778207612633, 0.8959620083690287, 1.1289813524688617),
    ),
    Augmentation(
        rotation_rad=(0.0, 0.0, 0.0),
        zoom=1.1226796186282662,
        noise_std=0.0,
        noise_seed=16517907234193085817,
        blur_sigma=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.8969836220892631, 0.6823106602113506, 0.7590616146480362)),
        brightness=(),
        contrast=(),
        low_resolution=(0.5442588983562286, 0.8750608170937951, 1.0),
        gamma_inverted=(),
        gamma=(),
    ),
]
STILL = Augmentation(
    rotation_rad=(0.0, 0.0, 0.0),
    zoom=1.0,
    noise_std=0.0,
    noise_seed=0,
    blur_sigma=(),
    brightness=(),
    contrast=(),
    low_resolution=(),
    gamma_inverted=(),
    gamma=(),
)


def test_the_stream_of_full_stays_as_it_is() -> None:
    """Checkpoints resume on later versions: whoever changes these numbers has to raise STATE_VERSION."""
    assert [one for one in drawn(12) if one.blur_sigma and one.is_spatial] == GOLDEN


# Where a moved patch lies -----------------------------------------------------------------------------------------

SIDES = st.tuples(*[st.integers(1, 12)] * 3)


def moved(position: Int3, flips: tuple[bool, bool, bool], angles: tuple[float, float, float], zoom: float) -> Sample:
    made = Augmentation(**{**vars(STILL), "rotation_rad": angles, "zoom": zoom})
    return Sample(
        epoch=0,
        step=0,
        lane=0,
        case_id="A",
        position_dhw=position,
        flips_dhw=flips,
        scale=1.0,
        shift=0.0,
        augmentation=made,
    )


@given(
    st.data(),
    SIDES,
    SIDES,
    st.tuples(*[st.booleans()] * 3),
    st.tuples(*[st.floats(-0.53, 0.53)] * 3),
    st.floats(0.7, 1.4),
)
def test_the_box_holds_all_that_the_matrix_reads(
    data: st.DataObject,
    patch: Int3,
    volume: Int3,
    flips: tuple[bool, bool, bool],
    angles: tuple[float, float, float],
    zoom: float,
) -> None:
    """Every voxel that interpolation touches is in the box or outside the volume, and the box is in the volume."""
    spans = [sorted((0, size - side)) for size, side in zip(volume, patch, strict=True)]
    position = (
        data.draw(st.integers(*spans[0])),
        data.draw(st.integers(*spans[1])),
        data.draw(st.integers(*spans[2])),
    )
    sample = moved(position, flips, angles, zoom)
    assert sample.augmentation is not None
    placement = place(sample.augmentation, sample.position_dhw, sample.flips_dhw, patch, volume)
    start, shape = np.array(placement.start_dhw), np.array(placement.shape_dhw)
    assert (start >= 0).all()
    assert (shape >= 1).all()
    assert (start + shape <= volume).all()
    voxels = np.stack(np.meshgrid(*(np.arange(side) for side in patch), indexing="ij"), axis=-1).reshape(-1, 3)
    places = voxels @ placement.matrix[:, :3].T + placement.matrix[:, 3] + start
    for touched in (np.floor(places + 1e-9), np.ceil(places - 1e-9)):
        inside = ((touched >= 0) & (touched < volume)).all(axis=1)
        assert ((touched >= start) & (touched < start + shape))[inside].all()


@given(SIDES, st.tuples(*[st.booleans()] * 3))
def test_a_patch_that_only_flips_maps_voxels_onto_voxels(patch: Int3, flips: tuple[bool, bool, bool]) -> None:
    sample = moved((3, 4, 5), flips, (0.0, 0.0, 0.0), 1.0)
    assert sample.augmentation is not None
    placement = place(sample.augmentation, sample.position_dhw, sample.flips_dhw, patch, (40, 40, 40))
    assert placement.start_dhw == (3, 4, 5)
    assert placement.shape_dhw == patch
    first = placement.matrix[:, 3]
    assert first.tolist() == pytest.approx([side - 1 if flip else 0 for side, flip in zip(patch, flips, strict=True)])


def test_the_example_of_the_module_is_true() -> None:
    sample = moved((10, 0, 0), (False, False, False), (0.0, 0.0, 0.0), 1.4)
    assert sample.augmentation is not None
    placement = place(sample.augmentation, sample.position_dhw, sample.flips_dhw, (5, 1, 1), (40, 1, 1))
    assert (placement.start_dhw[0], placement.shape_dhw[0]) == (9, 7)


def test_rotations_turn_by_their_angle_about_their_axis() -> None:
    for axis in range(3):
        angles = [0.0, 0.0, 0.0]
        angles[axis] = math.radians(25)
        turn = rotation(moved((0, 0, 0), (False,) * 3, (angles[0], angles[1], angles[2]), 1.0).augmentation or STILL)
        assert np.linalg.det(turn) == pytest.approx(1)
        assert turn[axis, axis] == pytest.approx(1)
        assert math.degrees(math.acos((np.trace(turn) - 1) / 2)) == pytest.approx(25)
    together = rotation(moved((0, 0, 0), (False,) * 3, (0.1, 0.2, 0.3), 1.0).augmentation or STILL)
    np.testing.assert_allclose(together @ together.T, np.eye(3), atol=1e-12)
