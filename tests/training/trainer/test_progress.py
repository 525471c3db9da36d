"""What the live line says of a GPU that does not tell how busy it is."""

from __future__ import annotations

import pynvml
import pytest

from training.trainer.progress import utilization


@pytest.mark.parametrize(
    "error", [RuntimeError("the driver does not know"), pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)]
)
def test_a_slice_of_a_gpu_does_not_tell_and_training_goes_on(error: Exception) -> None:
    def ask() -> int:
        raise error

    assert utilization(ask) == "n/a"
    assert utilization(lambda: 97) == "97 %"
