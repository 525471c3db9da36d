"""Submit jobs to SageMaker: ``python docker/launch.py train --dry-run ... -- FLAGS OF THE TRAINER``.

The flags after ``--`` are for the command inside the container. They are checked here, before anything costs money.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeVar

import tyro
from request.aws import check_request, follow, submit
from request.defaults import with_defaults
from request.job import Request, region_of, with_extra
from request.pipeline import Pipeline, pipeline_request, step_requests
from request.processing import Process, processing_request
from request.training import Train, training_request

from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.console.flags import main, parse, split_pairs

OptionsT = TypeVar("OptionsT")
SET_BY_TRAINING = ("shards", "output", "resume")
SET_BY_PROCESSING = ("input", "output", "partition", "engine", "scheduler")


def split_at_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line at the first ``--``."""
    cut = words.index("--") if "--" in words else len(words)
    return list(words[:cut]), list(words[cut + 1 :])


def read_flags(
    words: Sequence[str],
    options_type: type[OptionsT],
    check: Callable[[OptionsT], None],
    set_by_job: Collection[str],
) -> dict[str, str]:
    """Return the flags of a command by name: ``--batch-size 4 --amp=bf16`` is ``{"batch-size": "4", "amp": "bf16"}``.

    ``--help`` among them shows the command's own help and ends the program. Raises ``InputError`` for a flag or a value
    that the command does not take, for one of ``set_by_job``, and what the command's own ``check`` raises.
    """
    if "--help" in words:
        tyro.cli(options_type, args=["--help"], prog="... --")
    options = parse(options_type, words)
    flags = dict(split_pairs(words))
    for name in set_by_job:
        if name in flags:
            raise InputError(f"-- --{name} {flags[name]}: the job sets this one; leave it out after --")
    check(options)
    return flags


@dataclass(frozen=True, kw_only=True)
class Options:
    """Submit a job to SageMaker; the flags of the command inside the container follow after --."""

    job: Annotated[Train | Process | Pipeline, tyro.conf.arg(name="")]
    """The kind of job."""


def launch(passed: Sequence[str], options: Options) -> int:
    """Build, check and send the request; returns the exit code."""
    job = options.job
    kind, request = build_request(job, passed)
    check_request(kind, request)
    if job.dry_run:
        print(json.dumps(json.loads(request.get("PipelineDefinition", "null")) or request, indent=2))
        return EXIT_DONE
    region = region_of(job.image)
    name = submit(kind, request, region)
    return follow(kind, name, region) if job.wait else EXIT_DONE


def request_of(words: Sequence[str]) -> tuple[str, Request]:
    """Return the kind of job and the request that ``python docker/launch.py WORDS`` sends, checked."""
    own, passed = split_at_dashes(words)
    kind, request = build_request(tyro.cli(Options, args=own).job, passed)
    check_request(kind, request)
    return kind, request


def build_request(job: Train | Process | Pipeline, passed: Sequence[str]) -> tuple[str, Request]:
    """Return the kind of job in SageMaker's words, and the whole request."""
    if isinstance(job, Pipeline):
        return "Pipeline", _pipeline_request(with_defaults(job, "TrainingJob"), passed)
    if isinstance(job, Train):
        request = training_request(with_defaults(job, "TrainingJob"), _training_flags(passed))
        return "Training", with_extra(request, job.extra)
    request = processing_request(with_defaults(job, "ProcessingJob"), _conversion_flags(passed))
    return "Processing", with_extra(request, job.extra)


def _pipeline_request(job: Pipeline, passed: Sequence[str]) -> Request:
    """Have AWS's SDK write the definition, of steps that are checked as single jobs are."""
    train_words, convert_words = split_at_dashes(passed)
    convert, train = step_requests(job, _conversion_flags(convert_words), _training_flags(train_words))
    train = with_extra(train, job.extra)
    for kind, request in (("Processing", convert), ("Training", train)):
        check_request(kind, request)
    for name in ("sagemaker", "sagemaker.config"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("AWS_DEFAULT_REGION", region_of(job.image))  # the SDK cannot even be imported without one
    try:
        from request.sdk import pipeline  # seconds, and a gigabyte to install
    except ImportError as error:
        raise InputError(f'{error}; a pipeline needs AWS\'s SDK: pip install "voxelfeed[sagemaker]"') from error
    return pipeline_request(job, pipeline(convert, train).definition())


def _training_flags(passed: Sequence[str]) -> dict[str, str]:
    from training.options import Options as TrainingOptions
    from training.options import check_options  # seconds of torch

    return read_flags(passed, TrainingOptions, check_options, SET_BY_TRAINING)


def _conversion_flags(passed: Sequence[str]) -> dict[str, str]:
    from preprocessing.to_shards import Options as ConversionOptions
    from preprocessing.to_shards import check_options

    return read_flags(passed, ConversionOptions, check_options, SET_BY_PROCESSING)


if __name__ == "__main__":
    words, passed_words = split_at_dashes(sys.argv[1:])
    main(partial(launch, passed_words), Options, words)
