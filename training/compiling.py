"""Compile the network's steps with torch.compile, where the machine has what that needs."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from preprocessing.errors import InputError

# What inductor looks for on a CPU and triton on a GPU: language, variable that names one, names on the path
COMPILERS = {"cpu": ("C++", "CXX", ("g++",)), "cuda": ("C", "CC", ("gcc", "clang"))}


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
