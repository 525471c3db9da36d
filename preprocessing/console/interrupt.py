"""End a command in one line when Ctrl-C comes while Python still imports, which takes seconds."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import TracebackType


def end_quietly(package: str) -> None:
    """Say "interrupted" in place of a traceback, where a command of ``package`` was started: ``python -m package.x``.

    A package's face calls this before anything heavy is imported. Programs that import the package are left alone.
    """
    if any(flag == "-m" and name.startswith(f"{package}.") for flag, name in pairwise(sys.orig_argv)):
        sys.excepthook = _say_interrupted


def _say_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
    else:
        sys.__excepthook__(kind, error, trace)
