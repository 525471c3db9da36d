"""Go back to where an earlier process stopped, or say why this command cannot."""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preprocessing.errors import InputError
from training.checkpoint import DAMAGED, LAST, PREVIOUS, load_checkpoint, newest_whole
from training.loop import Training
from training.options import Options, check_same
from training.precision import format_name
from training.state import Setup

log = logging.getLogger(__name__)


def check_free(options: Options) -> None:
    """Raise ``InputError`` when ``--output`` holds a run that this command would write over."""
    folder = options.output / "checkpoints"
    if options.resume == "auto" or not any((folder / name).exists() for name in (LAST, PREVIOUS)):
        return
    if options.resume == "never":
        raise InputError(f"{options.output} holds a run; go on with --resume auto, or give another --output")
    if not _lies_in(Path(options.resume), folder):
        raise InputError(
            f"{options.output} holds another run than --resume {options.resume}; go on with --resume auto, or give "
            "another --output"
        )


def resume(training: Training, options: Options) -> None:
    """Load the checkpoint that ``--resume`` asks for; with ``auto`` there may be none, which is said.

    Raises ``InputError`` for a checkpoint of other options, another store or another stream of samples.
    """
    setup, folder = training.setup, training.setup.folder / "checkpoints"
    path = Path(options.resume)
    found = newest_whole(folder) if options.resume == "auto" else (path, load_checkpoint(path))
    if found is None:
        log.info("nothing to resume at %s: starting anew", folder / LAST)
    else:
        path, content = found
        if "loader" not in content:
            raise InputError(f"cannot resume {path}: it holds weights only; give last.pt, or this one to --init-from")
        check_same(content["options"], setup.options, path)
        _check_store(content["spec"], setup, path)
        training.load(content)
        _tell_format(content, setup)
        log.info("resuming %s at epoch %d, step %d", path, training.progress.epoch + 1, training.progress.step)
        if not _lies_in(path, folder):
            _begin_folder(training)
    setup.group.check_equal("the step to go on from (do all machines see --output?)", training.progress.step)
    passed_over = options.resume == "auto" and path == folder / PREVIOUS and (folder / LAST).exists()
    if passed_over and setup.group.is_main:
        (folder / LAST).replace(folder / DAMAGED)  # the next save would keep it in place of the whole one


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().parent == folder.resolve()


def _check_store(saved_spec: Mapping[str, Any], setup: Setup, path: Path) -> None:
    """Name the first thing in which the store is not what the network was trained on."""
    saved, given = (json.loads(json.dumps(spec)) for spec in (saved_spec, setup.spec.to_plain()))
    for name, value in given.items():
        if saved.get(name) != value:
            raise InputError(
                f"cannot resume {path}: it was trained on a store with {name} = {reprlib.repr(saved.get(name))}, "
                f"{setup.store.root} has {reprlib.repr(value)}; give the --shards of that run"
            )


def _tell_format(content: Mapping[str, Any], setup: Setup) -> None:
    now = format_name(setup.amp)
    before = content.get("number_format", now)
    if before != now and setup.group.is_main:
        log.warning("the run computed in %s and now goes on in %s: its losses will differ a little", before, now)


def _begin_folder(training: Training) -> None:
    """Begin the figures of a folder anew: the lines and the best weights so far lie in the one that is left."""
    progress = training.progress
    progress.lines, progress.best_dice, progress.best_epoch = 0, -1.0, -1
    log.info("%s is another folder: its metrics.jsonl and best.pt begin here", training.setup.folder)
