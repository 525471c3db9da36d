#!/usr/bin/env python3
"""What the container does when SageMaker starts it: ``train`` and ``process`` (docker/README.md)."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from container.sagemaker_job import Job, Outcome, write_message
from container.supervise import Stop
from preprocessing.console.errors import EXIT_UNEXPECTED, EXIT_USAGE, InputError, RunError


def train(job: Job, arguments: list[str], stop: Stop) -> Outcome:
    """Run a training job."""
    from container import train_job

    return train_job.train(job, arguments, stop)


def process(job: Job, arguments: list[str], stop: Stop) -> Outcome:
    """Run a processing job."""
    from container import process_job

    return process_job.process(job, arguments, stop)


COMMANDS = {"train": train, "process": process}


def main(words: list[str]) -> int:
    """Run the command that ``words`` begin with; returns the exit code and writes down the reason of a failure."""
    stop = Stop()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name, *arguments = words or [""]
    if name not in COMMANDS:
        print(f"error: {name or 'no command'}: unknown; known: {', '.join(COMMANDS)}", file=sys.stderr)
        return EXIT_USAGE
    try:
        outcome = COMMANDS[name](Job.read(name), arguments, stop)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        outcome = Outcome(code=EXIT_USAGE, message=str(error))
    except (OSError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        outcome = Outcome(code=EXIT_UNEXPECTED, message=str(error))
    if outcome.message:
        write_message(name, outcome.message)
    return outcome.code


if __name__ == "__main__":
    called = Path(sys.argv[0]).name  # in the image, links named train and process point here
    sys.exit(main([called, *sys.argv[1:]] if called in COMMANDS else sys.argv[1:]))
