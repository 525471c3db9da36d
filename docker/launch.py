"""Submit SageMaker jobs that train or convert: ``python docker/launch.py train --dry-run ...`` (docs/sagemaker.md)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import tyro
from job_request import Request, region_of
from passed_flags import read_flags, split_at_dashes
from processing_request import Process, processing_request
from service_model import check_request
from submit import follow, submit
from training_request import Train, training_request

from preprocessing.cli import main
from preprocessing.errors import EXIT_DONE

SET_BY_TRAINING = ("shards", "output", "resume")
SET_BY_PROCESSING = ("input", "output", "partition", "engine", "scheduler")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Submit a job to SageMaker; the flags of the command inside the container follow after --."""

    job: Annotated[Train | Process, tyro.conf.arg(name="")]
    """The kind of job."""


def launch(passed: Sequence[str], options: Options) -> int:
    """Build, check and send the request; returns the exit code."""
    job = options.job
    kind, request = build_request(job, passed)
    check_request(kind, request)
    if job.dry_run:
        print(json.dumps(request, indent=2))
        return EXIT_DONE
    region = region_of(job.image)
    name = submit(kind, request, region)
    return follow(kind, name, region) if job.wait else EXIT_DONE


def build_request(job: Train | Process, passed: Sequence[str]) -> tuple[str, Request]:
    """Return the kind of job in SageMaker's words, and the whole request."""
    if isinstance(job, Train):
        from training.check_options import check_options as check_training  # seconds of torch
        from training.options import Options as TrainingOptions

        return "Training", training_request(job, read_flags(passed, TrainingOptions, check_training, SET_BY_TRAINING))
    from preprocessing.to_shards import Options as ConversionOptions
    from preprocessing.to_shards import check_options as check_conversion

    flags = read_flags(passed, ConversionOptions, check_conversion, SET_BY_PROCESSING)
    return "Processing", processing_request(job, flags)


if __name__ == "__main__":
    words, passed_words = split_at_dashes(sys.argv[1:])
    main(partial(launch, passed_words), Options, words)
