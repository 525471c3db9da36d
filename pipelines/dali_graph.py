"""The DALI graph, written once for CPU and GPU; each function is the twin of one in ``reference.py``.

Samples come in through five inputs fed by the loader, patches already cut: image [d,h,w,C], label [d,h,w,1] uint8,
flips int32 [3], statistics float32 [4,C] (mean, std / scale, low, high), shift float32 scalar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nvidia.dali import fn, math
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline, pipeline_def
from nvidia.dali.types import DALIDataType

LAYOUTS = {"image": "DHWC", "label": "DHWC"}


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """What shapes the graph; everything random arrives as data."""

    batch_size: int
    num_channels: int
    augment: str
    keep_zero: bool
    regions: tuple[tuple[int, ...], ...] | None
    device: str
    num_threads: int
    prefetch: int


def input_names(augment: str) -> tuple[str, ...]:
    """Name the inputs that the graph of ``augment`` has."""
    always = ("image", "label", "statistics")
    return always if augment == "none" else (*always, "flips", "shift")


def flip(patch: DataNode, flips_dhw: DataNode) -> DataNode:
    """Reverse the axes whose entry in ``flips_dhw`` (int32 [3]) is 1."""
    return fn.flip(patch, depthwise=flips_dhw[0], vertical=flips_dhw[1], horizontal=flips_dhw[2])


def normalize(patch: DataNode, statistics: DataNode, options: GraphOptions) -> DataNode:
    """Standardise each channel, the scale folded into the deviation; float32.

    ``fn.normalize`` is the only DALI operator that is fast on CPU with one number per channel: arithmetic that
    broadcasts over channels took 2.3 times as long (2 cores, 128^3 x 4 int16, DALI 2.4.0, 2026-11-24).
    """
    shape = [1, 1, 1, options.num_channels]
    mean, std = fn.reshape(statistics[0], shape=shape), fn.reshape(statistics[1], shape=shape)
    if not options.keep_zero:
        low, high = fn.reshape(statistics[2], shape=shape), fn.reshape(statistics[3], shape=shape)
        patch = math.clamp(fn.cast(patch, dtype=DALIDataType.FLOAT), low, high)
    values = fn.normalize(patch, mean=mean, stddev=std, axes=[0, 1, 2])
    return values * (patch != 0) if options.keep_zero else values


def region_channels(label: DataNode, regions: Sequence[Sequence[int]]) -> DataNode:
    """Turn class ids [d,h,w,1] into region masks [d,h,w,R] of 0 and 1, uint8."""
    masks = [
        fn.lookup_table(label, keys=list(numbers), values=[1.0] * len(numbers), dtype=DALIDataType.UINT8)
        for numbers in regions
    ]
    return fn.cat(*masks, axis=3) if len(masks) > 1 else masks[0]


def build_graph(options: GraphOptions) -> Pipeline:
    """Build the pipeline: feed it with ``feed_input`` under the names of ``input_names``, get (image, label) batches.

    On the CPU the classic executor is used: it keeps its buffers from run to run, where the dynamic one takes fresh
    memory for every batch (9,400 page faults and half the throughput, 2 cores, DALI 2.4.0, 2026-11-24); its outputs are
    valid until the next run. On a GPU the dynamic executor's outputs stay valid as long as somebody holds them.
    """
    on_gpu = options.device == "gpu"

    @pipeline_def(  # type: ignore[call-overload, untyped-decorator]  # DALI's stub is behind: no exec_dynamic, no CPU
        batch_size=options.batch_size,
        num_threads=options.num_threads,
        device_id=None if not on_gpu else _current_gpu(),
        prefetch_queue_depth=options.prefetch,
        exec_dynamic=on_gpu,
    )
    def graph() -> tuple[DataNode, DataNode]:
        names = input_names(options.augment)
        given = {name: fn.external_source(name=name, layout=LAYOUTS.get(name), no_copy=True) for name in names}
        image, label = given["image"], given["label"]
        if on_gpu:
            image, label = image.gpu(), label.gpu()
        if options.augment != "none":
            image, label = flip(image, given["flips"]), flip(label, given["flips"])
        image = normalize(image, given["statistics"], options)
        if options.augment != "none":
            image = image + given["shift"]
        if options.regions is not None:
            label = region_channels(label, options.regions)
        return image, label

    pipeline: Pipeline = graph()
    pipeline.build()  # type: ignore[no-untyped-call]
    return pipeline


def _current_gpu() -> int:
    import torch

    return torch.cuda.current_device()
