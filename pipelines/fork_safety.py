"""Keep a forked process, such as a DataLoader's worker, from taking down a DALI pipeline that it inherited."""

from __future__ import annotations

import os
import weakref

from nvidia.dali.pipeline import Pipeline

_pipelines: set[weakref.ref[Pipeline]] = set()
_inherited: list[Pipeline] = []


def keep_from_forks(pipeline: Pipeline) -> None:
    """See to it that no process forked from this one ever finalizes ``pipeline``.

    A pipeline's finalizer joins its threads, and a fork has none of them: it hangs there or crashes. It gets that far
    whenever its garbage collector comes by first, to a pipeline in a cycle, as the traceback of an error is one.
    """
    _pipelines.add(weakref.ref(pipeline, _pipelines.discard))


def _hold() -> None:
    _inherited.extend(pipeline for reference in _pipelines.copy() if (pipeline := reference()) is not None)


os.register_at_fork(before=_hold, after_in_parent=_inherited.clear)
