"""A slow disk for every Python process that has this folder in PYTHONPATH.

Once the file that SLOW_DISK names exists, bringing a file to the disk takes as many seconds as it says.
"""

import os
import stat
import time
from pathlib import Path

_sync = os.fsync


def _slow_sync(descriptor: int) -> None:
    said = Path(os.environ["SLOW_DISK"])
    if said.exists() and stat.S_ISREG(os.fstat(descriptor).st_mode):
        time.sleep(float(said.read_text()))
    _sync(descriptor)


os.fsync = _slow_sync  # type: ignore[assignment]
