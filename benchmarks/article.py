"""The experiments of AWS's article, one command each: ``python benchmarks/article.py epoch``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

import tyro

from benchmarks.experiments.epoch import Epoch, Workers, draw_workers, is_unexpected, measure_epoch, measure_workers
from benchmarks.experiments.load import Load, measure_load
from benchmarks.experiments.project import Project, measure_project
from benchmarks.experiments.quality import Quality, draw_quality, measure_quality
from benchmarks.experiments.split import Split, draw_split, measure_split
from benchmarks.measuring.processes import NoiseWatch
from benchmarks.reporting.figure import draw_bars
from benchmarks.reporting.page import Draw, publish
from benchmarks.reporting.result import Record, make_record
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError
from preprocessing.console.flags import main

ExperimentT = TypeVar("ExperimentT")
Named = Annotated[ExperimentT, tyro.conf.subcommand(prefix_name=False)]
Chosen = Named[Load] | Named[Epoch] | Named[Workers] | Named[Split] | Named[Project] | Named[Quality]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Repeat one experiment of AWS's article on scalable medical computer vision (2022); table, JSON and PNG.

    What was projected or published, not measured here, is in italics. Exit code 1 when a loader fails, unless its
    memory was limited: that is a finding.
    """

    experiment: tyro.conf.OmitArgPrefixes[Chosen]


@dataclass(frozen=True)
class Kind:
    """How an experiment's result is called, and how it is measured and drawn."""

    benchmark: str
    title: str
    measure: Callable[[Any], Record]
    draw: Draw


DRAW_EPOCHS = partial(draw_bars, metric="epoch_s", is_log=True)
KINDS: dict[type[object], Kind] = {
    Load: Kind("article-load", "Loading one image", measure_load, partial(draw_bars, metric="wall_ms", is_log=True)),
    Epoch: Kind("article-epoch", "Epochs of MONAI's data sets and ours", measure_epoch, DRAW_EPOCHS),
    Workers: Kind("article-workers", "Workers, too few and too many", measure_workers, draw_workers),
    Split: Kind("article-split", "Where the time of a training step goes", measure_split, draw_split),
    Project: Kind("article-project", "Projection: the article's instances", measure_project, DRAW_EPOCHS),
    Quality: Kind("training-quality", "Training", measure_quality, draw_quality),
}


def repeat(options: Options) -> int:
    """Run the command; returns the exit code."""
    experiment = options.experiment
    if not isinstance(experiment, Quality) and experiment.runs < 1:
        raise InputError(f"--runs {experiment.runs}: it must be at least 1")
    kind, watch = KINDS[type(experiment)], NoiseWatch()
    record = make_record(kind.benchmark, kind.measure(experiment), watch)
    publish(record, f"{kind.title}: {record['data']['name']}", kind.draw, experiment.output)
    return EXIT_UNEXPECTED if any(is_unexpected(row) for row in record["rows"]) else EXIT_DONE


if __name__ == "__main__":
    main(repeat, Options)
