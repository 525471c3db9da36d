"""A process forked beside DALI pipelines, as DataLoader's workers are, outlives them."""

from __future__ import annotations

import gc
import multiprocessing
import weakref
from pathlib import Path

import pytest

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader


@pytest.mark.parametrize("read", ["mmap", "dali"])
def test_a_forked_process_collects_garbage_with_an_inherited_pipeline_in_it(coordinate_store: Path, read: str) -> None:
    config = LoaderConfig(store=coordinate_store, patch=(16, 16, 20), batch_size=2, read=read)
    gc.disable()  # so that the fork is the first to see the garbage
    try:
        loader = build_loader("dali", config)
        next(iter(loader))
        pipeline = loader.pipeline  # type: ignore[attr-defined]
        pipeline.of_a_cycle = pipeline
        alive = weakref.ref(pipeline)
        loader.close()
        del loader, pipeline
        assert alive() is not None
        child = multiprocessing.get_context("fork").Process(target=gc.collect)
        child.start()
        child.join(30)
        hung = child.is_alive()
        child.kill()
        child.join()
        assert not hung
        assert child.exitcode == 0
        gc.collect()
        assert alive() is None  # here it is as short-lived as ever
    finally:
        gc.enable()
