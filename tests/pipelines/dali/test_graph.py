"""The graph for a GPU without one: it is defined, and its executor is run on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvidia.dali import ops
from nvidia.dali.pipeline import Pipeline

from pipelines.config import LoaderConfig
from pipelines.dali import loader as dali_loader
from pipelines.dali.graph import GraphOptions, define_graph
from pipelines.loaders import build_loader

REGIONS = ((1, 2, 3), (2, 3), (3,))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("patch_device", ["cpu", "gpu"])
@pytest.mark.parametrize("regions", [None, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("keep_zero", [True, False], ids=["mr", "ct"])
@pytest.mark.parametrize("augment", ["none", "basic", "full"])
def test_every_graph_for_a_gpu_is_defined_with_operators_that_dali_has_for_it(
    augment: str, keep_zero: bool, regions: Sequence[tuple[int, ...]] | None, patch_device: str, dtype: str
) -> None:
    options = GraphOptions(
        batch_size=2,
        patch=(8, 8, 8),
        num_channels=3,
        image_dtype="int16",
        augment=augment,
        dtype=dtype,
        keep_zero=keep_zero,
        regions=None if regions is None else tuple(regions),
        raw_patches=patch_device == "gpu",
        patch_device=patch_device,
        device="gpu",
        num_threads=1,
        prefetch=2,
    )
    pipeline: Any = define_graph(options, 0, exec_dynamic=True)
    pipeline._build_graph()
    on_gpu = {_schema_of(made) for made in pipeline._ops if made.spec.OutputDevice(0) == "gpu"}
    assert on_gpu >= {"Normalize"}
    registered = set(ops.gpu_ops())  # type: ignore[attr-defined]  # not in its stub
    assert on_gpu - registered == {"_MakeContiguous"} & on_gpu
    assert [output.device for output in pipeline._graph_outputs] == ["gpu", "gpu"]


def _schema_of(made: Any) -> str:
    name: str = made._op.schema.Name()
    return name


@pytest.mark.parametrize("augment", ["basic", "full"])
def test_the_dynamic_executor_keeps_batches_that_somebody_holds(
    coordinate_store: Path, monkeypatch: pytest.MonkeyPatch, augment: str
) -> None:
    """A GPU's executor, forced on the CPU: every batch of an epoch is held, and all are right in the end."""
    config = LoaderConfig(
        store=coordinate_store, patch=(16, 16, 16), samples_per_case=4, augment=augment, crop="device", gpu_cache="1"
    )

    def dynamic(options: GraphOptions) -> Pipeline:
        pipeline = define_graph(options, None, exec_dynamic=True)
        pipeline.build()  # type: ignore[no-untyped-call]
        return pipeline

    monkeypatch.setattr(dali_loader, "build_graph", dynamic)
    with build_loader("dali", config) as loader:
        loader.reuse_buffers = True  # type: ignore[attr-defined]  # batches are handed out as DALI made them
        held = list(loader)
        with build_loader("torch", LoaderConfig(**_shared(config))) as reference:
            for made, wanted in zip(held, reference, strict=True):
                np.testing.assert_allclose(made.image.numpy(), wanted.image.numpy(), rtol=0, atol=1e-4)
                np.testing.assert_array_equal(made.label.numpy(), wanted.label.numpy())


def _shared(config: LoaderConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("store", "patch", "samples_per_case", "augment")}
