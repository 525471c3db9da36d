"""How to have the kernel's page cache forget files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def forget(files: Iterable[Path]) -> None:
    """Drop files from the page cache: what is in it already belongs to whoever read it first, limited or not.

    The kernel keeps pages that somebody has mapped.
    """
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages not yet on disk cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
