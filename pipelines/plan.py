"""Decide, for every sample of a run, which case, which patch, which flips and which augmentation: pure numpy.

Randomness is a function of position, not a stream: sample t of epoch e is computed from (seed, e, t) with Philox, in
O(1) and without replay. Loaders only execute what stands here, so any two of them can be compared voxel by voxel and
resuming is exact.

The global batch has G slots, called lanes. An epoch's permutation of the cases is dealt over the lanes like cards, and
a lane that comes out one card short takes one from the front again, so all lanes are equally long. Each case gives
``samples_per_case`` patches, shuffled inside windows of ``window`` cases. With 5 cases, G = 2, two samples per case and
a permutation of C A E B D the lanes read::

    lane 0: C E D    steps: C E C E  D D     (windows of 2 cases, then the rest)
    lane 1: A B C    steps: B A A B  C C     (C again: 5 cases do not fill 2 lanes)

A rank owns a contiguous run of lanes, so the global batches do not depend on the number of ranks. With ``sticky`` the
cases are dealt once for all epochs, so that a rank, whatever the number of ranks, reads only its own; each epoch then
shuffles each lane, and a lane that is one short repeats one of its own. Two cases of a lane never meet in a batch.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipelines.augment.parameters import THICK, Augmentation, draw_augmentation, num_words, thick_axis
from preprocessing.console.errors import InputError
from preprocessing.volumes.grid import Int3

AUGMENTS = ("none", "basic", "full")
PATCH_RULES = ("inside", "nnunet")
STATE_VERSION = 2
STREAM_CASES, STREAM_WINDOW, STREAM_SAMPLE, STREAM_SPLIT, STREAM_AUGMENT, STREAM_LANE, STREAM_MONAI = range(1, 8)
DRAWS = 16  # random numbers reserved for one sample; new parameters take unused ones, so old streams stay as they are
SCALE_RANGE = 0.1  # MONAI RandScaleIntensityd(factors=0.1) and RandShiftIntensityd(offsets=0.1), as in the article
SHIFT_RANGE = 0.1

Coordinates = npt.NDArray[np.uint16]


class PlanCase(Protocol):
    """What the plan needs to know of a case."""

    @property
    def shape_dhw(self) -> Int3:
        """Voxels along D, H, W."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along D, H, W."""

    def foreground(self) -> Mapping[int, Coordinates]:
        """Label id to sampled voxel coordinates [n,3]; 0 to annotated voxels of any label."""


