"""nnU-Net v2's preprocessed folder into a store: its arrays, labels and foreground lists as they are.

``nnUNetv2_preprocess`` leaves three files a case: CASE.b2nd [C,z,y,x] float32, CASE_seg.b2nd [1,z,y,x] int16, in which
-1 marks voxels outside the nonzero mask, and CASE.pkl, which lists voxels of each class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocessing.console.errors import CaseError, InputError
from preprocessing.conversion.plain_pickle import read_plain_pickle
from preprocessing.conversion.prepared import WriterOptions, write_cases
from preprocessing.conversion.prepared_case import PreparedCase
from preprocessing.layouts.dataset import Dataset, label_ids, numbered_names, read_description
from preprocessing.layouts.nnunet import IGNORE, read_labels
from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Array, Float3

OUTSIDE = -1  # nnU-Net's id of voxels outside the nonzero mask
HIGHEST_ID = 254  # where ids are stored one higher, in eight bits


@dataclass(frozen=True, kw_only=True)
class NnunetFolder:
    """A preprocessed folder, such as nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetPlans_3d_fullres.

    ``dataset`` describes it as the store will; ``shift`` is what is added to its ids: 1 where the store keeps the mask,
    so that 0 is what nnU-Net calls -1 and padding lies outside of itself; else 0, and what is outside is background.
    """

    path: Path
    dataset: Dataset
    spacing_mm: Float3
    shift: int

    @property
    def case_ids(self) -> list[str]:
        """Every case, sorted."""
        return sorted(file.name[: -len(".b2nd")] for file in self.path.glob("*.b2nd") if not _is_label(file))

    def files(self, case_id: str) -> list[Path]:
        """Name the files of a case: image, label, properties."""
        return [self.path / f"{case_id}{ending}" for ending in (".b2nd", "_seg.b2nd", ".pkl")]

    def read(self, case_id: str) -> PreparedCase:
        """Read a case; raises ``CaseError`` naming the file that cannot be used."""
        try:
            image, label = (_read_blosc2(path) for path in self.files(case_id)[:2])
            properties = read_plain_pickle(self.files(case_id)[2])
            foreground = self._foreground(properties["class_locations"])
        except InputError as error:
            raise CaseError(case_id, str(error)) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            path = self.files(case_id)[2]
            raise CaseError(case_id, f"{path} lists no class_locations ({error!r}); preprocess it again") from error
        return PreparedCase(
            case_id=case_id,
            image=np.moveaxis(image, 0, -1),
            label=np.moveaxis(self._ids(label), 0, -1),
            spacing_mm=self.spacing_mm,
            foreground=foreground,
            sources=self.files(case_id),
        )

    def _ids(self, label: Array) -> Array:
        return label + 1 if self.shift else np.maximum(label, 0)

    def _foreground(self, locations: dict[Any, Any]) -> dict[int, npt.NDArray[np.int64]]:
        """Bring the lists of nnU-Net, of classes, of regions and of annotated voxels, under a store's keys."""
        regions = [] if self.dataset.regions is None else list(self.dataset.regions.values())
        found = {}
        for named, voxels in locations.items():
            numbers = tuple(int(number) for number in (named if isinstance(named, tuple) else (named,)))
            if OUTSIDE in numbers:
                key = 0
            elif isinstance(named, tuple):
                key = -1 - regions.index(tuple(sorted(number + self.shift for number in numbers)))
            else:
                key = numbers[0] + self.shift
            found[key] = np.asarray(voxels, np.int64).reshape(-1, 4)[:, 1:]  # channel, then D,H,W
        return found


def open_nnunet(path: Path, *, keep_mask: bool = False) -> NnunetFolder:
    """Read what lies around a preprocessed folder: dataset.json, and the plans that made it.

    With ``keep_mask`` label ids are stored one higher and 0 is what lies outside the nonzero mask, as -1 does in
    nnU-Net. Raises ``InputError`` for what is no such folder, 2D plans, or ids above 254 with ``keep_mask``.
    """
    described = read_description(path.parent / "dataset.json")
    shift = int(keep_mask)
    try:
        labels = label_ids(path.parent / "dataset.json", described["labels"])
        (ignored,) = labels.pop(IGNORE, (None,))
        declared = any(isinstance(ids, list) for ids in described["labels"].values())
        names, regions = read_labels(labels, declared)
        channel_names = numbered_names(described["channel_names"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path.parent / 'dataset.json'}: not one of nnU-Net ({error!r})") from error
    highest = max([*names, *([] if ignored is None else [ignored])])
    if highest > (HIGHEST_ID if keep_mask else 255):
        raise InputError(f"{path.parent / 'dataset.json'}: label id {highest}; a store holds ids up to {HIGHEST_ID}")
    outside = {0: "outside the nonzero mask"} if keep_mask else {}
    dataset = Dataset(
        name=path.parent.name,
        root=path,
        channel_names=channel_names,
        label_names=outside | {number + shift: name for number, name in names.items()},
        label_remap={number: number + shift for number in names} if keep_mask else {},
        modality="prepared",
        sources=[],
        regions=None if regions is None else {n: tuple(i + shift for i in ids) for n, ids in regions.items()},
        ignore_label=None if ignored is None else ignored + shift,
    )
    return NnunetFolder(path=path, dataset=dataset, spacing_mm=_spacing(path), shift=shift)


def import_nnunet(path: str | Path, output: str | Path, options: WriterOptions | None = None) -> Store:
    """Write a store of all cases of a preprocessed folder, to be trained on here; an interrupted call goes on.

    What lies outside the nonzero mask becomes background. A case that cannot be used is named in errors.json.
    """
    folder = open_nnunet(Path(path))
    return write_cases(output, folder.dataset, readers(folder), options)


def readers(folder: NnunetFolder) -> dict[str, Callable[[], PreparedCase]]:
    """Map each case to the function that reads it; raises ``InputError`` where there is none."""
    ids = folder.case_ids
    if not ids:
        raise InputError(f"{folder.path}: no *.b2nd there; run nnUNetv2_preprocess (2.6 or later) first")
    return {case_id: functools.partial(folder.read, case_id) for case_id in ids}


def _is_label(file: Path) -> bool:
    return file.name.endswith("_seg.b2nd")


def _spacing(path: Path) -> Float3:
    """Look up the voxel size (D,H,W) in the plans whose configuration made the folder."""
    for plans in sorted(path.parent.glob("*.json")):
        content = read_description(plans) if plans.name.endswith("lans.json") else {}
        for name, configuration in content.get("configurations", {}).items():
            if configuration.get("data_identifier") == path.name and "spacing" in configuration:
                spacing = tuple(float(size) for size in configuration["spacing"])
                if len(spacing) != 3:
                    raise InputError(f"{plans}: configuration {name} is {len(spacing)}D; patches here are 3D")
                return spacing
    raise InputError(f"{path.parent}: no plans there that made {path.name}; copy them beside it")


def _read_blosc2(path: Path) -> Array:
    try:
        blosc2 = import_module("blosc2")
    except ImportError as error:
        raise InputError('*.b2nd needs the package blosc2; pip install "voxelfeed[nnunet]"') from error
    try:
        opened = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); preprocess the case again") from error
    if not isinstance(opened, blosc2.NDArray) or opened.ndim != 4:
        raise InputError(f"{path}: not an array [C,D,H,W]; preprocess the case again")
    return np.asarray(opened[:])
