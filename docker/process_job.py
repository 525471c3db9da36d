"""The processing job: every host converts its share of the data set, the first one makes a single store of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import fsspec
from sagemaker_job import Job, Outcome
from supervise import Stop, run_module

from preprocessing.errors import EXIT_DONE, EXIT_REFUSED, EXIT_UNEXPECTED, InputError
from preprocessing.partition import PART, Partition

log = logging.getLogger(__name__)
LOOK_EVERY_S, TELL_EVERY_S = 2.0, 60.0


def process(job: Job, arguments: list[str], stop: Stop) -> Outcome:
    """Run ``preprocessing.to_shards`` with ``arguments`` on this host's share, then merge.

    An output that all hosts see (``s3://``, a shared file system) is merged by the first host once all shares are
    there. In a folder that only this host sees the share stays one, to be merged where they come together. Raises
    ``InputError`` without ``--output``.
    """
    output = _value_of("--output", arguments)
    number, num = job.host_index + 1, len(job.hosts)
    share = ["--partition", f"{number}/{num}"] if num > 1 else []
    ended = run_module(["preprocessing.to_shards", *arguments, *share], stop)
    if ended.code in (EXIT_DONE, EXIT_REFUSED) and num > 1:
        if job.is_own(output):
            log.info(
                "%s is this host's own: merge the shares with python -m preprocessing.merge --shards S3-PLACE", output
            )
        elif job.is_first:
            if not _wait_for_shares(output, num, stop):
                message = f"stopped while other hosts converted; to go on, start the same job for {output} again"
                return Outcome(code=EXIT_UNEXPECTED, message=message)
            ended = run_module(["preprocessing.merge", "--shards", output], stop)
    return Outcome.of_cases(ended.code, ended.reason, output)


def _value_of(flag: str, arguments: Sequence[str]) -> str:
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        if word == flag and following is not None:
            return following
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    raise InputError(f"process: give {flag}, the place of the store (s3://BUCKET/PREFIX, or a folder)")


def _wait_for_shares(output: str, num: int, stop: Stop) -> bool:
    """Wait until every share says that it is done; ``False`` when asked to stop.

    A host that fails fails the job, which ends this wait too.
    """
    files, root = fsspec.core.url_to_fs(output)
    missing = [Partition(number=number, of=num) for number in range(1, num + 1)]
    told_at = 0.0
    while True:
        files.invalidate_cache()
        missing = [share for share in missing if not files.exists(f"{root}/{share.folder}/{PART}")]
        if not missing or stop.is_asked:
            return not missing
        if time.monotonic() - told_at > TELL_EVERY_S:
            log.info("%s: waiting for share %s of %d", output, ", ".join(str(share.number) for share in missing), num)
            told_at = time.monotonic()
        time.sleep(LOOK_EVERY_S)
