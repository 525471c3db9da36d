"""The command line's conventions: one frozen dataclass per command, every flag one token, one line per error."""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_type_hints

import rich
import tyro
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from preprocessing.console.errors import EXIT_REFUSED, EXIT_UNEXPECTED, EXIT_USAGE, CaseError, InputError, RunError
from preprocessing.console.places import is_remote, location

OptionsT = TypeVar("OptionsT")
DEFAULT_SHARDS = Path("data/shards")  # where commands write a store, and look for one


def parse_triple(text: str) -> tuple[int, int, int]:
    """Read ``"128,128,64"`` as three positive integers in D,H,W order.

    Raises ``ValueError`` for anything else.
    """
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"expected three positive integers D,H,W such as 128,128,64, got {text!r}")
    return int(parts[0]), int(parts[1]), int(parts[2])


def parse_spacing(text: str) -> tuple[float, float, float]:
    """Read ``"1.5,1.5,2.0"`` as three positive numbers of millimetres in x,y,z order.

    Raises ``ValueError`` for anything else.
    """
    try:
        x_mm, y_mm, z_mm = (float(part) for part in text.split(","))
    except ValueError:
        x_mm = y_mm = z_mm = math.nan
    if not all(0 < side < math.inf for side in (x_mm, y_mm, z_mm)):
        raise ValueError(f"expected source, or three positive numbers x,y,z such as 1.5,1.5,2.0, got {text!r}")
    return x_mm, y_mm, z_mm


def parse_flag(text: str) -> bool:
    """Read a boolean as people and SageMaker write it: true/false, yes/no, on/off, 1/0, in any case.

    Raises ``ValueError`` for anything else.
    """
    known = {"true": True, "yes": True, "on": True, "1": True}
    known |= {"false": False, "no": False, "off": False, "0": False}
    if text.strip().lower() not in known:
        raise ValueError(f"expected true or false, got {text!r}")
    return known[text.strip().lower()]


Triple = Annotated[
    tuple[int, int, int],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="D,H,W",
        instance_from_str=lambda arguments: parse_triple(arguments[0]),
        is_instance=lambda value: isinstance(value, tuple) and len(value) == 3,
        str_from_instance=lambda value: [",".join(str(number) for number in value)],
    ),
]
"""Three integers in D,H,W order, written ``128,128,64``."""


def _triple_or(
    word: str, shown: str, parse: Callable[[str], tuple[Any, Any, Any]]
) -> tyro.constructors.PrimitiveConstructorSpec[Any]:
    """Read one token: ``word`` is ``None``, anything else is parsed as three numbers."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{word}|{shown}",
        instance_from_str=lambda arguments: None if arguments[0] == word else parse(arguments[0]),
        is_instance=lambda value: value is None or (isinstance(value, tuple) and len(value) == 3),
        str_from_instance=lambda value: [word if value is None else ",".join(map(_written, value))],
    )


def _written(side: float) -> str:
    return str(side) if isinstance(side, int) else f"{side:g}"


AutoTriple = Annotated[tuple[int, int, int] | None, _triple_or("auto", "D,H,W", parse_triple)]
"""Three integers in D,H,W order, or ``auto`` (``None``) to have them chosen."""

Spacing = Annotated[tuple[float, float, float] | None, _triple_or("source", "X,Y,Z", parse_spacing)]
"""Three sizes in millimetres in x,y,z order, or ``source`` (``None``) to keep the file's."""


def _count_or_never(text: str) -> int | None:
    if text == "never":
        return None
    if not text.strip().isdigit():
        raise ValueError(f"expected never, or a whole number from 0 on, got {text!r}")
    return int(text)


CountOrNever = Annotated[
    int | None,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT|never",
        instance_from_str=lambda arguments: _count_or_never(arguments[0]),
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: ["never" if value is None else str(value)],
    ),
]
"""A whole number from 0 on, or ``never`` (``None``)."""

