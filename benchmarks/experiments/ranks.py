"""What the plan costs over many cases and ranks, per sample; tests/pipelines/test_plan.py checks what it promises."""

from __future__ import annotations

import time
from dataclasses import dataclass

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


def make_plan(num_cases: int, global_batch: int, patch: Int3, shape_dhw: Int3) -> Plan:
    """Plan ``num_cases`` cases, one patch of each to an epoch, four channels."""
    options = PlanOptions(seed=0, global_batch=global_batch, patch=patch, samples_per_case=1)
    return Plan(PlannedStore(shape_dhw=shape_dhw), [f"case_{n:06d}" for n in range(num_cases)], options, 4)


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
