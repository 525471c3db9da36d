"""Say what each loader was tuned with, so that a reader can judge whether it was given its best."""

from __future__ import annotations

from benchmarks.contenders.settings import NUM_CACHED, QUEUE_LENGTH, SAMPLES_PER_VOLUME
from benchmarks.contenders.table import CEILING, DEFAULTS, FLOOR, SMART
from benchmarks.measuring.rows import Row

# numbers of pipelines/ as words, which a test compares: its MONAI loaders are not imported for a line of text
PREFETCH = 2  # batches for each worker, PyTorch's default
TUNED_CACHE = "copy_cache=False, no metadata"
DATA_SETS = {
    "monai": "Dataset, one volume read and decoded per patch",
    "monai-persistent": "PersistentDataset on the local disk, every case cached before timing; one file read per patch",
    "monai-cache": f"CacheDataset, {TUNED_CACHE}",
    SMART: f"SmartCacheDataset, {TUNED_CACHE}, cache_num 50% of the cases, replace_rate=0.25",
    "monai-thread": f"CacheDataset, {TUNED_CACHE}, ThreadDataLoader",
    DEFAULTS: "CacheDataset as it comes: copy_cache=True, metadata kept",
}


def tuning_of(row: Row) -> str:
    """Return the settings of a row as text; the ceiling has none."""
    workers = row.num_workers
    if row.loader == CEILING:
        return ""
    if row.loader == "dali":
        return "reuse_buffers=True, which is not LoaderConfig's default"
    if row.loader == FLOOR:
        return "reused buffers"
    if row.loader == "torchio":
        queue = f"Queue, max_length={QUEUE_LENGTH}, samples_per_volume={SAMPLES_PER_VOLUME}, num_workers={workers}"
        return f"{queue}; patches cut by LabelSampler"
    if row.loader == "nnunet":
        kind = f"NonDetMultiThreadedAugmenter, num_cached={NUM_CACHED}" if workers else "SingleThreadedAugmenter"
        return f"blosc2 files in chunks that suit the patch, {kind}"
    return "; ".join(filter(None, (DATA_SETS.get(row.loader), _data_loader(row))))


def _data_loader(row: Row) -> str:
    """Say how PyTorch's DataLoader is set."""
    pinned = ", pin_memory=True" if row.config.device == "gpu" else ""
    if not row.num_workers:
        return f"in the calling process{pinned}" if row.num_workers is not None else ""
    return f"persistent_workers={row.loader not in (SMART, DEFAULTS)}, prefetch_factor={PREFETCH}{pinned}"
