"""What a loader is asked for: the one configuration that all loaders take."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pipelines.plan import PlanOptions
from preprocessing.console.errors import InputError
from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Int3

DTYPES = ("float32", "float16")
CROPS = ("auto", "host", "device")
READS = ("mmap", "dali", "gds")
DALI_ONLY = ("crop", "gpu_cache", "read")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What a loader delivers and how; the first block decides the samples, the second only the speed.

    ``batch_size`` is per rank. ``cases`` restricts the loader to some case ids (default: every labelled case).
    ``sticky`` keeps each case in its lane, and so on its rank, over the epochs. ``patch_rule`` says how patches are
    placed (see ``PlanOptions``). ``regions`` asks for overlapping region masks as labels, ``dtype`` for float32 or
    float16 images. With ``start_anew`` every iteration delivers the epoch from its first batch on, as validation wants
    it; otherwise it goes on where the last one was left.

    ``device`` is ``"cpu"`` or ``"gpu"``. ``num_threads`` serves the ``dali`` loader, ``num_workers`` the ``torch`` and
    MONAI ones. With ``reuse_buffers`` a CPU batch is overwritten when the next one is asked for, which saves a copy in
    loops that are then done with it.

    The ``dali`` loader cuts patches (``crop``) on the ``host``, or from whole volumes that lie on the ``device``; auto
    takes the device when that is a GPU, or when ``gpu_cache`` is a number above 0. ``gpu_cache`` limits the memory for
    these volumes: auto (up to half of what is free), a number of GiB, or 0 for none, which leaves the host. On the CPU,
    ``device`` means a buffer in its memory.
    ``read`` is how it gets at files: ``mmap``, DALI's own reader of patches (``dali``), or the same on the GPU, through
    GPUDirect Storage where the machine has it (``gds``).
    """

    store: str | Path
    patch: Int3
    batch_size: int = 2
    seed: int = 0
    augment: str = PlanOptions.augment
    samples_per_case: int = PlanOptions.samples_per_case
    window: int = PlanOptions.window
    foreground: float = PlanOptions.foreground
    sticky: bool = PlanOptions.sticky
    patch_rule: str = PlanOptions.patch_rule
    cases: tuple[str, ...] | None = None
    regions: bool = False
    dtype: str = "float32"
    start_anew: bool = False

    device: str = "cpu"
    num_threads: int = 2
    num_workers: int = 2
    reuse_buffers: bool = False
    crop: str = "auto"
    gpu_cache: str = "auto"
    read: str = "mmap"

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "gpu"):
            raise InputError(f"unknown device {self.device!r}; known: cpu, and gpu for the current CUDA device")
        if self.dtype not in DTYPES:
            raise InputError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPES)}")
        for name, known in (("crop", CROPS), ("read", READS)):
            if getattr(self, name) not in known:
                raise InputError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.read != "mmap" and self.crop == "device":
            raise InputError(f'read "{self.read}" reads patches, crop "device" needs volumes; take read "mmap"')
        if self.read == "gds" and self.device != "gpu":
            raise InputError(f'read "gds" reads into a GPU, the device is "{self.device}"; take read "dali" or "mmap"')
        if self.read != "mmap" and self.gpu_cache_gib:
            raise InputError(f'read "{self.read}" reads patches, gpu_cache {self.gpu_cache} is for volumes; drop one')
        if self.gpu_cache_gib and self.crop == "host":
            raise InputError(f'crop "host" keeps no volumes, gpu_cache {self.gpu_cache} is for volumes; drop one')
        if self.gpu_cache_gib == 0 and self.crop == "device":
            raise InputError('gpu_cache 0 leaves no memory for crop "device"; give a number of GiB, or crop "host"')
        for name, least in (("batch_size", 1), ("num_threads", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    @property
    def where_to_crop(self) -> str:
        """Decide between ``host`` and ``device``."""
        if self.crop != "auto":
            return self.crop
        if self.gpu_cache_gib is not None:
            return "device" if self.gpu_cache_gib > 0 else "host"
        return "device" if self.device == "gpu" and self.read == "mmap" else "host"

    @property
    def gpu_cache_gib(self) -> float | None:
        """Read ``gpu_cache``; ``None`` for auto. Raises ``InputError`` for what is no such number."""
        if self.gpu_cache == "auto":
            return None
        try:
            limit = float(self.gpu_cache)
        except ValueError:
            limit = -1.0
        if not 0 <= limit < float("inf"):
            raise InputError(f"gpu_cache {self.gpu_cache!r}: auto, a number of GiB, or 0 for none")
        return limit

    def check_for(self, loader: str) -> None:
        """Raise ``InputError`` for a setting that only the ``dali`` loader knows, given to another one."""
        for name in () if loader == "dali" else DALI_ONLY:
            if getattr(self, name) != getattr(LoaderConfig, name):
                raise InputError(
                    f'{name} "{getattr(self, name)}" is for the loader dali, this one is {loader}; leave it out'
                )

    def region_numbers(self, store: Store) -> tuple[tuple[int, ...], ...] | None:
        """Return the label ids of each region when regions are asked for; raises ``InputError`` if there are none.

        Where the data set has an ignore label it is one more, the last: a map of the voxels that do not count.
        """
        if not self.regions:
            return None
        if store.manifest.regions is None:
            raise InputError(
                f"{store.root} has no regions; convert it with --regions, for example WT=1+2+3,TC=2+3,ET=3"
            )
        ignored = () if store.manifest.ignore_label is None else ((store.manifest.ignore_label,),)
        return (*(tuple(numbers) for numbers in store.manifest.regions.values()), *ignored)

    def without_workers(self) -> LoaderConfig:
        """Return the same configuration for use inside this process."""
        return dataclasses.replace(self, num_workers=0)
