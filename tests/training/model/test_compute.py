"""The trainer's small parts: split, schedule, precision, ranks, time split, signals."""

from __future__ import annotations

import pytest
import torch

from preprocessing.console.errors import InputError
from training.model.compute import choose_amp, has_amx, use_tensor_cores

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
