"""A patch is found where the plan says that it was cut, and nothing else passes for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.measuring.find_patch import find_patch
from pipelines.batch import Batch
from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader
from pipelines.reference import Float, intensity_of, normalize
from preprocessing.shards.store import open_store

PATCH = (12, 16, 12)


@pytest.fixture(scope="module")
def batches(coordinate_store: Path) -> list[Batch]:
    config = LoaderConfig(store=coordinate_store, patch=PATCH, samples_per_case=4, num_workers=0)
    with build_loader("torch", config) as loader:
        return [batch.clone() for batch in loader]


def volumes_of(store: Path, case_id: str) -> tuple[Float, np.ndarray]:
    opened = open_store(store)
    case = opened.case(case_id)
    label = case.label()
    assert label is not None
    return normalize(case.image(), intensity_of(case, opened.manifest), 1.0, 0.0), np.asarray(label)


def test_patches_are_found_where_the_plan_cut_them(coordinate_store: Path, batches: list[Batch]) -> None:
    for batch in batches:
        for slot, sample in enumerate(batch.samples):
            image, label = (part[slot].permute(1, 2, 3, 0).numpy() for part in (batch.image, batch.label))
            found = find_patch(image, label, *volumes_of(coordinate_store, sample.case_id))
            assert found is not None
            assert (found.position_dhw, found.flips_dhw) == (sample.position_dhw, sample.flips_dhw)
            assert found.scale == pytest.approx(sample.scale, abs=1e-4)
            assert found.shift == pytest.approx(sample.shift, abs=1e-4)
            assert found.error < 1e-4
            assert found.wrong_labels == 0


def test_a_patch_of_another_case_is_not_found(coordinate_store: Path, batches: list[Batch]) -> None:
    image, label = (part[0].permute(1, 2, 3, 0).numpy() for part in (batches[0].image, batches[0].label))
    other = batches[0].case_ids[1]
    assert other != batches[0].case_ids[0]
    found = find_patch(image, label, *volumes_of(coordinate_store, other))
    assert found is not None
    assert found.error > 1e-2


def test_a_patch_without_contrast_lies_nowhere(coordinate_store: Path) -> None:
    flat = np.ones((*PATCH, 4), np.float32)
    volume, labels = volumes_of(coordinate_store, "case_000")
    assert find_patch(flat, np.zeros((*PATCH, 1), np.uint8), volume, labels) is None
