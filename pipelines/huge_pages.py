"""Ask Linux to keep reused buffers on huge pages: a core that streams through them looks up fewer addresses."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import numpy.typing as npt

HUGE_PAGE_BYTES = 2 << 20  # of x86-64, and of arm64 with pages of 4 KiB
MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25  # Linux 2.6.38 and 6.1; the same numbers on every architecture with huge pages


def use_huge_pages(buffer: npt.NDArray[np.generic]) -> None:
    """Move a contiguous buffer that has been written to, to huge pages, as far as the system lets it.

    Its content stays. Where huge pages are off, or Linux is older than 6.1, nothing is lost: the buffer stays as it is,
    or is moved in the background. NumPy asks the same for its own arrays, but nobody does for those of DALI.
    """
    first = -(-buffer.ctypes.data // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    size = (buffer.ctypes.data + buffer.nbytes) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES - first
    if sys.platform != "linux" or size <= 0:
        return
    for advice in (MADV_HUGEPAGE, MADV_COLLAPSE):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), advice)
