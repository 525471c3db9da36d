"""The table says which aims were reached and which were missed, on the reference work only."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.reporting.comparison_aims import aim_lines, missed_aims

Record = dict[str, Any]


def row(loader: str, rate: float, *, cpu_s: float = 0.1, memory_mb: float = 1000, device: str = "cpu") -> Record:
    values = {"patches_per_s": rate, "cpu_s_per_patch": cpu_s, "peak_memory_mb": memory_mb}
    summary = {name: {"median": value} for name, value in values.items()}
    return {"loader": loader, "label": f"{loader}, {device}", "device": device, "batch_size": 2, "summary": summary}


def record_of(*rows: Record, patch: int = 128, augment: str = "basic") -> Record:
    return {"options": {"patch": [patch] * 3, "augment": augment, "batch_size": 2}, "rows": list(rows)}


ROWS = (
    row("dali", 80, cpu_s=0.02, memory_mb=800),
    row("torch", 40, cpu_s=0.01, memory_mb=500),  # ours as well, no peer
    row("monai", 1),
    row("monai-cache", 32),
    row("monai-defaults", 16),
    row("torchio", 8, memory_mb=800),
    row("nnunet", 16, cpu_s=0.05),
    row("dali", 800, device="gpu"),
)


def test_each_aim_is_compared_with_what_was_measured() -> None:
    """2.5 times exactly is reached, as much memory is not less."""
    assert aim_lines(record_of(*ROWS)) == [
        "Aim reached: 2.5 times the patches/s of the best tuned MONAI loader; measured 2.50 times (monai-cache, cpu)",
        "Aim MISSED: 6 times the patches/s of MONAI's defaults; measured 5.00 times (monai-defaults, cpu)",
        "Aim reached: 4.5 times the patches/s of nnU-Net; measured 5.00 times (nnunet, cpu)",
        "Aim reached: 10 times the patches/s of TorchIO; measured 10.00 times (torchio, cpu)",
        "Aim reached: less CPU time than the best peer; measured 2.50 times less (nnunet, cpu)",
        "Aim MISSED: less memory than the best peer; measured 1.00 times less (torchio, cpu)",
    ]
    assert missed_aims(record_of(*ROWS)) == (
        "Aims missed: 6 times the patches/s of MONAI's defaults (5.00); less memory than the best peer (1.00)."
    )


@pytest.mark.parametrize(
    "record", [record_of(*ROWS, patch=96), record_of(*ROWS, augment="full"), record_of(*ROWS[1:7])]
)
def test_other_work_and_other_loaders_have_no_aims(record: Record) -> None:
    assert aim_lines(record) == []
    assert missed_aims(record) == ""


def test_what_was_not_measured_or_failed_is_not_judged() -> None:
    failed = row("nnunet", 1) | {"summary": None}
    (line,) = (line for line in aim_lines(record_of(ROWS[0], row("torchio", 1), failed)) if "patches/s" in line)
    assert "TorchIO; measured 80.00 times" in line
