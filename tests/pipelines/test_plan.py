"""The plan's promises: coverage, equal lanes, independence of the world size, positions in bounds, exact resume."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.plan import (
    AUGMENTS,
    DRAWS,
    STREAM_CASES,
    STREAM_SAMPLE,
    STREAM_WINDOW,
    Plan,
    PlanOptions,
    Sample,
    check_state,
    random_words,
    unit,
)
from preprocessing.console.errors import InputError
from preprocessing.shards.store import open_store
from preprocessing.volumes.grid import Int3


@dataclass(frozen=True)
class Volume:
    """What the plan needs of a case: its shape and its labelled voxels."""

    shape_dhw: Int3
    labelled: dict[int, list[Int3]] = field(default_factory=dict)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def foreground(self) -> dict[int, npt.NDArray[np.uint16]]:
        return {number: np.array(voxels, np.uint16).reshape(-1, 3) for number, voxels in self.labelled.items()}


@dataclass(frozen=True)
class Volumes:
    """A store without files."""

    cases: dict[str, Volume]

    def case(self, case_id: str) -> Volume:
        return self.cases[case_id]


def plan_of(volumes: list[Volume] | int, **options: Any) -> Plan:
    """Plan over cases A, B, C ... (a number makes that many small volumes without labels)."""
    made = [Volume((8, 9, 10))] * volumes if isinstance(volumes, int) else volumes
    named = {chr(ord("A") + number): volume for number, volume in enumerate(made)}
    settled: dict[str, Any] = {"seed": 0, "global_batch": 2, "patch": (4, 4, 4)} | options
    return Plan(Volumes(named), list(named), PlanOptions(**settled))


def lane_of(plan: Plan, lane: int, epoch: int = 0) -> list[str]:
    return [plan.sample(epoch, step, lane).case_id for step in range(plan.steps_per_epoch)]


SHAPES = st.tuples(*[st.integers(1, 9)] * 3)


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    """Draw a volume with up to three labels, one of which may have no voxel."""
    shape = draw(SHAPES)
    voxel = st.tuples(*[st.integers(0, side - 1) for side in shape])
    return Volume(shape, draw(st.dictionaries(st.integers(1, 3), st.lists(voxel, max_size=4), max_size=3)))


PLANS = st.builds(
    plan_of,
    st.lists(volumes(), min_size=1, max_size=9),
    seed=st.integers(0, 2**63 - 1),
    global_batch=st.integers(1, 16),  # more lanes than cases too: some ranks then read only cases of others
    patch=SHAPES,
    samples_per_case=st.integers(1, 8),
    window=st.integers(1, 6),
    foreground=st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)),
    augment=st.sampled_from(AUGMENTS),
    sticky=st.booleans(),
)
EPOCHS = st.integers(0, 2**40)


# Which case -------------------------------------------------------------------------------------------------------


@given(PLANS, EPOCHS)
def test_an_epoch_deals_every_case_to_lanes_of_one_length(plan: Plan, epoch: int) -> None:
    options = plan.options
    lanes = [lane_of(plan, lane, epoch) for lane in range(options.global_batch)]
    cards = Counter(itertools.chain.from_iterable(lanes))
    assert set(cards) == set(plan.case_ids)
    per_lane = -(-len(plan.case_ids) // options.global_batch)
    assert {len(lane) for lane in lanes} == {per_lane * options.samples_per_case}
    assert all(count % options.samples_per_case == 0 for count in cards.values())
    assert max(cards.values()) - min(cards.values()) <= options.samples_per_case  # dealt again from the front


@given(PLANS, EPOCHS)
def test_a_lane_mixes_a_window_of_cases_and_finishes_it(plan: Plan, epoch: int) -> None:
    per_case, window = plan.options.samples_per_case, plan.options.window
    for lane in range(plan.options.global_batch):
        cases = lane_of(plan, lane, epoch)
        for first in range(0, len(cases), window * per_case):
            part = cases[first : first + window * per_case]
            assert all(count % per_case == 0 for count in Counter(part).values())
            assert len(set(part)) <= window


def test_cases_that_fill_the_lanes_are_read_by_one_lane_each() -> None:
    plan = plan_of(6, global_batch=3, samples_per_case=2)
    lanes = [set(lane_of(plan, lane)) for lane in range(3)]
    assert [len(lane) for lane in lanes] == [2, 2, 2]
    assert set.union(*lanes) == set("ABCDEF")


def test_the_example_of_the_module_is_true() -> None:
    """Five cases over two lanes: the sixth card is the first one again, and it is in the last place of lane 1."""
    plan = plan_of(5, samples_per_case=2, window=2)
    left, right = lane_of(plan, 0), lane_of(plan, 1)
    assert [len(set(part)) for part in (left[:4], left[4:], right[:4], right[4:])] == [2, 1, 2, 1]
    assert set(left) | set(right[:4]) == set("ABCDE")
    assert set(right[4:]) < set(left[:4])


def test_one_case_and_more_lanes_than_cases_are_enough() -> None:
    for num_cases in (1, 3):
        plan = plan_of(num_cases, global_batch=8, samples_per_case=2)
        assert plan.steps_per_epoch == 2
        cards = Counter(sample.case_id for step in range(2) for sample in plan.batch(0, step, range(8)))
        assert len(cards) == num_cases
        assert sum(cards.values()) == 16


def test_epochs_and_seeds_order_the_cases_anew() -> None:
    orders = {tuple(lane_of(plan_of(8, global_batch=1, seed=seed), 0, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6


def test_every_case_comes_first_as_often() -> None:
    plan = plan_of(4, global_batch=1, samples_per_case=1, window=1)
    first = Counter(plan.sample(epoch, 0, 0).case_id for epoch in range(800))
    assert all(abs(count - 200) < 50 for count in first.values())  # four standard deviations


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**63 - 1))
def test_sticky_cases_stay_in_their_lane_for_ever(num_cases: int, lanes: int, seed: int) -> None:
    """Every lane has its own, all of them together are all cases, and no lane ever draws another one's."""
    plan = plan_of(num_cases, global_batch=lanes, samples_per_case=1, sticky=True, seed=seed)
    own = [plan.cases_of([lane]) for lane in range(lanes)]
    assert set(itertools.chain.from_iterable(own)) == set(plan.case_ids) == set(plan.cases_of(range(lanes)))
    if num_cases >= lanes:
        assert sum(map(len, own)) == num_cases  # disjoint
        assert max(map(len, own)) - min(map(len, own)) <= 1
    for epoch in range(3):
        assert [set(lane_of(plan, lane, epoch)) for lane in range(lanes)] == [set(cases) for cases in own]


