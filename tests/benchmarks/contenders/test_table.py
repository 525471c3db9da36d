"""What the page says that loaders were tuned with is what they were built with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders.table import BY_SEARCH, CEILING, DEFAULTS, TABLE, Contender
from benchmarks.measuring.rows import Row
from benchmarks.reporting.comparison import describe_method
from pipelines.config import LoaderConfig
from pipelines.loaders import LOADERS, MONAI
from pipelines.workers.monai_loader import REPLACED, SMART_SHARE
from tests.benchmarks.measuring.faulty_loaders import same_batch


def row_of(store: Path, loader: str, workers: int) -> Row:
    config = LoaderConfig(store=store, patch=(16, 16, 16), num_workers=workers)
    return Row(contender=TABLE[loader], config=config)


def tuning_of(row: Row) -> str:
    return row.contender.tuning(row.config)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["torch", *MONAI, DEFAULTS])
def test_data_loaders_are_as_they_are_described(coordinate_store: Path, name: str, workers: int) -> None:
    row = row_of(coordinate_store, name, workers)
    with row.contender.open(row.config) as loader:
        made: Any = loader
        found = made._loader
        text = tuning_of(row)
        if row.num_workers:
            settings = f"persistent_workers={found.persistent_workers}, prefetch_factor={found.prefetch_factor}"
            assert text.endswith(settings)
        else:
            assert found.num_workers == 0
            assert "persistent" not in text.replace("PersistentDataset", "")
        if name != "torch":
            dataset = made._dataset
            assert {kind.__name__ for kind in type(dataset).__mro__} & {*text.replace(",", " ").split()}
            assert type(found).__name__ == ("ThreadDataLoader" if "ThreadDataLoader" in text else "DataLoader")
            copies = getattr(dataset, "copy_cache", None)
            assert (f"copy_cache={copies}" in text) == (copies is not None)


def test_smart_cache_is_as_it_is_described(coordinate_store: Path) -> None:
    text = tuning_of(row_of(coordinate_store, "monai-smartcache", 0))
    assert f"cache_num {SMART_SHARE:.0%} of the cases, replace_rate={REPLACED:g}" in text


@pytest.mark.skipif(not TABLE["torchio"].is_installed, reason="needs torchio")
def test_torchios_queue_is_as_it_is_described(coordinate_store: Path) -> None:
    row = row_of(coordinate_store, "torchio", 0)
    with row.contender.open(row.config) as loader:
        made: Any = loader
        settings = ", ".join(f"{name}={getattr(made._queue, name)}" for name in ("max_length", "samples_per_volume"))
        assert settings in tuning_of(row)
        assert row.cycle == made._queue.max_length // row.config.batch_size


def test_every_loader_but_the_ceiling_is_described_once() -> None:
    lines = describe_method([row_of(Path("store"), name, workers) for name in TABLE for workers in (1, 2)])
    tuned = [line for line in lines if line.startswith("Tuned, ")]
    assert len([line for line in tuned if line.startswith("Tuned, monai-cache (1 worker; 2 workers): Cache")]) == 1
    assert {line.split()[1] for line in tuned} == set(TABLE) - {CEILING}


def test_on_a_gpu_memory_is_pinned() -> None:
    row = row_of(Path("store"), "torch", 2)
    on_gpu = dataclasses.replace(row, config=dataclasses.replace(row.config, device="gpu"))
    assert "pin_memory" not in tuning_of(row)
    assert tuning_of(on_gpu).endswith("pin_memory=True")


def test_the_product_comes_first_and_keeps_its_names() -> None:
    assert [name for name in TABLE if name in LOADERS] == list(LOADERS)
    assert {name for name, one in TABLE.items() if one.checked == BY_SEARCH} == {*MONAI, DEFAULTS, "torchio", "nnunet"}


def test_what_nobody_said_of_a_loader_is_what_ours_do() -> None:
    plain = Contender(name="plain", build=same_batch)
    assert (plain.is_installed, plain.tuning(row_of(Path("store"), "torch", 1).config)) == (True, "")
    assert not dataclasses.replace(plain, package="voxelfeed_without_it").is_installed
