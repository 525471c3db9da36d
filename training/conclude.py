"""End a run: say what came out and what limited it, and leave pictures and a page about it."""

from __future__ import annotations

import logging

from training.board import Board
from training.checkpoint import BEST
from training.loop import Training
from training.record import read_metrics
from training.report import Options, report
from training.showcase import write_showcase
from training.timing import describe_limit, total_split

log = logging.getLogger(__name__)


def conclude(training: Training) -> None:
    """Write everything that is made once, at the end; one process does it."""
    setup, progress = training.setup, training.progress
    pictures = write_showcase(setup.folder, setup.store, setup.group.device, setup.amp)
    board = Board(setup.folder, progress.step + 1)
    board.add_pictures(pictures, progress.step)
    board.close()
    best = setup.folder / "checkpoints" / BEST
    if progress.best_epoch < 0:
        log.warning("no validation gave a mean dice here: there is no %s", best)
    else:
        log.info("best mean dice %.4f in epoch %d: %s", progress.best_dice, progress.best_epoch + 1, best)
    total = total_split(read_metrics(setup.folder))
    if total.steps:
        log.info("%s", describe_limit(total, setup.options["loader"], on_gpu=setup.group.device.type == "cuda"))
        report(Options(run=setup.folder))
