"""What a run takes of a GPU: nothing when it was not asked to, and what it shows is all that it takes."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.options import Options
from training.trainer.progress import GpuGauge

pytestmark = pytest.mark.gpu


def test_a_run_on_the_processor_does_not_start_cuda(tiny_options: Options, tmp_path: Path) -> None:
    """Else each of many such runs takes some hundred megabytes of a GPU that others use."""
    options = dataclasses.replace(tiny_options, epochs=1, output=tmp_path / "run")
    script = (
        "import sys, pickle, torch\n"
        "from training.run import train\n"
        "assert train(pickle.loads(bytes.fromhex(sys.argv[1]))) == 0\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", script, pickle.dumps(options).hex()]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def test_the_gauge_counts_memory_that_torch_does_not_know_of() -> None:
    """CUDA's own, here; DALI's buffers are beyond torch in the same way."""
    held = torch.ones(2**20, device="cuda")
    shown = re.fullmatch(r"  GPU .+, ([\d.]+) GiB", GpuGauge().read())
    assert shown is not None
    assert float(shown[1]) > torch.cuda.max_memory_allocated(held.device) / 2**30 + 0.1
