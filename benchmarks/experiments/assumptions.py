"""Figures that are not measured here: GPUs, instances, storage, prices, the article's results; each with its source.

Whatever is computed from these is a projection and marked as one. Prices are list prices, on demand, before any
discount: check them before you decide.
"""

from __future__ import annotations

from dataclasses import dataclass

NNUNET_EXAMPLE = (
    "NVIDIA DeepLearningExamples, PyTorch nnU-Net README, 3D training, mixed precision, batch 2, patches 4 x 128^3"
)
MLPERF = "MLPerf Storage, configs/dlio/workload/unet3d_*.yaml: 90 % accelerator utilisation"
ARTICLE = (
    "AWS for Industries, Scalable Medical Computer Vision Model Training with Amazon SageMaker, parts 1 and 2 (2022), "
    "aws.amazon.com/blogs/industries/scalable-medical-computer-vision-model-training-with-amazon-sagemaker-part-2"
)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What one GPU asks for: patches of 4 x 128^3 in a training step, and bytes in MLPerf Storage's unet3d."""

    name: str
    patches_per_s: float
    source: str
    mlperf_batch: int
    mlperf_step_s: float

    @property
    def mlperf_mb_per_s(self) -> float:
        """The reading rate that keeps the GPU 90 % busy with whole samples of 146.6 MB: 2,859 for an H100."""
        return MLPERF_UTILISATION * self.mlperf_batch * MLPERF_SAMPLE_MB / self.mlperf_step_s


MLPERF_SAMPLE_MB, MLPERF_UTILISATION = 146.600628, 0.9
V100 = Gpu(name="V100", patches_per_s=5.49, source=f"{NNUNET_EXAMPLE}, DGX-1", mlperf_batch=4, mlperf_step_s=1.3604)
A100 = Gpu(name="A100", patches_per_s=6.74, source=f"{NNUNET_EXAMPLE}, DGX A100", mlperf_batch=7, mlperf_step_s=0.636)
H100 = Gpu(
    name="H100",
    patches_per_s=6.74 * 0.636 / 0.323,
    source="the A100's figure times the ratio of their steps in MLPerf Storage's unet3d (0.636 s to 0.323 s)",
    mlperf_batch=7,
    mlperf_step_s=0.323,
)
GPUS = (V100, A100, H100)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A SageMaker training instance; ``cores`` are physical ones, half of the vCPUs."""

    name: str
    gpu: Gpu
    num_gpus: int
    cores: int
    ram_gib: int
    usd_per_hour: float
    source: str = (
        "SageMaker list prices, found in public lists in November 2026 (docs/sagemaker.md); EC2 instance types"
    )


INSTANCES = (
    Instance(name="ml.p3.2xlarge", gpu=V100, num_gpus=1, cores=4, ram_gib=61, usd_per_hour=3.825),
    Instance(name="ml.p3.16xlarge", gpu=V100, num_gpus=8, cores=32, ram_gib=488, usd_per_hour=28.152),
    Instance(name="ml.p4d.24xlarge", gpu=A100, num_gpus=8, cores=48, ram_gib=1152, usd_per_hour=25.25),
)


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Where shards lie. FSx for Lustre reads ``mb_per_s_per_tib`` for every TiB that is provisioned."""

    name: str
    source: str
    mb_per_s: float = 0.0
    mb_per_s_per_tib: float = 0.0
    usd_per_gb_month: float = 0.0

    def rate_mb_per_s(self, size_tib: float) -> float:
        """Return the reading rate of ``size_tib`` of it."""
        return self.mb_per_s or self.mb_per_s_per_tib * size_tib


FSX = "FSx for Lustre user guide, performance of SSD storage; FSx for Lustre pricing, us-east-1, as of 2024"
STORAGES = (
    Storage(name="FSx scratch, 200 MB/s/TiB", mb_per_s_per_tib=200, usd_per_gb_month=0.140, source=FSX),
    Storage(name="FSx persistent, 250 MB/s/TiB", mb_per_s_per_tib=250, usd_per_gb_month=0.210, source=FSX),
    Storage(name="FSx persistent, 500 MB/s/TiB", mb_per_s_per_tib=500, usd_per_gb_month=0.340, source=FSX),
    Storage(name="FSx persistent, 1000 MB/s/TiB", mb_per_s_per_tib=1000, usd_per_gb_month=0.600, source=FSX),
    Storage(name="one NVMe drive", mb_per_s=2000, source="assumed: what one data-centre drive reads sequentially"),
    Storage(name="NVMe of ml.p4d.24xlarge", mb_per_s=16_000, source="AWS, EC2 P4d: up to 16 GB/s from 8 drives"),
)


PATCH_MB = 128**3 * (4 * 2 + 1) / 1e6  # image int16 of 4 channels and label, as they lie in a store
CASE_MB = 27.2  # the mean of three BraTS cases, cropped, as preprocessing.to_shards stores them
SAMPLES_PER_CASE = 4  # training.run's default
SMALL_CASES, LARGE_CASES = 484, 48_884  # MSD Task01, and 101 times as many
TIB_MB = 2**40 / 1e6
EPOCHS = 10  # 90 h at 31,000 s an epoch


@dataclass(frozen=True, kw_only=True)
class Published:
    """A result of the article that a projection stands beside: least and most seconds of ``epochs`` epochs."""

    what: str
    num_cases: int
    epochs: int
    seconds: tuple[float, float]


PUBLISHED = (
    Published(what="Dataset on nii.gz, one V100", num_cases=SMALL_CASES, epochs=1, seconds=(300, 300)),
    Published(what="cached, one V100", num_cases=SMALL_CASES, epochs=1, seconds=(20, 40)),
    Published(what="one V100", num_cases=LARGE_CASES, epochs=1, seconds=(31_000, 31_000)),
    Published(what="all of the training, before", num_cases=LARGE_CASES, epochs=EPOCHS, seconds=(324_000, 324_000)),
    Published(what="all of the training, after", num_cases=LARGE_CASES, epochs=EPOCHS, seconds=(14_400, 14_400)),
)


def gpus_fed(gpu: Gpu, patch_mb: float, mb_per_s: float) -> float:
    """Return how many ``gpu`` a storage feeds when every patch of 4 x 128^3 costs ``patch_mb`` of reading."""
    return mb_per_s / (gpu.patches_per_s * patch_mb)


def fsx_size_tib(store_mb: float) -> float:
    """Return the smallest FSx for Lustre (SSD: 1.2 TiB, 2.4 TiB and multiples of that) that holds a store.

    1 TB takes 1.2 TiB, 1.33 TB takes 2.4 TiB.
    """
    needed = store_mb / TIB_MB
    return 1.2 if needed <= 1.2 else 2.4 * -(-needed // 2.4)