def test_sticky_lanes_are_shuffled_and_what_they_repeat_changes() -> None:
    plan = plan_of(5, samples_per_case=1, sticky=True)
    epochs = [lane_of(plan, 1, epoch) for epoch in range(12)]
    assert len({tuple(epoch) for epoch in epochs}) > 3
    assert len({Counter(epoch).most_common(1)[0] for epoch in epochs}) == 2  # two of its own, each repeated sometimes


def test_cases_that_do_not_stick_may_come_to_any_lane() -> None:
    assert plan_of(5).cases_of([0]) == ("A", "B", "C", "D", "E")


@given(PLANS, EPOCHS, st.data())
def test_a_window_tells_its_cases_in_order_and_their_last_steps(plan: Plan, epoch: int, data: st.DataObject) -> None:
    world_size = data.draw(st.sampled_from([n for n in range(1, 17) if plan.options.global_batch % n == 0]))
    lanes = plan.lanes_of(data.draw(st.integers(0, world_size - 1)), world_size)
    per_window = plan.options.window * plan.options.samples_per_case
    for number in range(-(-plan.steps_per_epoch // per_window)):
        steps = range(number * per_window, min((number + 1) * per_window, plan.steps_per_epoch))
        drawn = [(sample.case_id, step) for step in steps for sample in plan.batch(epoch, step, lanes)]
        told = plan.cases_in_window(epoch, number, lanes)
        assert list(told) == list(dict.fromkeys(case_id for case_id, _ in drawn))
        assert told == dict(drawn)  # the last step wins


def test_a_plan_without_cases_is_refused() -> None:
    with pytest.raises(InputError, match="there is no labelled case to draw patches from"):
        plan_of(0)


# Which rank -------------------------------------------------------------------------------------------------------


@given(PLANS, EPOCHS)
def test_global_batches_do_not_depend_on_the_world_size(plan: Plan, epoch: int) -> None:
    total = plan.options.global_batch
    for step in range(plan.steps_per_epoch):
        whole = plan.batch(epoch, step, range(total))
        assert [sample.lane for sample in whole] == list(range(total))
        for world_size in range(1, total + 1):
            if total % world_size:
                continue
            parts = [plan.batch(epoch, step, plan.lanes_of(rank, world_size)) for rank in range(world_size)]
            assert list(itertools.chain.from_iterable(parts)) == whole


@given(st.integers(1, 32), st.integers(1, 40))
def test_ranks_own_equal_runs_of_lanes_or_are_refused(total: int, world_size: int) -> None:
    plan = plan_of(1, global_batch=total)
    if total % world_size:
        with pytest.raises(InputError, match=f"global batch {total} does not divide over {world_size} ranks"):
            plan.lanes_of(0, world_size)
    else:
        lanes = [list(plan.lanes_of(rank, world_size)) for rank in range(world_size)]
        assert list(itertools.chain.from_iterable(lanes)) == list(range(total))
        assert len({len(part) for part in lanes}) == 1


@given(PLANS, EPOCHS, st.data())
def test_any_sample_is_computed_alone(plan: Plan, epoch: int, data: st.DataObject) -> None:
    """A plan that has run for a while, and one that starts at this sample, say the same."""
    step = data.draw(st.integers(0, plan.steps_per_epoch - 1))
    lane = data.draw(st.integers(0, plan.options.global_batch - 1))
    for earlier in range(step):
        plan.batch(epoch, earlier, range(plan.options.global_batch))
    in_turn = plan.batch(epoch, step, range(plan.options.global_batch))[lane]
    assert Plan(plan.store, plan.case_ids, plan.options).sample(epoch, step, lane) == in_turn


def test_a_late_sample_asks_for_no_more_than_an_early_one(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def counted(*arguments: int) -> npt.NDArray[np.uint64]:
        drawn.append(arguments[-1])
        return random_words(*arguments)

    monkeypatch.setattr("pipelines.plan.random_words", counted)
    for epoch, step in ((0, 0), (10**9, 39)):
        plan = plan_of(20, samples_per_case=4, window=4)
        drawn.clear()
        plan.sample(epoch, step, 1)
        assert sorted(drawn) == [8 if step else 16, 16, 20]  # a window of samples, one sample, the cases


@pytest.mark.parametrize("sticky", [False, True])
def test_up_to_64_ranks_share_48884_cases_fairly(*, sticky: bool) -> None:
    """Every case is read by one rank only, but for those that fill the last step; sticky cases stay on their rank."""
    cases, total = 48_884, 128
    plan = plan_of(cases, global_batch=total, samples_per_case=1, sticky=sticky)
    epochs = [[set(lane_of(plan, lane, epoch)) for lane in range(total)] for epoch in range(1 + sticky)]
    for world_size in (2**power for power in range(7)):
        shares = [plan.lanes_of(rank, world_size) for rank in range(world_size)]
        assert list(itertools.chain.from_iterable(shares)) == list(range(total))
        for lanes in epochs:
            read = [set[str]().union(*lanes[share.start : share.stop]) for share in shares]
            assert set[str]().union(*read) == set(plan.case_ids)
            assert sum(map(len, read)) <= cases + -cases % total
            if sticky:
                assert read == [set(plan.cases_of(share)) for share in shares]


@given(PLANS, EPOCHS)
def test_every_rank_takes_as_many_steps_of_as_many_samples(plan: Plan, epoch: int) -> None:
    """Also a rank that has no case of its own, because there are fewer cases than lanes."""
    total = plan.options.global_batch
    for world_size in (size for size in range(1, total + 1) if total % size == 0):
        for rank in range(world_size):
            lanes = plan.lanes_of(rank, world_size)
            batches = [plan.batch(epoch, step, lanes) for step in range(plan.steps_per_epoch)]
            assert {len(batch) for batch in batches} == {total // world_size}
            assert len({(sample.step, sample.lane) for batch in batches for sample in batch}) == len(lanes) * len(
                batches
            )


@given(st.integers(1, 3), st.integers(4, 16), st.integers(1, 8))
def test_lanes_without_a_case_of_their_own_draw_their_own_patches(cases: int, lanes: int, per_case: int) -> None:
    """The same case on several ranks is not the same patch."""
    plan = plan_of([Volume((40, 40, 40))] * cases, global_batch=lanes, samples_per_case=per_case)
    positions = [sample.position_dhw for step in range(per_case) for sample in plan.batch(0, step, range(lanes))]
    assert len(set(positions)) > 0.8 * len(positions)


# Which patch ------------------------------------------------------------------------------------------------------


def every_sample(plan: Plan, epochs: int = 1) -> list[Sample]:
    return [
        sample
        for epoch in range(epochs)
        for step in range(plan.steps_per_epoch)
        for sample in plan.batch(epoch, step, range(plan.options.global_batch))
    ]


@given(PLANS)
def test_patches_lie_in_the_volume_or_the_volume_in_the_patch(plan: Plan) -> None:
    for sample in every_sample(plan):
        shape = plan.store.case(sample.case_id).shape_dhw
        for position, size, side in zip(sample.position_dhw, shape, plan.options.patch, strict=True):
            if size > side:
                assert 0 <= position <= size - side
            else:
                before, after = -position, side - size + position
                assert 0 <= before <= after <= before + 1  # centred; an odd voxel of padding goes behind


@given(st.lists(volumes(), min_size=1, max_size=4), SHAPES, st.integers(0, 99))
def test_foreground_patches_hold_a_labelled_voxel(cases: list[Volume], patch: Int3, seed: int) -> None:
    plan = plan_of(cases, patch=patch, seed=seed, foreground=1.0)
    for sample in every_sample(plan):
        volume = plan.store.case(sample.case_id)
        voxels = [voxel for found in volume.foreground().values() for voxel in found.tolist()]
        start = sample.position_dhw
        inside = [all(p <= v < p + s for p, v, s in zip(start, voxel, patch, strict=True)) for voxel in voxels]
        assert any(inside) or not voxels


def test_a_foreground_patch_away_from_the_border_is_centred_on_its_voxel() -> None:
    plan = plan_of([Volume((20, 20, 20), {1: [(9, 10, 11)]})], patch=(4, 5, 6), foreground=1.0)
    assert {sample.position_dhw for sample in every_sample(plan)} == {(7, 8, 8)}


def test_rare_labels_are_drawn_as_often_as_common_ones() -> None:
    common = [(d, h, 0) for d in range(30) for h in range(30)]
    plan = plan_of([Volume((30, 30, 30), {1: common, 2: [(15, 15, 29)]})], patch=(3, 3, 3), foreground=1.0)
    samples = every_sample(plan, epochs=50)
    rare = sum(sample.position_dhw[2] == 27 for sample in samples)
    assert len(samples) == 400
    assert abs(rare - 200) < 40  # four standard deviations


def test_by_nnunets_rule_the_last_of_the_batch_are_centred_and_may_reach_beyond_the_far_border() -> None:
    voxels = [(0, 0, 0), (9, 10, 11)]
    plan = plan_of(
        [Volume((10, 11, 12), {-1: voxels})], patch=(4, 4, 4), global_batch=3, foreground=0.33, patch_rule="nnunet"
    )
    centred = {(0, 0, 0), (7, 8, 9)}
    for epoch in range(50):
        for step in range(plan.steps_per_epoch):
            *free, forced = (sample.position_dhw for sample in plan.batch(epoch, step, range(3)))
            assert forced in centred
            assert all(0 <= p <= size - 4 for each in free for p, size in zip(each, (10, 11, 12), strict=True))


def test_by_nnunets_rule_cases_are_drawn_with_replacement_and_pools_know_how_many() -> None:
    plan = plan_of(4, samples_per_case=300, window=2, patch_rule="nnunet")
    counts = Counter(lane_of(plan, 0) + lane_of(plan, 1))
    assert sum(counts.values()) == 1200
    assert all(abs(count - 300) < 60 for count in counts.values())  # four standard deviations
    assert len(plan.cases_in_window(0, 0, [0])) == 4
    assert plan.most_in_window == 600
    with pytest.raises(InputError, match='patch_rule "nnunet" draws from all cases, sticky keeps each in its lane'):
        plan_of(4, patch_rule="nnunet", sticky=True)


def test_by_nnunets_rule_free_patches_are_centred_on_annotated_voxels_where_some_are_ignored() -> None:
    volume = Volume((20, 20, 20), {0: [(5, 6, 7)], 1: [(9, 9, 9)]})
    plan = plan_of([volume], patch=(4, 4, 4), foreground=0.5, patch_rule="nnunet")
    free, forced = (sample.position_dhw for sample in plan.batch(0, 0, range(2)))
    assert (free, forced) == ((3, 4, 5), (7, 7, 7))
    bare = plan_of([Volume((20, 20, 20), {0: [(5, 6, 7)], 1: []})], patch=(4, 4, 4), patch_rule="nnunet")
    assert {sample.position_dhw for sample in bare.batch(0, 0, range(2))} == {(3, 4, 5)}


def test_by_the_usual_rule_lists_of_annotated_voxels_do_not_count() -> None:
    plan = plan_of([Volume((20, 20, 20), {0: [(5, 6, 7)], 1: [(9, 9, 9)]})], patch=(4, 4, 4), foreground=1.0)
    assert {sample.position_dhw for sample in plan.batch(0, 0, range(2))} == {(7, 7, 7)}


def test_by_nnunets_rule_a_volume_smaller_than_the_patch_leaves_margins_on_both_sides() -> None:
    plan = plan_of([Volume((5, 5, 5))], patch=(8, 8, 8), samples_per_case=20, patch_rule="nnunet")
    found = {p for step in range(20) for sample in plan.batch(0, step, range(2)) for p in sample.position_dhw}
    assert found == {-2, -1}


@pytest.mark.parametrize(("patch", "thick"), [((4, 13, 8), 0), ((4, 12, 8), None), ((13, 4, 4), None)])
def test_by_nnunets_rule_the_patch_decides_which_axis_is_thick(patch: Int3, thick: int | None) -> None:
    volume = Volume((20, 20, 20), spacing_mm=(1.0, 9.0, 1.0))
    plan = plan_of([volume], patch=patch, augment="full", patch_rule="nnunet")
    drawn = plan.sample(0, 0, 0).augmentation
    assert drawn is not None
    assert drawn.thick_axis == thick


@pytest.mark.parametrize("foreground", [0.0, 0.25, 1.0])
def test_the_share_of_foreground_patches_is_the_one_asked_for(foreground: float) -> None:
    plan = plan_of([Volume((99, 99, 99), {1: [(0, 0, 0)]})], patch=(4, 4, 4), foreground=foreground)
    samples = every_sample(plan, epochs=50)
    centred = sum(sample.position_dhw == (0, 0, 0) for sample in samples) / len(samples)
    assert abs(centred - foreground) < 0.09  # four standard deviations


def test_uniform_patches_reach_every_position() -> None:
    plan = plan_of([Volume((6, 4, 9))], patch=(4, 4, 4))
    positions = {sample.position_dhw for sample in every_sample(plan, epochs=40)}
    assert positions == set(itertools.product(range(3), [0], range(6)))


# Which augmentation -----------------------------------------------------------------------------------------------


def test_augmentation_is_drawn_within_its_ranges_and_all_of_them() -> None:
    samples = every_sample(plan_of(4), epochs=25)
    assert {sample.flips_dhw for sample in samples} == set(itertools.product([False, True], repeat=3))
    scale, shift = [sample.scale for sample in samples], [sample.shift for sample in samples]
    assert 0.9 <= min(scale) < 0.91 < 1.09 < max(scale) <= 1.1
    assert -0.1 <= min(shift) < -0.09 < 0.09 < max(shift) <= 0.1
    assert abs(np.corrcoef(scale, shift)[0, 1]) < 0.2


def test_no_augmentation_changes_nothing_but_keeps_cases_and_positions() -> None:
    plain, basic = every_sample(plan_of(4, augment="none")), every_sample(plan_of(4))
    for left, right in zip(plain, basic, strict=True):
        assert (left.flips_dhw, left.scale, left.shift) == ((False, False, False), 1.0, 0.0)
        assert (left.case_id, left.position_dhw) == (right.case_id, right.position_dhw)


# Random numbers ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_unit_numbers_are_below_one(words: list[int]) -> None:
    made = unit(np.array([0, 2**64 - 1, *words], np.uint64))
    assert made[0] == 0
    assert ((made >= 0) & (made < 1)).all()


PLACES = st.tuples(
    st.integers(0, 2**63 - 1),
    st.sampled_from([STREAM_CASES, STREAM_WINDOW, STREAM_SAMPLE]),
    st.integers(0, 2**32),
    st.integers(0, 2**32),
)


@given(PLACES, PLACES)
def test_every_place_has_its_own_random_words(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    words = [random_words(*place, DRAWS) for place in (left, right)]  # type: ignore[call-arg]
    assert (left == right) == bool((words[0] == words[1]).any())
    np.testing.assert_array_equal(words[0][:5], random_words(*left, 5))  # type: ignore[call-arg]


GOLDEN_WORDS = [557783106210340059, 203646790848275882, 14778272673066341029]
GOLDEN_SAMPLES = [
    Sample(
        epoch=2,
        step=0,
        lane=1,
        case_id="A",
        position_dhw=(0, 0, 0),
        flips_dhw=(False, False, True),
        scale=1.0457534734310723,
        shift=-0.06944602862981553,
    ),
    Sample(
        epoch=2,
        step=11,
        lane=1,
        case_id="A",
        position_dhw=(6, 16, 26),
        flips_dhw=(True, True, True),
        scale=1.082190072105255,
        shift=0.009735207572427563,
    ),
]


def test_the_stream_stays_as_it_is() -> None:
    """Checkpoints resume on later versions: whoever changes these numbers has to raise STATE_VERSION."""
    assert random_words(7, STREAM_SAMPLE, 2, 5, 3).tolist() == GOLDEN_WORDS
    labelled = Volume((20, 30, 40), {1: [(2, 3, 4)], 2: [(10, 20, 30), (19, 29, 39)]})
    plan = plan_of([labelled] * 5, seed=7, patch=(8, 8, 8))
    assert [plan.sample(2, step, 1) for step in (0, 11)] == GOLDEN_SAMPLES


# Saved states -----------------------------------------------------------------------------------------------------


@given(PLANS, EPOCHS, st.integers(0, 2**40))
def test_a_saved_state_comes_back(plan: Plan, epoch: int, step: int) -> None:
    state = json.loads(json.dumps({"plan": plan.key, "epoch": epoch, "step": step}))
    assert check_state(Plan(plan.store, plan.case_ids, plan.options), state) == (epoch, step)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed = 0, this one has 1"),
        ({"global_batch": 4}, "global_batch = 2, this one has 4"),
        ({"patch": (4, 4, 5)}, r"patch = \[4, 4, 4\], this one has \[4, 4, 5\]"),
        ({"samples_per_case": 3}, "samples_per_case = 4, this one has 3"),
        ({"window": 9}, "window = 4, this one has 9"),
        ({"foreground": 0.25}, "foreground = 0.5, this one has 0.25"),
        ({"augment": "none"}, "augment = 'basic', this one has 'none'"),
        ({"sticky": True}, "sticky = False, this one has True"),
    ],
)
def test_a_state_of_another_plan_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    state = {"plan": plan_of(3).key, "epoch": 1, "step": 2}
    with pytest.raises(InputError, match=f"cannot resume: the saved run has {message}"):
        check_state(plan_of(3, **changes), state)


def test_every_option_is_part_of_the_key() -> None:
    assert {option.name for option in dataclasses.fields(PlanOptions)} < set(plan_of(3).key)


def test_a_state_saved_before_there_were_patch_rules_is_resumed() -> None:
    key = {name: value for name, value in plan_of(3).key.items() if name != "patch_rule"}
    assert check_state(plan_of(3), {"plan": key, "epoch": 1, "step": 2}) == (1, 2)
    with pytest.raises(InputError, match="patch_rule = 'inside', this one has 'nnunet'"):
        check_state(plan_of(3, patch_rule="nnunet"), {"plan": key, "epoch": 1, "step": 2})


def test_other_cases_are_another_plan() -> None:
    state = {"plan": plan_of(3).key, "epoch": 0, "step": 0}
    with pytest.raises(InputError, match="num_cases = 3, this one has 4"):
        check_state(plan_of(4), state)
    plan = plan_of(4)
    renamed = Plan(Volumes({}), ["B", "C", "D"], plan.options)
    with pytest.raises(InputError, match="cases_sha256 = "):
        check_state(renamed, state)
    elsewhere = Plan(Volumes({}), plan_of(3).case_ids, plan.options, store_xxh3="0123")
    with pytest.raises(InputError, match="store_xxh3 = '', this one has '0123'"):
        check_state(elsewhere, state)


@pytest.mark.parametrize("state", [{}, {"plan": {}}, {"epoch": 1, "step": 1}])
def test_what_is_no_state_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot resume: the saved run has state_version = None, this one has 2"):
        check_state(plan_of(3), state)


# Options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 0}, "global_batch is 0; it must be at least 1"),
        ({"samples_per_case": 0}, "samples_per_case is 0; it must be at least 1"),
        ({"window": -1}, "window is -1; it must be at least 1"),
        ({"foreground": 1.5}, "foreground is 1.5; it is a probability between 0 and 1"),
        ({"foreground": float("nan")}, "foreground is nan; it is a probability"),
        ({"patch": (0, 4, 4)}, r"patch is \(0, 4, 4\); every side must be at least 1 voxel"),
        ({"augment": "loud"}, "unknown augment 'loud'; known: none, basic"),
        ({"seed": -1}, "seed is -1; it must be between 0"),
        ({"seed": 2**63}, "it must be between 0"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(3, **changes)


# A real store -----------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(0, 2**63 - 1))
def test_on_a_store_foreground_patches_hold_labelled_voxels(coordinate_store: Path, seed: int) -> None:
    store = open_store(coordinate_store)
    options = PlanOptions(seed=seed, global_batch=2, patch=(3, 3, 3), samples_per_case=1, foreground=1.0)
    for sample in every_sample(Plan(store, store.labelled_ids, options)):
        label = store.case(sample.case_id).label()
        assert label is not None
        assert label[tuple(slice(start, start + 3) for start in sample.position_dhw)].any()
