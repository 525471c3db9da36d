"""What the page says that loaders were tuned with is what they were built with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders.table import DEFAULTS, PEERS, SMART, TABLE, is_installed
from benchmarks.contenders.tuning import tuning_of
from benchmarks.measuring.rows import Row
from benchmarks.reporting.comparison_page import tuning_lines
from pipelines.config import LoaderConfig
from pipelines.loaders import MONAI, build_loader
from pipelines.workers.monai_loader import REPLACED, SMART_SHARE


def row_of(store: Path, loader: str, workers: int) -> Row:
    return Row(loader=loader, config=LoaderConfig(store=store, patch=(16, 16, 16), num_workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["torch", *MONAI, DEFAULTS])
def test_data_loaders_are_as_they_are_described(coordinate_store: Path, name: str, workers: int) -> None:
    row = row_of(coordinate_store, name, workers)
    with build_loader(name, row.config, table=TABLE) as loader:
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
            assert type(dataset).__name__ in text.replace(",", " ").split()
            assert type(found).__name__ == ("ThreadDataLoader" if "ThreadDataLoader" in text else "DataLoader")
            copies = getattr(dataset, "copy_cache", None)
            assert (f"copy_cache={copies}" in text) == (copies is not None)


def test_smart_cache_is_as_it_is_described(coordinate_store: Path) -> None:
    text = tuning_of(row_of(coordinate_store, SMART, 0))
    assert f"cache_num {SMART_SHARE:.0%} of the cases, replace_rate={REPLACED:g}" in text


@pytest.mark.skipif(not is_installed("torchio"), reason=f"needs {PEERS['torchio']}")
def test_torchios_queue_is_as_it_is_described(coordinate_store: Path) -> None:
    row = row_of(coordinate_store, "torchio", 0)
    with build_loader("torchio", row.config, table=TABLE) as loader:
        made: Any = loader
        names = ("max_length", "samples_per_volume", "num_workers")
        assert ", ".join(f"{name}={getattr(made._queue, name)}" for name in names) in tuning_of(row)


def test_every_loader_but_the_ceiling_is_described_once() -> None:
    rows = [row_of(Path("store"), name, workers) for name in TABLE for workers in (1, 2)]
    described = [
        {"loader": row.loader, "device": "cpu", "settings": row.settings, "tuning": tuning_of(row)} for row in rows
    ]
    lines = tuning_lines({"rows": described})
    assert len([line for line in lines if line.startswith("Tuned, monai-cache (1 worker; 2 workers): Cache")]) == 1
    assert {line.split()[1] for line in lines} == set(TABLE) - {"synthetic"}
    assert tuning_lines({"rows": [{"loader": "dali"}]}) == []  # a result of before


def test_on_a_gpu_memory_is_pinned() -> None:
    row = row_of(Path("store"), "torch", 2)
    on_gpu = dataclasses.replace(row, config=dataclasses.replace(row.config, device="gpu"))
    assert "pin_memory" not in tuning_of(row)
    assert tuning_of(on_gpu).endswith("pin_memory=True")
