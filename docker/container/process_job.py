"""The processing job: every host converts its share of the data set, the first one makes a single store of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from container.sagemaker_job import Job, Outcome
from container.supervise import Stop, run_module
from preprocessing.console.errors import EXIT_DONE, EXIT_REFUSED, EXIT_UNEXPECTED, InputError
from preprocessing.console.flags import split_pairs
from preprocessing.console.places import location, read_file, replace_file
from preprocessing.conversion.partition import Partition

log = logging.getLogger(__name__)
LOOK_EVERY_S, TELL_EVERY_S = 2.0, 60.0
DONE = (
    "done_by_job"  # file in a share: the ARN of the job that finished it, since an earlier job may have left the share
)


def process(job: Job, arguments: list[str], stop: Stop) -> Outcome:
    """Run ``preprocessing.to_shards`` with ``arguments`` on this host's share, then merge.

    An output that all hosts see (``s3://``, a shared file system) is merged by the first host once all shares are
    there. A share in a folder that only this host sees is not merged. Raises ``InputError`` without ``--output``, and
    for a shared one without the job's ARN.
    """
    output = dict(split_pairs(arguments)).get("output")
    if output is None:
        raise InputError("process: give --output, the place of the store (s3://BUCKET/PREFIX, or a folder)")
    number, num = job.host_index + 1, len(job.hosts)
    is_shared = num > 1 and not job.is_own(output)
    if is_shared and not job.arn:
        raise InputError("process: several hosts, but no ProcessingJobArn in processingjobconfig.json")
    words = ["--partition", f"{number}/{num}"] if num > 1 else []
    ended = run_module(["preprocessing.to_shards", *arguments, *words], stop)
    if ended.code in (EXIT_DONE, EXIT_REFUSED) and is_shared:
        shares = [location(output) / Partition(number=n, of=num).folder for n in range(1, num + 1)]
        replace_file(shares[job.host_index] / DONE, job.arn.encode())
        if job.is_first:
            if not _wait_for(shares, job.arn, stop):
                message = f"stopped while other hosts converted; start the same job for {output} again to continue"
                return Outcome(code=EXIT_UNEXPECTED, message=message)
            ended = run_module(["preprocessing.merge", "--shards", output], stop)
    elif ended.code in (EXIT_DONE, EXIT_REFUSED) and num > 1:
        log.info("%s is this host's own: merge the shares with python -m preprocessing.merge --shards S3-PLACE", output)
    return Outcome.of_cases(ended.code, ended.reason, output)


def _wait_for(shares: Sequence[Path], arn: str, stop: Stop) -> bool:
    """Wait until this job has done every share; ``False`` when asked to stop.

    A host that fails fails the job, which ends this wait too.
    """
    told_at = 0.0
    while missing := [share for share in shares if not _is_done(share, arn)]:
        if stop.is_asked:
            return False
        if time.monotonic() - told_at > TELL_EVERY_S:
            log.info("waiting for %s", ", ".join(map(str, missing)))
            told_at = time.monotonic()
        time.sleep(LOOK_EVERY_S)
    return True


def _is_done(share: Path, arn: str) -> bool:
    try:
        return read_file(share / DONE) == arn.encode()
    except FileNotFoundError:
        return False
