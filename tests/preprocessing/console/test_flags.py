"""The command line: one token a flag, exit codes, one line per error, and the set of flags."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from preprocessing import check, merge, phantom, stage, to_shards
from preprocessing.console.errors import CaseError, InputError, RunError
from preprocessing.console.flags import AutoTriple, Flag, Triple, parse, parse_flag, parse_triple, split_pairs
from tests.preprocessing.conftest import Command, run_process

COMMANDS: dict[str, tuple[Any, list[str]]] = {
    "preprocessing.to_shards": (
        to_shards.Options,
        [
            "input",
            "output",
            "layout",
            "orientation",
            "spacing",
            "crop-foreground",
            "dtype",
            "cases-per-shard",
            "workers",
            "engine",
            "scheduler",
            "partition",
            "regions",
            "ignore-affine",
            "max-volume-gib",
            "trust",
            "on-error",
            "report",
        ],
    ),
    "preprocessing.check": (check.Options, ["shards", "fast"]),
    "preprocessing.merge": (merge.Options, ["shards"]),
    "preprocessing.stage": (stage.Options, ["shards", "output"]),
    "preprocessing.phantom": (phantom.PhantomOptions, ["output", "cases", "test-cases", "shape", "seed"]),
}


@dataclass(frozen=True, kw_only=True)
class Example:
    """Show what a command's options look like."""

    patch: Triple = (1, 2, 3)
    """A triple."""
    spacing: AutoTriple = None
    """A triple or auto."""
    amp: Flag = False
    """A flag that is off."""
    crop: Flag = True
    """A flag that is on."""


def parsed(*arguments: str) -> Example:
    return tyro.cli(Example, args=list(arguments))


def test_defaults_stand_where_no_flag_is_given() -> None:
    assert parsed() == Example()


@pytest.mark.parametrize("text", ["128,96,64", "128x96x64", " 128, 96 ,64 "])
def test_triples_are_one_token(text: str) -> None:
    assert parsed("--patch", text).patch == (128, 96, 64)
    assert parsed("--spacing", text).spacing == (128, 96, 64)
    assert parsed("--spacing", "auto").spacing is None


@given(st.tuples(*[st.integers(1, 10**6)] * 3))
def test_any_triple_is_read_as_it_is_written(triple: tuple[int, int, int]) -> None:
    assert parse_triple(",".join(map(str, triple))) == triple


@pytest.mark.parametrize("text", ["", "128", "1,2", "1,2,3,4", "0,1,2", "-1,2,3", "1.5,2,3", "a,b,c", "1,,2"])
def test_other_triples_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected three positive integers D,H,W such as 128,128,64, got"):
        parse_triple(text)


@given(st.text())
def test_any_text_is_a_triple_or_a_value_error(text: str) -> None:
    try:
        made = parse_triple(text)
    except ValueError:
        return
    assert min(made) > 0


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "yes", "on", "1", " true "])
def test_true_is_read_as_people_write_it(text: str) -> None:
    assert parse_flag(text) is True
    assert parsed("--amp", text).amp is True


@pytest.mark.parametrize("text", ["false", "False", "no", "off", "0"])
def test_false_is_read_as_people_write_it(text: str) -> None:
    assert parse_flag(text) is False
    assert parsed("--crop", text).crop is False


@pytest.mark.parametrize("text", ["", "maybe", "2", "tru"])
def test_other_flags_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected true or false, got"):
        parse_flag(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--amp"],
        ["--amp", "maybe"],
        ["--no-amp"],
        ["--no-crop"],
        ["--patch", "1", "2", "3"],
        ["--patch", "1,2"],
        ["--colour", "red"],
        ["stray"],
    ],
)
def test_what_cannot_be_read_is_wrong_usage(command: Command, arguments: list[str]) -> None:
    ended = command(lambda _options: 0, Example, *arguments)
    assert ended.code == 2
    assert "Traceback" not in ended.errors


@pytest.mark.parametrize("module", list(COMMANDS))
def test_the_set_of_flags_is_this(module: str) -> None:
    """A new flag needs a reason , and other programs rely on these."""
    options, flags = COMMANDS[module]
    assert [field.name.replace("_", "-") for field in dataclasses.fields(options)] == flags


@pytest.mark.parametrize("module", list(COMMANDS))
def test_help_shows_every_flag_with_one_value(module: str) -> None:
    ended = run_process(module, "--help")
    assert ended.code == 0
    shown = [line.split("│")[1].split()[:2] for line in ended.output.splitlines() if line.startswith("│ --")]
    assert [flag for flag, _ in shown] == [f"--{name}" for name in COMMANDS[module][1]]
    assert all(
        metavar in ("PATH", "STR", "INT", "FLOAT", "D,H,W", "source|X,Y,Z", "true|false") for _, metavar in shown
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no such folder"), 2, "error: no such folder"),
        (CaseError("BRATS_001", "no label"), 3, "error: case BRATS_001: no label"),
        (RunError("a worker died"), 1, "error: a worker died"),
        (MemoryError(), 1, "error: out of memory"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.npy"), 1, "error: No space left on device: a.npy"),
        (OSError("odd"), 1, "error: odd"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_end_in_one_line_and_a_code(command: Command, error: BaseException, code: int, line: str) -> None:
    def fail(_options: Example) -> int:
        raise error

    ended = command(fail, Example)
    assert (ended.code, ended.output, ended.errors) == (code, "", line + "\n")


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_command_returns_its_code(command: Command, code: int) -> None:
    def work(options: Example) -> int:
        logging.getLogger("anything").info("patch %s", options.patch)
        return code

    ended = command(work, Example, "--patch", "4,5,6")
    assert (ended.code, ended.output, ended.errors) == (code, "", "patch (4, 5, 6)\n")


def test_a_defect_is_not_hidden(command: Command) -> None:
    def fail(_options: Example) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command(fail, Example)


def test_the_default_folders_fit_together() -> None:
    assert to_shards.Options().input == phantom.PhantomOptions().output == Path("data/phantom")
    assert to_shards.Options().output == check.Options().shards == Path("data/shards")


@dataclass(frozen=True, kw_only=True)
class Plain(Example):
    """What the examples above lack."""

    epochs: int = 0
    """A whole number."""
    lr: float = 0.0
    """A number."""
    store: Path | None = None
    """A path, or none."""


def test_parse_reads_what_the_command_line_reads() -> None:
    words = ["--patch", "4,5,6", "--spacing=auto", "--epochs", "3", "--lr", "1e-3", "--store", "a/b"]
    assert parse(Plain, words) == tyro.cli(Plain, args=words)
    assert parse(Plain, words).lr == 1e-3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "many"], "--epochs many: expected a whole number, got 'many'"),
        (["--lr=fast"], "--lr fast: expected a number, got 'fast'"),
        (["--patch", "4,5"], "--patch 4,5: expected three positive integers D,H,W such as 128,128,64, got '4,5'"),
        (["--epoch", "3"], "--epoch: unknown flag; near: --epochs"),
        (["--zzz", "3"], "--zzz: unknown flag"),
        (["--epochs"], "--epochs: its value is missing"),
        (["epochs", "3"], "epochs: expected a flag, which begins with --, and its value"),
    ],
)
def test_parse_says_in_one_line_what_cannot_be(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse(Plain, words)
    assert str(refused.value) == message


def test_split_pairs_takes_both_spellings() -> None:
    assert list(split_pairs(["--batch_size", "4", "--amp=bf16"])) == [("batch-size", "4"), ("amp", "bf16")]