Place = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda arguments: location(arguments[0]),
        is_instance=lambda value: isinstance(value, Path) or is_remote(value),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A folder of this machine, or a place on an object store such as ``s3://bucket/folder``."""

Flag = Annotated[
    bool,
    tyro.conf.FlagConversionOff,  # or tyro makes a pair of it, --amp and --no-amp, and takes no value
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="true|false",
        instance_from_str=lambda arguments: parse_flag(arguments[0]),
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: ["true" if value else "false"],
    ),
]
"""A boolean that is always one token after its flag: ``--amp true``."""


def split_pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield names and values: ``--batch_size 4 --amp=bf16`` gives ``("batch-size", "4"), ("amp", "bf16")``.

    Raises ``InputError`` for a word where a flag belongs, and for a flag without a value.
    """
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--"):
            raise InputError(f"{word}: expected a flag, which begins with --, and its value")
        following = value if equals else next(words, None)
        if following is None:
            raise InputError(f"{flag}: its value is missing")
        yield flag.removeprefix("--").replace("_", "-"), following


def parse(options_type: type[OptionsT], arguments: Sequence[str]) -> OptionsT:
    """Read ``arguments`` as ``main`` does, for callers that handle errors themselves.

    Raises ``InputError`` with one line about the first flag that is unknown or has a value that cannot be.
    """
    hints = get_type_hints(options_type, include_extras=True)
    for name, value in split_pairs(arguments):
        hint = hints.get(name.replace("-", "_"))
        if hint is None:
            near = difflib.get_close_matches(name, [known.replace("_", "-") for known in hints])
            raise InputError(f"--{name}: unknown flag" + "".join(f"; near: --{known}" for known in near[:1]))
        try:
            _read(hint, value)
        except ValueError as error:
            raise InputError(f"--{name} {value}: {error}") from error
    return tyro.cli(options_type, args=arguments)


def _read(hint: Any, text: str) -> object:
    """Turn the text of one flag into what its type ``hint`` says; raises ``ValueError`` for a text that cannot be."""
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, tyro.constructors.PrimitiveConstructorSpec):
            return part.instance_from_str([text])
    expected = {int: "a whole number", float: "a number"}.get(hint)
    if expected is None:
        return text
    try:
        return hint(text)
    except ValueError as error:
        raise ValueError(f"expected {expected}, got {text!r}") from error


def set_up_logging(level: int = logging.INFO) -> None:
    """Send log records and progress bars to stderr: coloured in a terminal, plain lines elsewhere."""
    rich.reconfigure(stderr=True)  # one console for both, or a live bar and the lines beside it overwrite each other
    in_terminal = rich.get_console().is_terminal
    handler = (
        RichHandler(show_path=False, show_time=False, show_level=False, highlighter=NullHighlighter())
        if in_terminal
        else logging.StreamHandler()
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for talkative in ("torch.distributed", "botocore", "aiobotocore"):
        logging.getLogger(talkative).setLevel(logging.WARNING)


def main(
    command: Callable[[OptionsT], int], options_type: type[OptionsT], arguments: Sequence[str] | None = None
) -> NoReturn:
    """Parse ``arguments`` (default: the process's) into ``options_type``, run ``command``, exit with its code.

    Wrong usage and unusable input end in one line on stderr and exit code 2, a refused case in exit code 3;
    ``command`` returns the other codes.
    """
    module = getattr(sys.modules["__main__"], "__spec__", None)  # None where a file was started
    options = tyro.cli(
        options_type,
        prog=f"python -m {module.name}" if module else None,
        args=arguments,
        description=inspect.cleandoc(options_type.__doc__ or ""),
    )
    set_up_logging()
    try:
        sys.exit(command(options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_REFUSED if isinstance(error, CaseError) else EXIT_USAGE)
    except (RunError, MemoryError) as error:
        print(f"error: {str(error) or 'out of memory'}", file=sys.stderr)
        sys.exit(EXIT_UNEXPECTED)
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        sys.exit(EXIT_UNEXPECTED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
