"""Read a pickle of plain values and arrays, as nnU-Net keeps beside each case, without running what it names."""

from __future__ import annotations

import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

from preprocessing.console.errors import InputError

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.multiarray", "_reconstruct"),  # as numpy 1 wrote them
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("collections", "OrderedDict"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise InputError(f"names {module}.{name}, which is neither a plain value nor an array")
        return getattr(import_module(module.replace("numpy.core.", "numpy._core.")), name)  # there since numpy 1.26


def read_plain_pickle(path: Path) -> Any:
    """Read dicts, lists, tuples, text, numbers and numpy arrays from a pickle.

    Raises ``InputError`` naming the file where it is damaged, or where it names anything else: a pickle can run
    whatever it names.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except InputError as error:
        raise InputError(f"{path}: {error}; it is not read") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever bytes that are no pickle bring about
        raise InputError(f"{path}: not a readable pickle ({error}); preprocess the case again") from error
