"""The DALI graph, written once for CPU and GPU; each function is the twin of one in ``reference.py``.

Samples come in through the inputs that ``inputs.py`` describes, patches already cut. On the CPU, for ``none`` and
``basic`` with patches of the host, the graph leaves the background to ``fill_background``: mask and shift are three
passes of DALI that take 18 ms for 128^3 x 4, setting it in place takes 5 (2 cores, DALI 2.4.0, 2026-11-24). A forked
process, such as a DataLoader's worker, is kept from taking down a pipeline that it inherited.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from nvidia.dali import fn, math
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline, pipeline_def
from nvidia.dali.types import Constant, DALIDataType

from pipelines.augment import in_dali as ops
from pipelines.dali.inputs import FACTORS, PATCHES, SWITCHES, input_specs
from pipelines.reference import KeepZero
from preprocessing.volumes.grid import Array, Int3

_pipelines: set[weakref.ref[Pipeline]] = set()
_inherited: list[Pipeline] = []
LAYOUTS = {"image": "DHWC", "label": "DHWC", "noise": "DHWC"}


def keep_from_forks(pipeline: Pipeline) -> None:
    """See to it that no process forked from this one ever finalizes ``pipeline``.

    A pipeline's finalizer joins its threads, and a fork has none of them: it hangs there or crashes. It gets that far
    whenever its garbage collector comes by first, to a pipeline in a cycle, as the traceback of an error is one.
    """
    _pipelines.add(weakref.ref(pipeline, _pipelines.discard))


def _hold() -> None:
    _inherited.extend(pipeline for reference in _pipelines.copy() if (pipeline := reference()) is not None)


os.register_at_fork(before=_hold, after_in_parent=_inherited.clear)


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """What shapes the graph; everything random arrives as data.

    ``keep_zero`` says whether zero has to be kept as background (MR; it stays of itself in prepared images), ``clips``
    whether intensities have a range (CT).
    """

    batch_size: int
    patch: Int3
    num_channels: int
    image_dtype: str
    augment: str
    dtype: str
    keep_zero: KeepZero
    regions: tuple[tuple[int, ...], ...] | None
    raw_patches: bool
    patch_device: str
    device: str
    num_threads: int
    prefetch: int

    @property
    def leaves_background(self) -> bool:
        """Whether ``fill_background`` has to follow the graph."""
        return self.keep_zero is True and self.augment != "full" and self.device == "cpu" and not self.raw_patches


def standardize(patch: DataNode, statistics: DataNode, options: GraphOptions) -> DataNode:
    """Map each channel linearly by ``graph_inputs.statistics``; float32, background not yet set.

    ``fn.normalize`` is the only DALI operator that is fast on CPU with one number per channel: arithmetic that
    broadcasts over channels took 2.3 times as long (2 cores, 128^3 x 4 int16, DALI 2.4.0, 2026-11-24).
    """
    shape = [1, 1, 1, options.num_channels]
    mean, std = fn.reshape(statistics[0], shape=shape), fn.reshape(statistics[1], shape=shape)
    if options.keep_zero is not True:
        low, high = fn.reshape(statistics[2], shape=shape), fn.reshape(statistics[3], shape=shape)
        patch = math.clamp(fn.cast(patch, dtype=DALIDataType.FLOAT), low, high)
    return fn.normalize(patch, mean=mean, stddev=std, axes=[0, 1, 2])


def normalize(patch: DataNode, statistics: DataNode, options: GraphOptions) -> DataNode:
    """Map each channel linearly and set the background, where there is one, to the shift; float32."""
    values = standardize(patch, statistics, options)
    if options.keep_zero is False:
        return values
    if options.keep_zero is not True:
        return _with_background(values, patch, statistics, options.keep_zero)
    foreground = values * (patch != 0)
    return foreground if options.augment == "full" else foreground + statistics[4, 0] * (patch == 0)


def _with_background(values: DataNode, patch: DataNode, statistics: DataNode, kept: Sequence[bool]) -> DataNode:
    """Set the background of the channels that have one to what a raw zero becomes."""
    row = Constant(np.reshape([float(has) for has in kept], (1, 1, 1, len(kept))).astype(np.float32))  # type: ignore[no-untyped-call]
    empty = row * (patch == 0)
    background = fn.reshape(statistics[4], shape=[1, 1, 1, len(kept)])
    made: DataNode = values * (1.0 - empty) + background * empty
    return made


def fill_background(image: Array, patch: Array, shift: float) -> None:
    """Do what ``standardize`` left: set ``image`` [d,h,w,C] to ``shift`` where ``patch`` [d,h,w,C] is zero."""
    background, value = np.empty(image.shape[1:], np.bool_), image.dtype.type(shift)
    for values, raw in zip(image, patch, strict=True):  # a plane at a time stays in the cache
        np.equal(raw, 0, out=background)
        np.copyto(values, value, where=background)


def boxed(image: DataNode, label: DataNode, given: Mapping[str, DataNode]) -> tuple[DataNode, DataNode]:
    """Read from a sample that moves, which comes as its whole volume, the box that it needs."""
    if given["switches"][SWITCHES.index("spatial")]:
        image = fn.slice(image, start=given["box"][0], shape=given["box"][1], axes=ops.SPACE)
        label = fn.slice(label, start=given["box"][0], shape=given["box"][1], axes=ops.SPACE)
    return image, label


def flip(volume: DataNode, flips: DataNode) -> DataNode:
    """Reverse the axes D, H, W marked by 1."""
    return fn.flip(volume, depthwise=flips[0], vertical=flips[1], horizontal=flips[2])


def augmented(
    image: DataNode, label: DataNode, given: Mapping[str, DataNode], options: GraphOptions
) -> tuple[DataNode, DataNode]:
    """Standardise and apply nnU-Net's list; a sample that moves comes as the box that ``matrix`` reads."""
    fires = {name: given["switches"][index] for index, name in enumerate(SWITCHES)}
    factors = {name: given["factors"][index] for index, name in enumerate(FACTORS)}
    channels, patch = options.num_channels, options.patch
    if fires["spatial"]:
        label = ops.affine_nearest(label, given["matrix"], patch)
    image = normalize(image, given["statistics"], options)
    if fires["spatial"]:
        outside = None if options.keep_zero is True else given["statistics"][4]
        image = ops.affine(image, given["matrix"], patch, outside, channels)
    if fires["noise"]:
        image = ops.gaussian_noise(image, given["noise"])
    if fires["blur"]:
        image = ops.gaussian_blur(image, given["sigma"], channels)
    if fires["brightness"]:
        image = ops.brightness(image, factors["brightness"], channels)
    if fires["contrast"]:
        image = ops.contrast(image, factors["contrast"], channels)
    if fires["low_resolution"]:
        image = ops.low_resolution(image, given["sizes"], patch, channels)
    if fires["gamma_inverted"]:
        image = ops.gamma(image, factors["gamma_inverted"], channels, inverted=True)
    if fires["gamma"]:
        image = ops.gamma(image, factors["gamma"], channels, inverted=False)
    return image, label


