"""What goes wrong for the user, and the exit codes that say so."""

from __future__ import annotations

from collections.abc import Iterable

EXIT_DONE = 0
EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3


class InputError(ValueError):
    """Say in one line what the user gave that cannot be used, where, and what to do about it."""


def check_known(flag: str, value: str, known: Iterable[str]) -> None:
    """Raise ``InputError`` when the ``value`` of ``--flag`` is not one of the ``known`` ones."""
    names = list(known)
    if value not in names:
        raise InputError(f"--{flag} {value}: unknown; known: {', '.join(names)}")


class RunError(RuntimeError):
    """Say in one line why work that was under way cannot go on, and what to do about it."""


class CaseError(InputError):
    """Refuse one case; the other cases go on.

    ``case_id`` names the case, ``reason`` says what is wrong with which file and what to do.
    """

    def __init__(self, case_id: str, reason: str) -> None:
        super().__init__(f"case {case_id}: {reason}")
        self.case_id = case_id
        self.reason = reason

    def __reduce__(self) -> tuple[type[CaseError], tuple[str, str]]:
        """Survive the way back from a worker process."""
        return CaseError, (self.case_id, self.reason)
