"""Reused buffers lie on huge pages where Linux has them to give."""

from __future__ import annotations

import mmap
import platform
import re
from pathlib import Path

import numpy as np
import pytest

from pipelines.config import LoaderConfig
from pipelines.dali.loader import HUGE_PAGE_BYTES, use_huge_pages
from pipelines.loaders import build_loader

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_bytes(address: int) -> int:
    """Return how many bytes of the mapping that holds ``address`` lie on huge pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if mapped := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(mapped[1], 16) <= address < int(mapped[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{address:x} is not mapped")


def can_collapse() -> bool:
    """Tell whether this system moves memory to huge pages when asked to."""
    version = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    return SETTING.exists() and "[never]" not in SETTING.read_text() and version >= (6, 1)


needs_collapse = pytest.mark.skipif(
    not can_collapse(), reason="needs Linux 6.1 with transparent huge pages switched on"
)


@needs_collapse
def test_a_buffer_moves_to_huge_pages_with_its_content() -> None:
    fresh = mmap.mmap(-1, 6 * HUGE_PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # NumPy would ask for them itself
    buffer = np.frombuffer(fresh, np.uint32)
    buffer[:] = np.arange(buffer.size)
    middle = buffer.ctypes.data + buffer.nbytes // 2
    before = huge_bytes(middle)
    use_huge_pages(buffer)
    assert before == 0
    assert huge_bytes(middle) >= 4 * HUGE_PAGE_BYTES
    assert np.array_equal(buffer, np.arange(buffer.size))


@needs_collapse
def test_what_dali_delivers_lies_on_huge_pages(coordinate_store: Path) -> None:
    config = LoaderConfig(store=coordinate_store, patch=(64, 64, 64), batch_size=4, device="cpu", reuse_buffers=True)
    with build_loader("dali", config) as loader:
        for batch in loader:
            assert huge_bytes(batch.image.data_ptr() + batch.image.nbytes // 2) >= HUGE_PAGE_BYTES


def test_small_and_empty_buffers_are_left_alone() -> None:
    for size in (0, 1, HUGE_PAGE_BYTES // 2):
        buffer = np.full(size, 7, np.uint8)
        use_huge_pages(buffer)
        assert (buffer == 7).all()