class PlanStore(Protocol):
    """Where the plan looks cases up."""

    def case(self, case_id: str) -> PlanCase:
        """Return the case of that id."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Everything that decides the sample stream, apart from the cases.

    ``global_batch`` is batch size times world size; ``foreground`` is the probability that a patch is centred on a
    labelled voxel; ``window`` is the number of cases a lane mixes at a time; ``sticky`` keeps each case in its lane.
    ``patch_rule`` is ``inside``, or ``nnunet``: cases are drawn with replacement; that share of a global batch, its
    last lanes, is centred on a label and the others never are; such a patch may reach beyond the far border, where it
    is padded; and where the data set has an ignore label, the others are centred on annotated voxels. Dummy 2D
    augmentation follows the patch's shape.
    """

    seed: int
    global_batch: int
    patch: Int3
    samples_per_case: int = 4
    window: int = 4
    foreground: float = 0.5
    augment: str = "basic"
    sticky: bool = False
    patch_rule: str = "inside"

    def __post_init__(self) -> None:
        for name in ("global_batch", "samples_per_case", "window"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.foreground <= 1:
            raise InputError(f"foreground is {self.foreground:g}; it is a probability between 0 and 1")
        if min(self.patch) < 1:
            raise InputError(f"patch is {self.patch}; every side must be at least 1 voxel")
        if self.augment not in AUGMENTS:
            raise InputError(f"unknown augment {self.augment!r}; known: {', '.join(AUGMENTS)}")
        if self.patch_rule not in PATCH_RULES:
            raise InputError(f"unknown patch_rule {self.patch_rule!r}; known: {', '.join(PATCH_RULES)}")
        if self.sticky and self.patch_rule == "nnunet":
            raise InputError('patch_rule "nnunet" draws from all cases, sticky keeps each in its lane; drop one')
        check_seed(self.seed)


def check_seed(seed: int) -> None:
    """Raise ``InputError`` for a seed that the generators of a run do not take."""
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}; it must be between 0 and 2**63 - 1")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One patch to make. ``position_dhw`` is its first voxel in the stored volume; negative where padding goes first.

    ``flips_dhw`` tells the axes to reverse; normalised intensities become ``value * scale + shift``. ``augmentation``
    is what ``full`` does after that; scale and shift stay 1 and 0 then, it has its own brightness and contrast.
    """

    epoch: int
    step: int
    lane: int
    case_id: str
    position_dhw: Int3
    flips_dhw: tuple[bool, bool, bool]
    scale: float
    shift: float
    augmentation: Augmentation | None = None


def random_words(seed: int, stream: int, epoch: int, position: int, count: int) -> npt.NDArray[np.uint64]:
    """Return ``count`` random 64-bit words that depend on nothing but the arguments.

    NumPy guarantees the raw words of a bit generator for ever, unlike those of ``Generator.permutation`` (NEP 19).
    """
    counter = np.array([0, position, epoch, stream], dtype=np.uint64)
    return np.asarray(np.random.Philox(key=seed, counter=counter).random_raw(count))


def unit(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Turn random words into floats in [0, 1) with 53 random bits each."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Plan:
    """The sample stream over ``case_ids`` of ``store``, whose images have ``num_channels``.

    ``store_xxh3`` tells stores with the same case ids apart: a saved position belongs to one of them. Raises
    ``InputError`` when there is no case to draw from.
    """

    def __init__(
        self,
        store: PlanStore,
        case_ids: Sequence[str],
        options: PlanOptions,
        num_channels: int = 1,
        store_xxh3: str = "",
    ) -> None:
        if not case_ids:
            raise InputError("there is no labelled case to draw patches from")
        self.store = store
        self.case_ids = tuple(case_ids)
        self.options = options
        self.num_channels = num_channels
        self.store_xxh3 = store_xxh3
        cases_per_lane = -(-len(self.case_ids) // options.global_batch)
        self.steps_per_epoch = cases_per_lane * options.samples_per_case
        self._order = functools.lru_cache(maxsize=2)(self._permutation)
        self._lane_order = functools.lru_cache(maxsize=2 * options.global_batch)(self._shuffle_lane)
        self._window_order = functools.lru_cache(maxsize=4 * options.global_batch)(self._shuffle_window)
        self._foreground = functools.lru_cache(maxsize=64)(lambda case_id: store.case(case_id).foreground())

    @functools.cached_property
    def key(self) -> dict[str, Any]:
        """What must agree for two plans to be the same stream; kept in every checkpoint."""
        named = dataclasses.asdict(self.options) | {"patch": list(self.options.patch)}
        cases = hashlib.sha256("\n".join(self.case_ids).encode()).hexdigest()[:16]
        return {
            "state_version": STATE_VERSION,
            "num_cases": len(self.case_ids),
            "cases_sha256": cases,
            **named,
            "store_xxh3": self.store_xxh3,
        }

    def lanes_of(self, rank: int, world_size: int) -> range:
        """Return the slots of the global batch that ``rank`` owns.

        Raises ``InputError`` when the global batch does not divide evenly.
        """
        total = self.options.global_batch
        if total % world_size:
            raise InputError(
                f"global batch {total} does not divide over {world_size} ranks; use a rank count that divides it"
            )
        share = total // world_size
        return range(rank * share, (rank + 1) * share)

    def batch(self, epoch: int, step: int, lanes: Sequence[int]) -> list[Sample]:
        """Return the samples of ``lanes`` at one step."""
        return [self.sample(epoch, step, lane) for lane in lanes]

    def sample(self, epoch: int, step: int, lane: int) -> Sample:
        """Compute one sample; costs the same wherever in the run it lies."""
        options = self.options
        case_id = self.case_id_at(epoch, step, lane)
        words = random_words(options.seed, STREAM_SAMPLE, epoch, step * options.global_batch + lane, DRAWS)
        draws = unit(words)
        flipped, basic = options.augment != "none", options.augment == "basic"
        flips = draws[6:9] < 0.5
        return Sample(
            epoch=epoch,
            step=step,
            lane=lane,
            case_id=case_id,
            position_dhw=self._position(case_id, draws)
            if options.patch_rule == "inside"
            else self._position_of_nnunet(case_id, lane, draws),
            flips_dhw=(bool(flips[0]), bool(flips[1]), bool(flips[2])) if flipped else (False, False, False),
            scale=1.0 + SCALE_RANGE * (2 * float(draws[9]) - 1) if basic else 1.0,
            shift=SHIFT_RANGE * (2 * float(draws[10]) - 1) if basic else 0.0,
            augmentation=self._augmentation(epoch, step, lane, case_id) if options.augment == "full" else None,
        )

    def cases_of(self, lanes: Sequence[int]) -> tuple[str, ...]:
        """Return the cases that ``lanes`` may draw in some epoch: their own when they are sticky, else all."""
        if not self.options.sticky:
            return self.case_ids
        return tuple(dict.fromkeys(self.case_ids[number] for lane in lanes for number in self._dealt(lane)))

    @property
    def most_in_window(self) -> int:
        """The most cases that a lane draws in one window."""
        options = self.options
        return options.window * (options.samples_per_case if options.patch_rule == "nnunet" else 1)

    def cases_in_window(self, epoch: int, number: int, lanes: Sequence[int]) -> dict[str, int]:
        """Map each case that ``lanes`` draw in one window to the last step that does; in order of their first steps."""
        steps = self.options.window * self.options.samples_per_case
        last_step = {}
        for step in range(number * steps, min((number + 1) * steps, self.steps_per_epoch)):
            for lane in lanes:
                last_step[self.case_id_at(epoch, step, lane)] = step
        return last_step

    def _augmentation(self, epoch: int, step: int, lane: int, case_id: str) -> Augmentation:
        position = step * self.options.global_batch + lane
        words = random_words(self.options.seed, STREAM_AUGMENT, epoch, position, num_words(self.num_channels))
        patch = self.options.patch
        thick = thick_axis(self.store.case(case_id).spacing_mm)
        if self.options.patch_rule == "nnunet":
            thick = 0 if max(patch) > THICK * patch[0] else None
        return draw_augmentation(unit(words), noise_seed=int(words[8]), thick=thick)

    def case_id_at(self, epoch: int, step: int, lane: int) -> str:
        """Return the case of one sample, for a fraction of the cost of the whole sample."""
        if self.options.patch_rule == "nnunet":
            position = step * self.options.global_batch + lane
            draws = unit(random_words(self.options.seed, STREAM_SAMPLE, epoch, position, DRAWS))
            return self.case_ids[int(draws[11] * len(self.case_ids))]
        per_case, window = self.options.samples_per_case, self.options.window
        number, offset = divmod(step, window * per_case)
        in_window = self._window_order(epoch, lane, number)[offset]
        place = number * window + in_window
        if self.options.sticky:
            own = self._lane_order(epoch, lane)
            return self.case_ids[int(own[place % len(own)])]
        card = (place * self.options.global_batch + lane) % len(self.case_ids)
        return self.case_ids[int(self._order(epoch)[card])]

    def _dealt(self, lane: int) -> npt.NDArray[np.int64]:
        """Return the cases that stick to a lane; one without a card of its own shares that of an earlier lane."""
        order = self._order(0)
        own = order[lane :: self.options.global_batch]
        return own if len(own) else order[[lane % len(order)]]

    def _shuffle_lane(self, epoch: int, lane: int) -> npt.NDArray[np.int64]:
        own = self._dealt(lane)
        return own[np.argsort(random_words(self.options.seed, STREAM_LANE, epoch, lane, len(own)), kind="stable")]

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        keys = random_words(self.options.seed, STREAM_CASES, epoch, 0, len(self.case_ids))
        return np.argsort(keys, kind="stable")

    def _shuffle_window(self, epoch: int, lane: int, number: int) -> list[int]:
        """Order the samples of one window of one lane: a list of case numbers within the window."""
        per_case, window = self.options.samples_per_case, self.options.window
        cases = min(window, self.steps_per_epoch // per_case - number * window)
        position = number * self.options.global_batch + lane
        keys = random_words(self.options.seed, STREAM_WINDOW, epoch, position, cases * per_case)
        return [int(index) // per_case for index in np.argsort(keys, kind="stable")]

    def _position(self, case_id: str, draws: npt.NDArray[np.float64]) -> Int3:
        """Draw the patch position: a uniformly drawn label's voxel in the middle, or uniform; clipped to bounds.

        Along an axis where the volume is smaller than the patch the volume is centred, the rest is padding.
        """
        shape, patch = self.store.case(case_id).shape_dhw, self.options.patch
        wants_foreground = draws[0] < self.options.foreground
        voxels = self._foreground(case_id) if wants_foreground else {}
        voxel = _draw_voxel([coordinates for number, coordinates in voxels.items() if number], draws)
        position = [0, 0, 0]
        for axis, (size, side) in enumerate(zip(shape, patch, strict=True)):
            if size <= side:
                position[axis] = -((side - size) // 2)
            elif voxel is not None:
                position[axis] = min(max(int(voxel[axis]) - side // 2, 0), size - side)
            else:
                position[axis] = int(draws[3 + axis] * (size - side + 1))
        return position[0], position[1], position[2]

    def _position_of_nnunet(self, case_id: str, lane: int, draws: npt.NDArray[np.float64]) -> Int3:
        """Draw as ``nnUNetDataLoader.get_bbox`` (nnunetv2 2.8): centred patches may reach beyond the far border.

        Along an axis where the volume is smaller than the patch, a patch that is not centred on a voxel leaves both
        margins about equal: a volume of 5 lies at 1 or 2 in a patch of 8 then, and else at 0, 1 or 2.
        """
        options = self.options
        lists = dict(self._foreground(case_id))
        annotated = [lists.pop(0)] if 0 in lists else []
        is_forced = lane >= round(options.global_batch * (1 - options.foreground))
        voxel = _draw_voxel(list(lists.values()), draws) if is_forced else None
        if voxel is None:
            voxel = _draw_voxel(annotated, draws)
        position = [0, 0, 0]
        for axis, (size, side) in enumerate(zip(self.store.case(case_id).shape_dhw, options.patch, strict=True)):
            missing = max(side - size, 0)
            lowest, highest = -missing // 2, size - side + missing // 2 + missing % 2
            if voxel is not None:
                position[axis] = max(int(voxel[axis]) - side // 2, lowest)
            else:
                position[axis] = lowest + int(draws[3 + axis] * (highest - lowest + 1))
        return position[0], position[1], position[2]


def _draw_voxel(lists: Sequence[Coordinates], draws: npt.NDArray[np.float64]) -> Coordinates | None:
    """Draw a list that is not empty, then a voxel [3] of it; ``None`` where all are empty."""
    present = [coordinates for coordinates in lists if len(coordinates)]
    if not present:
        return None
    chosen = present[int(draws[1] * len(present))]
    voxel: Coordinates = chosen[int(draws[2] * len(chosen))]
    return voxel


def check_state(plan: Plan, state: Mapping[str, Any]) -> tuple[int, int]:
    """Return (epoch, step) of a saved loader state after checking that it belongs to ``plan``.

    Raises ``InputError`` that names the first field that differs, with both values.
    """
    before_rules = {"patch_rule": "inside"}  # what states say nothing of that were saved when there was no other
    saved = before_rules | json.loads(json.dumps(state.get("plan", {})))
    for name, value in plan.key.items():
        if saved.get(name) != value:
            raise InputError(f"cannot resume: the saved run has {name} = {saved.get(name)!r}, this one has {value!r}")
    return int(state["epoch"]), int(state["step"])