def region_channels(label: DataNode, regions: Sequence[Sequence[int]]) -> DataNode:
    """Turn class ids [d,h,w,1] into region masks [d,h,w,R] of 0 and 1, uint8."""
    masks = [
        fn.lookup_table(label, keys=list(numbers), values=[1.0] * len(numbers), dtype=DALIDataType.UINT8)
        for numbers in regions
    ]
    return fn.cat(*masks, axis=3) if len(masks) > 1 else masks[0]


def build_graph(options: GraphOptions) -> Pipeline:
    """Build the pipeline: feed it with ``feed_input``, get batches of image and label.

    On the CPU the classic executor is used: it keeps its buffers from run to run, where the dynamic one takes fresh
    memory for every batch (9,400 page faults and half the throughput, 2 cores, DALI 2.4.0, 2026-11-24); its outputs are
    valid until the next run. On a GPU the dynamic executor's outputs stay valid as long as somebody holds them.
    """
    on_gpu = options.device == "gpu"
    pipeline = define_graph(options, device_id(options.device), exec_dynamic=on_gpu)
    pipeline.build()  # type: ignore[no-untyped-call]
    keep_from_forks(pipeline)
    return pipeline


def define_graph(options: GraphOptions, device: int | None, *, exec_dynamic: bool) -> Pipeline:
    """Define the pipeline for the GPU of number ``device`` (``None``: the CPU), which need not be there yet."""
    specs = input_specs(
        options.augment, options.patch, options.num_channels, options.image_dtype, raw_patches=options.raw_patches
    )
    devices = {name: options.patch_device if name in PATCHES else "cpu" for name in specs}

    @pipeline_def(  # type: ignore[call-overload, untyped-decorator]  # DALI's stub is behind: no exec_dynamic, no CPU
        batch_size=options.batch_size,
        num_threads=options.num_threads,
        device_id=device,
        prefetch_queue_depth=options.prefetch,
        exec_dynamic=exec_dynamic,
        enable_conditionals=options.augment == "full",
    )
    def graph() -> tuple[DataNode, DataNode]:
        given = {
            name: fn.external_source(name=name, device=place, layout=LAYOUTS.get(name), no_copy=True)
            for name, place in devices.items()
        }
        image, label = given["image"], given["label"]
        if "box" in given:
            image, label = boxed(image, label, given)
        if options.image_dtype == "float16":  # which hardly anything takes on the CPU
            image = fn.cast(image, dtype=DALIDataType.FLOAT)
        if "flips" in given:
            image, label = flip(image, given["flips"]), flip(label, given["flips"])
        if options.device == "gpu" and options.patch_device == "cpu":
            image, label = image.gpu(), label.gpu()
        return _outputs(image, label, given, options)

    made: Pipeline = graph()
    return made


def _outputs(
    image: DataNode, label: DataNode, given: Mapping[str, DataNode], options: GraphOptions
) -> tuple[DataNode, DataNode]:
    if options.augment == "full":
        image, label = augmented(image, label, given, options)
    else:
        make = standardize if options.leaves_background else normalize
        image = make(image, given["statistics"], options)
    if options.dtype == "float16":  # as the last step: nothing else takes float16 on the CPU
        image = fn.cast(image, dtype=DALIDataType.FLOAT16)
    if options.regions is not None:
        label = region_channels(label, options.regions)
    return image, label


def device_id(device: str) -> int | None:
    """Return DALI's number of a device: the GPU that this process uses, or ``None`` for none."""
    return torch.cuda.current_device() if device == "gpu" else None
