"""The plan over many cases and ranks: checked to be disjoint, complete and equal, and timed per sample."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.measuring.check import CheckError
from pipelines.plan import Coordinates, Plan, PlanOptions
from preprocessing.volumes.grid import Int3

LATE_STEPS = 8  # steps timed at the far end of an epoch: the plan goes there without replaying the others


@dataclass(frozen=True, kw_only=True)
class PlannedCase:
    """A case of which the plan needs the shape only, and that its voxels are cubes."""

    shape_dhw: Int3
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def foreground(self) -> dict[int, Coordinates]:
        """Return no foreground: patches are drawn uniformly."""
        return {}


@dataclass(frozen=True, kw_only=True)
class PlannedStore:
    """A store without files, all of whose cases have one shape."""

    shape_dhw: Int3

    def case(self, case_id: str) -> PlannedCase:  # noqa: ARG002  # all alike
        """Return the case of any id."""
        return PlannedCase(shape_dhw=self.shape_dhw)


def make_plan(num_cases: int, global_batch: int, patch: Int3, shape_dhw: Int3, *, sticky: bool = False) -> Plan:
    """Plan ``num_cases`` cases, one patch of each to an epoch, four channels."""
    options = PlanOptions(seed=0, global_batch=global_batch, patch=patch, samples_per_case=1, sticky=sticky)
    return Plan(PlannedStore(shape_dhw=shape_dhw), [f"case_{n:06d}" for n in range(num_cases)], options, 4)


def deal(plan: Plan, epoch: int) -> npt.NDArray[np.str_]:
    """Return the case ids of a whole epoch, [steps, lanes]."""
    lanes = range(plan.options.global_batch)
    return np.array([[s.case_id for s in plan.batch(epoch, step, lanes)] for step in range(plan.steps_per_epoch)])


def check_ranks(plan: Plan, dealt: npt.NDArray[np.str_], world_size: int) -> None:
    """Check that ``world_size`` ranks share an epoch fairly; raises ``CheckError`` that says which promise is broken.

    Every slot of the global batch belongs to exactly one rank; all ranks take the same number of samples; every case
    comes as often as the plan says, on one rank only. Where cases do not fill the lanes, a few come once more: with 5
    cases and 2 lanes one case comes twice, perhaps on two ranks.
    """
    lanes = [plan.lanes_of(rank, world_size) for rank in range(world_size)]
    owned = [lane for share in lanes for lane in share]
    if owned != list(range(plan.options.global_batch)):
        raise CheckError(f"{world_size} ranks: the lanes are not shared out, each to one rank: {owned}")
    if len({len(share) for share in lanes}) > 1:
        raise CheckError(f"{world_size} ranks: they take different numbers of samples: {[len(s) for s in lanes]}")
    times = Counter(dealt.ravel().tolist())
    missing = set(plan.case_ids) - set(times)
    if missing:
        raise CheckError(f"{world_size} ranks: {len(missing)} cases are never read, {min(missing)} among them")
    padding = -len(plan.case_ids) % plan.options.global_batch
    per_case = plan.options.samples_per_case
    if sum(times.values()) != (len(plan.case_ids) + padding) * per_case:
        raise CheckError(f"{world_size} ranks: {sum(times.values())} samples, expected {len(plan.case_ids)} cases")
    read_by = sum(len(set(dealt[:, list(share)].ravel().tolist())) for share in lanes)
    if read_by > len(plan.case_ids) + padding:
        raise CheckError(
            f"{world_size} ranks: cases are read by more than one rank, {read_by} reads of {len(plan.case_ids)} cases"
        )


def check_same_batches(plan: Plan, dealt: npt.NDArray[np.str_], world_size: int) -> None:
    """Check that the ranks' batches put together are the global batch, at the first, middle and last step."""
    for step in {0, plan.steps_per_epoch // 2, plan.steps_per_epoch - 1}:
        shares = (plan.batch(0, step, plan.lanes_of(rank, world_size)) for rank in range(world_size))
        together = [sample.case_id for share in shares for sample in share]
        if together != dealt[step].tolist():
            raise CheckError(f"{world_size} ranks: step {step} is another batch than with one rank")


def check_sticky(sticky: Plan, epochs: Sequence[npt.NDArray[np.str_]], world_size: int) -> None:
    """Check that ranks whose lanes keep their cases read what ``cases_of`` says in each of ``epochs``."""
    for rank in range(world_size):
        lanes = sticky.lanes_of(rank, world_size)
        read = [set(dealt[:, list(lanes)].ravel().tolist()) for dealt in epochs]
        if any(cases != set(sticky.cases_of(lanes)) for cases in read):
            raise CheckError(f"{world_size} ranks: rank {rank} reads other cases than those that stick to its lanes")


def time_samples(plan: Plan, world_size: int, runs: int) -> dict[str, list[float]]:
    """Measure the processor time of the last rank at the far end of epochs new to it; a value per run of each metric.

    ``plan_epoch_ms`` is the first sample of an epoch, which shuffles all cases; ``plan_us_per_sample`` the others.
    """
    lanes = plan.lanes_of(world_size - 1, world_size)
    steps = range(max(plan.steps_per_epoch - LATE_STEPS, 0), plan.steps_per_epoch)
    first_ms, others_us = [], []
    for epoch in range(1, runs + 1):
        begin = time.process_time()
        plan.sample(epoch, steps[0], lanes[0])
        between = time.process_time()
        for step in steps:
            plan.batch(epoch, step, lanes)
        first_ms.append(1e3 * (between - begin))
        others_us.append(1e6 * (time.process_time() - between) / (len(steps) * len(lanes)))
    return {"plan_epoch_ms": first_ms, "plan_us_per_sample": others_us}
