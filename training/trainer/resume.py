"""Go back to where an earlier process stopped, or say why this command cannot."""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.loaders import MONAI
from preprocessing.console.errors import InputError
from training.model.checkpoint import DAMAGED, LAST, PREVIOUS, load_checkpoint, newest_whole
from training.model.compute import format_name
from training.options import Options
from training.trainer.loop import Training
from training.trainer.state import RunSetup

log = logging.getLogger(__name__)
PLACES = ("shards", "output", "resume", "init_from")
SPEED = ("loader", "device", "batch_size", "backend", "accumulate", "compile", "gpu_cache", "crop", "read", "workers")
FREE_ON_RESUME = (*PLACES, *SPEED, "val_every", "epochs")


def _may_change(name: str, old: object, new: object) -> bool:
    """Tell whether a resumed run may change an option: a MONAI loader draws patches that no other would go on with."""
    return name in FREE_ON_RESUME and not (name == "loader" and (old in MONAI or new in MONAI))


def check_same(saved: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on with other options: raises ``InputError`` that names the first one with both values."""
    if saved.get("global_batch") != given["global_batch"]:
        raise InputError(
            f"cannot resume {path}: it was made with {saved.get('global_batch')} patches per step over all processes, "
            f"this command takes {given['global_batch']}; choose --batch-size so that its product with the number "
            "of processes is the same"
        )
    for name, value in given.items():
        before = saved.get(name, getattr(Options, name, None))  # an earlier version did not have every option
        if before != value and not _may_change(name, before, value):
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"cannot resume {path}: it was made with {flag} {before}, this command says {value}; "
                "give the same, or start a new run with another --output"
            )
    if saved.get("epochs") != given["epochs"]:
        log.warning("the run had %s epochs and now has %s: the schedule changes", saved.get("epochs"), given["epochs"])


def check_free(options: Options) -> None:
    """Raise ``InputError`` when ``--output`` holds a run that this command would write over."""
    folder = options.output / "checkpoints"
    if options.resume == "auto" or not any((folder / name).exists() for name in (LAST, PREVIOUS)):
        return
    if options.resume == "never":
        raise InputError(f"{options.output} holds a run; continue it with --resume auto, or give another --output")
    if not _lies_in(Path(options.resume), folder):
        raise InputError(
            f"{options.output} holds another run than --resume {options.resume}; continue it with --resume auto, or "
            "give another --output"
        )


def resume(training: Training, options: Options) -> None:
    """Load the checkpoint that ``--resume`` asks for; with ``auto`` there may be none, which is said.

    Raises ``InputError`` for a checkpoint of other options, another store or another stream of samples.
    """
    setup, folder = training.setup, training.setup.folder / "checkpoints"
    path = Path(options.resume)
    found = newest_whole(folder) if options.resume == "auto" else (path, load_checkpoint(path))
    if found is None:
        log.info("nothing to resume at %s: starting a new run", folder / LAST)
    else:
        path, content = found
        if "loader" not in content:
            raise InputError(f"cannot resume {path}: it holds weights only; give last.pt, or this one to --init-from")
        check_same(content["options"], setup.options, path)
        _check_store(content["spec"], setup, path)
        training.load(content)
        _tell_format(content, setup)
        log.info(
            "resuming %s at epoch %d, step %d",
            path,
            training.progress.epoch + 1,
            training.progress.step,
        )
        if not _lies_in(path, folder):
            _begin_folder(training)
    setup.group.check_equal("the step to continue from (do all machines see --output?)", training.progress.step)
    passed_over = options.resume == "auto" and path == folder / PREVIOUS and (folder / LAST).exists()
    if passed_over and setup.group.is_main:
        (folder / LAST).replace(folder / DAMAGED)  # the next save would keep it in place of the whole one


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().parent == folder.resolve()


def _check_store(saved_spec: Mapping[str, Any], setup: RunSetup, path: Path) -> None:
    """Name the first thing in which the store is not what the network was trained on."""
    saved, given = (json.loads(json.dumps(spec)) for spec in (saved_spec, setup.spec.to_plain()))
    for name, value in given.items():
        if name in saved and saved[name] != value:  # an earlier version did not say everything
            raise InputError(
                f"cannot resume {path}: it was trained on a store with {name} = {reprlib.repr(saved.get(name))}, "
                f"{setup.store.root} has {reprlib.repr(value)}; give the --shards of that run"
            )


def _tell_format(content: Mapping[str, Any], setup: RunSetup) -> None:
    now = format_name(setup.amp)
    before = content.get("number_format", now)
    if before != now and setup.group.is_main:
        log.warning("the run computed in %s and now continues in %s: its losses will differ a little", before, now)


def _begin_folder(training: Training) -> None:
    """Begin the figures of a folder anew: the lines and the best weights so far lie in the one that is left."""
    progress = training.progress
    progress.lines, progress.best_dice, progress.best_epoch = 0, -1.0, -1
    log.info("%s is another folder: its metrics.jsonl and best.pt begin here", training.setup.folder)
