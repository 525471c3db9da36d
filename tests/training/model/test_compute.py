"""Number formats, order in memory, and how a lack of it is recognised."""

from __future__ import annotations

import pytest
import torch

from preprocessing.console.errors import InputError
from training.model.compute import choose_amp, gpu_memory_ran_out, has_amx, layout_for, use_tensor_cores

CPU = torch.device("cpu")


def test_amp_names() -> None:
    assert choose_amp("auto", CPU) is (torch.bfloat16 if has_amx() else None)
    assert choose_amp("true", CPU) is choose_amp("auto", CPU)
    assert choose_amp("false", CPU) is None
    assert choose_amp("bf16", CPU) is torch.bfloat16
    with pytest.raises(InputError, match="only on a CUDA device"):
        choose_amp("fp16", CPU)


def test_only_a_gpu_trades_bits_for_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, before = torch.backends.cudnn, torch.get_float32_matmul_precision()
    monkeypatch.setattr(cudnn, "benchmark", False)
    monkeypatch.setattr(cudnn, "allow_tf32", False)
    try:
        use_tensor_cores(CPU)
        assert (cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (False, False, before)
        use_tensor_cores(torch.device("cuda"))
        assert (cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (True, True, "high")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("device", "cudnn", "expected"),
    [
        ("cpu", None, torch.channels_last_3d),
        ("cpu", 91900, torch.channels_last_3d),
        ("cuda", 8902, torch.contiguous_format),
        ("cuda", 90701, torch.contiguous_format),
        ("cuda", 90800, torch.channels_last_3d),
        ("cuda", 91002, torch.channels_last_3d),
        ("cuda", 91401, torch.channels_last_3d),
        ("cuda", 91500, torch.contiguous_format),
    ],
)
def test_cudnn_decides_the_order_in_memory(device: str, cudnn: int | None, expected: torch.memory_format) -> None:
    assert layout_for(torch.device(device), cudnn) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 70.00 GiB."), True),
        (
            RuntimeError(
                "Critical error in pipeline:\nError in GPU operator `nvidia.dali.fn.slice`:\nCUDA allocation failed"
            ),
            True,
        ),
        (RuntimeError("Can't allocate 4294967296 bytes on device 0."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False),
        (RuntimeError("The size of tensor a (4) must match the size of tensor b (5)"), False),
    ],
)
def test_a_lack_of_gpu_memory_is_recognised_whoever_meets_it(error: RuntimeError, expected: bool) -> None:
    assert gpu_memory_ran_out(error) is expected
