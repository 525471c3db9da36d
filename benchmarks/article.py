"""The experiments of AWS's article, one command each: ``python benchmarks/article.py epoch``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

if not __package__:  # started as a file: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro

from benchmarks.experiments import plot
from benchmarks.experiments.epoch import Epoch, Workers, is_unexpected, measure_epoch, measure_workers
from benchmarks.experiments.load import Load, measure_load
from benchmarks.experiments.project import Project, measure_project
from benchmarks.experiments.split import Split, measure_split
from benchmarks.measuring.processes import NoiseWatch
from benchmarks.reporting.page import publish
from benchmarks.reporting.result import Record, make_record
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError
from preprocessing.console.flags import main

ExperimentT = TypeVar("ExperimentT")
Named = Annotated[ExperimentT, tyro.conf.subcommand(prefix_name=False)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Repeat one experiment of AWS's article on scalable medical computer vision (2022); table, JSON and PNG.

    What was projected or published, not measured here, is in italics. Exit code 1 when a loader fails, unless its
    memory was limited: that is a finding.
    """

    experiment: tyro.conf.OmitArgPrefixes[Named[Load] | Named[Epoch] | Named[Workers] | Named[Split] | Named[Project]]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How an experiment is called, measured and drawn."""

    title: str
    measure: Callable[[Any], Record]
    draw: Callable[[Record, Path], None]


KINDS: dict[type[object], Kind] = {
    Load: Kind(title="Loading one image", measure=measure_load, draw=plot.draw_load),
    Epoch: Kind(title="Epochs of MONAI's data sets and ours", measure=measure_epoch, draw=plot.draw_epoch),
    Workers: Kind(title="Workers, too few and too many", measure=measure_workers, draw=plot.draw_workers),
    Split: Kind(title="Where the time of a training step goes", measure=measure_split, draw=plot.draw_split),
    Project: Kind(title="Projection: the article's instances", measure=measure_project, draw=plot.draw_project),
}


def repeat(options: Options) -> int:
    """Run the command; returns the exit code."""
    experiment = options.experiment
    if experiment.runs < 1:
        raise InputError(f"--runs {experiment.runs}: it must be at least 1")
    kind, watch = KINDS[type(experiment)], NoiseWatch()
    record = make_record(f"article-{type(experiment).__name__.lower()}", kind.measure(experiment), watch)
    publish(record, f"{kind.title}: {record['data']['name']}", kind.draw, experiment.output)
    return EXIT_UNEXPECTED if any(is_unexpected(row) for row in record["rows"]) else EXIT_DONE


if __name__ == "__main__":
    main(repeat, Options)
