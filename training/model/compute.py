"""How the network computes: in which number format, on which units, compiled or not."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager

import torch
from torch import nn

from preprocessing.console.errors import InputError, check_known

FORMATS: dict[str, torch.dtype | None] = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}
SWITCH = {"true": "auto", "false": "off"}
AMPS = ("auto", *FORMATS, *SWITCH)
SLOW_CUDNN = (90800, 91500)  # from the first version on, before the second
OUT_OF_MEMORY = ("CUDA allocation failed", "bytes on device", "CUDA error: out of memory")  # DALI's words and CUDA's
# What inductor looks for on a CPU and triton on a GPU: language, variable that names one, names on the path
COMPILERS = {"cpu": ("C++", "CXX", ("g++",)), "cuda": ("C", "CC", ("gcc", "clang"))}


def choose_amp(wanted: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype, or ``None`` for plain float32.

    ``auto`` takes bfloat16 on GPUs that have it (A100 and later) and on CPUs with matrix units for it (AMX: 2.5 times
    the speed of float32), float16 on older GPUs (V100), float32 elsewhere. Raises ``InputError`` for an unknown name.
    """
    check_known("amp", wanted, AMPS)
    name = SWITCH.get(wanted, wanted)
    if name == "auto":
        if device.type != "cuda":
            return torch.bfloat16 if has_amx() else None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if FORMATS[name] is torch.float16 and device.type != "cuda":
        raise InputError("--amp fp16: only on a CUDA device; use --amp auto")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError(f"--amp bf16: {torch.cuda.get_device_name(device)} has none; use --amp auto or fp16")
    return FORMATS[name]


def layout_for(device: torch.device, cudnn_version: int | None) -> torch.memory_format:
    """Return the order in memory of images and weights: ``channels_last_3d`` on a CPU, contiguous on CUDA.

    MONAI's networks normalise by instance, which returns NCDHW, so that in channels_last_3d nearly every convolution
    converts its input. But cuDNN 9.8 to 9.14 has no fast kernels for NCDHW in half precision (PyTorch's issue 166122):
    with those, channels_last_3d stays the better one. From reports, not yet measured here.
    """
    if device.type != "cuda" or SLOW_CUDNN[0] <= (cudnn_version or 0) < SLOW_CUDNN[1]:
        return torch.channels_last_3d
    return torch.contiguous_format


def layout_on(device: torch.device) -> torch.memory_format:
    """Return the order in memory for ``device`` and the cuDNN that is here."""
    return layout_for(device, torch.backends.cudnn.version())  # type: ignore[no-untyped-call]


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """Move ``network`` to ``device``, in the order of memory that computes fastest there."""
    moved: nn.Module = network.to(device=device, memory_format=layout_on(device))  # type: ignore[call-overload]
    return moved


def use_tensor_cores(device: torch.device) -> None:
    """Let a GPU compute as fast as training allows; a CPU computes as before.

    Patches have one size, so cuDNN may try its convolutions at the first step and keep the fastest. What stays float32,
    all with --amp off, is multiplied as TF32 on A100 and later: ten bits of mantissa, as float16 has, with float32's
    range and sums. The choice may differ from process to process, and with it the last bits of a run on a GPU.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")


def format_name(dtype: torch.dtype | None) -> str:
    """Name what ``choose_amp`` returned."""
    return "float32" if dtype is None else str(dtype).removeprefix("torch.")


def has_amx() -> bool:
    """Tell whether this processor multiplies bfloat16 matrices in hardware; no where torch is too old to know."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16", False))


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Run the block in ``dtype`` where that is safe; ``None`` changes nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def build_scaler(device: torch.device, dtype: torch.dtype | None) -> torch.amp.GradScaler:
    """Build the loss scaler that float16 gradients need; it does nothing for other formats."""
    return torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)


def compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """Return ``network`` compiled; it is compiled at the first step, for minutes.

    Where its gradients are averaged over processes, it has to be wrapped before: PyTorch then compiles it in parts,
    so that the exchange of the first gradients starts before the last ones are there (``DDPOptimizer``). Raises
    ``InputError`` where there is no compiler: PyTorch would say so at the first step, in hundreds of lines.
    """
    language, variable, names = COMPILERS[device.type]
    wanted = (os.environ[variable],) if variable in os.environ else names
    if not any(map(shutil.which, wanted)):
        raise InputError(
            f"--compile true: no {language} compiler on the path ({' or '.join(wanted)}), which torch.compile needs on "
            f"{device.type}; install one, name it in {variable}, or leave --compile out"
        )
    made: nn.Module = torch.compile(network)  # type: ignore[assignment]
    return made


def gpu_memory_ran_out(error: RuntimeError) -> bool:
    """Tell whether a GPU's memory did not suffice: torch has an error for that, DALI's is a plain ``RuntimeError``."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
