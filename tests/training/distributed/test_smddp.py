"""The place where SageMaker's data parallel library comes in: its name, one group, stock DistributedDataParallel."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.distributed.test_distributed import flags, processes
from training.options import Options
from training.trainer.record import read_metrics

ROOT = Path(__file__).parents[3]
LIBRARY = Path(__file__).parent / "smddp_name"
WITH_LIBRARY = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("training.run", run_name="__main__", alter_sys=True)
"""


CHOOSE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from training.distributed.world import choose_backend
print(choose_backend("auto", torch.device("cuda"), {sys.argv[2]: "0"})[0])
"""


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder)]


def test_a_group_of_that_name_trains(tiny_options: Options, tmp_path: Path) -> None:
    """The same steps as with gloo under its own name, bit for bit, and only one group is ever made."""
    gloo = dataclasses.replace(tiny_options, batch_size=1, backend="gloo", output=tmp_path / "gloo")
    smddp = dataclasses.replace(gloo, backend="smddp", output=tmp_path / "smddp")
    for options in (gloo, smddp):
        words = ["-c", WITH_LIBRARY, str(LIBRARY), *flags(options)[2:]]
        with processes(tmp_path / f"meet_{options.backend}", [words] * 2) as started:
            said = [process.communicate(timeout=120)[1] for process in started]
        assert [process.returncode for process in started] == [0, 0], said
        assert f"2 processes, backend {options.backend}: asked for" in said[0]
    assert losses(smddp.output) == losses(gloo.output)


@pytest.mark.parametrize(("variable", "backend"), [("OMPI_COMM_WORLD_RANK", "smddp"), ("RANK", "nccl")])
def test_auto_takes_it_under_mpirun_only(variable: str, backend: str) -> None:
    words = [sys.executable, "-c", CHOOSE, str(LIBRARY), variable]
    assert subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout == f"{backend}\n"


def test_without_the_library_every_rank_says_so_in_one_line(tiny_options: Options, tmp_path: Path) -> None:
    options = dataclasses.replace(tiny_options, batch_size=1, backend="smddp", output=tmp_path / "run")
    with processes(tmp_path / "meet", [flags(options)] * 2) as started:
        said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [2, 2]
    reason = (
        "--backend smddp: SageMaker's library cannot be loaded (No module named 'smdistributed'); use --backend nccl"
    )
    for lines in said:
        assert len(lines.splitlines()) == 1
        assert lines.startswith("error: ")
        assert lines.endswith(f"{reason}\n")
