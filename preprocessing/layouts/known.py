"""Find the cases of a data set on disk: the layouts are rows of ``LAYOUTS``, ``auto`` tells which one it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from preprocessing.console.errors import InputError, check_known
from preprocessing.console.places import remote_errors
from preprocessing.layouts.brats import has_case_folders, read_brats
from preprocessing.layouts.dataset import Dataset, read_description
from preprocessing.layouts.msd import read_msd
from preprocessing.layouts.nnunet import read_nnunet
from preprocessing.layouts.table import SUFFIXES, read_list

LAYOUTS: dict[str, Callable[[Path], Dataset]] = {
    "msd": read_msd,
    "nnunet": read_nnunet,
    "brats": read_brats,
    "list": read_list,
}


def check_layout(name: str) -> None:
    """Raise ``InputError`` unless ``name`` is ``"auto"`` or a key of ``LAYOUTS``."""
    check_known("layout", name, ("auto", *LAYOUTS))


def read_dataset(root: Path, layout: str = "auto") -> Dataset:
    """Read the data set at ``root`` in ``layout`` (a key of ``LAYOUTS``, or ``auto``).

    ``root`` is a folder, for ``list`` a CSV or JSON file. Raises ``InputError`` when it is missing, the layout unknown,
    or none fits.
    """
    check_layout(layout)
    with remote_errors(root):
        if not root.exists():
            raise InputError(f"{root}: no such folder; give the data set's folder with --input")
    chosen = _tell_layout(root) if layout == "auto" else layout
    if root.is_dir() == (chosen == "list"):
        wanted = "a CSV or JSON file" if chosen == "list" else "a folder"
        raise InputError(f"{root}: the {chosen} layout is read from {wanted}; give it with --input")
    return LAYOUTS[chosen](root)


def _tell_layout(root: Path) -> str:
    if root.is_file():
        if root.suffix in SUFFIXES:
            return "list"
        raise InputError(f"{root}: a data set is a folder, or a list of cases in a .csv or .json file")
    description = root / "dataset.json"
    if description.is_file():
        return "nnunet" if "channel_names" in read_description(description) else "msd"
    if has_case_folders(root):
        return "brats"
    raise InputError(f"{root}: neither dataset.json nor BraTS folders in it; known layouts: {', '.join(LAYOUTS)}")
