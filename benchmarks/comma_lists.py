"""Read flags that take several whole numbers with commas between them."""

from __future__ import annotations

from preprocessing.errors import InputError


def parse_numbers(flag: str, text: str, least: int) -> list[int]:
    """Read ``"1,2,8"`` as whole numbers, each once; raises ``InputError`` for anything else or less than ``least``."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise InputError(f"{flag} {text}: give a whole number from {least} on, or several with commas between them")
    return list(dict.fromkeys(numbers))
