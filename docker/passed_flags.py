"""The flags after ``--``: meant for the command inside the container, checked here before anything costs money."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import tyro

from preprocessing.errors import InputError

OptionsT = TypeVar("OptionsT")


def split_at_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part a command line at the first ``--``."""
    cut = words.index("--") if "--" in words else len(words)
    return list(words[:cut]), list(words[cut + 1 :])


def read_flags(
    words: Sequence[str],
    options_type: type[OptionsT],
    check: Callable[[OptionsT], None],
    set_by_job: Collection[str],
) -> dict[str, str]:
    """Return the flags of a command by name: ``--batch-size 4 --amp=bf16`` is ``{"batch-size": "4", "amp": "bf16"}``.

    ``options_type`` parses them as the command itself will, and ends the program with its words for what it does not
    know. Raises ``InputError`` for one of ``set_by_job``, and what the command's own ``check`` raises.
    """
    options = tyro.cli(options_type, args=words, prog="... --")
    flags: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        flags[name.replace("_", "-")] = value if equals else next(rest)
    for name in set_by_job:
        if name in flags:
            raise InputError(f"-- --{name} {flags[name]}: the job sets this one; leave it out after --")
    check(options)
    return flags
