"""Leave the reason of a failure where torchrun looks for it: it hands the first rank's on to whoever started it.

Source: "Error Propagation" in the documentation of torch.distributed.elastic. Without torchrun nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch.distributed.elastic.multiprocessing.errors import get_error_handler


def leave_failure(error: Exception) -> None:
    """Write ``error`` to this process's error file, where there is room for it: nothing depends on it."""
    with suppress(OSError):
        get_error_handler().record_exception(error)


@contextmanager
def failure_left() -> Iterator[None]:
    """Run the block; an exception in it is written to the error file and goes on."""
    try:
        yield
    except Exception as error:
        leave_failure(error)
        raise
