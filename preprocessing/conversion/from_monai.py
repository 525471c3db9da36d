"""What a MONAI ``Compose`` does before its first random transform, into a store: once, instead of every epoch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocessing.console.errors import CaseError, InputError
from preprocessing.conversion.prepared import WriterOptions, write_cases
from preprocessing.conversion.prepared_case import PreparedCase
from preprocessing.layouts.dataset import Dataset
from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Array, Float3
from preprocessing.volumes.nifti import case_id_of


@dataclass(frozen=True, kw_only=True)
class MonaiCases:
    """A list of items as MONAI's data sets take it, and the ``transform`` they go through.

    It must leave channels first, the image normalised and the label as one channel of ids. ``label_names`` must name
    every id there is, 0 included. A case is called after its image's file.
    """

    items: Sequence[Mapping[str, Any]]
    transform: Any
    channel_names: Sequence[str]
    label_names: Mapping[int, str]
    name: str = "prepared"
    image: str = "image"
    label: str = "label"

    def case_ids(self) -> list[str]:
        """Name each item; raises ``InputError`` for two of one name."""
        ids = [case_id_of(_paths(item[self.image])[0]) for item in self.items]
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise InputError(f"case {repeated[0]}: two items have an image of this name; give the files other names")
        return ids

    def read(self, case_id: str, item: Mapping[str, Any]) -> PreparedCase:
        """Run an item up to the first random transform.

        Raises ``CaseError`` for one that a transform does not take.
        """
        try:
            made = self.transform(dict(item), end=_first_random(self.transform))
            image, label = made[self.image], made.get(self.label)
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            raise CaseError(case_id, f"the transforms do not take it ({error}); run them on it alone") from error
        affine = _affine(image)
        return PreparedCase(
            case_id=case_id,
            image=_channels_last(image),
            label=None if label is None else _channels_last(label),
            spacing_mm=_spacing(affine),
            affine=affine,
            sources=[path for key in (self.image, self.label) for path in _paths(item.get(key, ()))],
        )


def import_monai(cases: MonaiCases, output: str | Path, options: WriterOptions | None = None) -> Store:
    """Write a store of all items; an interrupted call goes on.

    A case that cannot be used is named in errors.json.
    """
    dataset = Dataset(
        name=cases.name,
        root=Path(),
        channel_names=list(cases.channel_names),
        label_names=dict(cases.label_names),
        modality="prepared",
        sources=[],
    )
    named: dict[str, Callable[[], PreparedCase]] = {
        case_id: functools.partial(cases.read, case_id, item)
        for case_id, item in zip(cases.case_ids(), cases.items, strict=True)
    }
    return write_cases(output, dataset, named, options)


def _first_random(transform: Any) -> int | None:
    """Find where MONAI's own caches stop; ``None`` where nothing is random."""
    from monai.transforms import RandomizableTrait

    found: int | None = transform.get_index_of_first(lambda one: isinstance(one, RandomizableTrait))
    return found


def _paths(value: Any) -> list[Path]:
    return [Path(value)] if isinstance(value, str | Path) else [Path(one) for one in value]


def _channels_last(array: Any) -> Array:
    """Turn MONAI's [C,x,y,z] into [D,H,W,C], which is z,y,x of the file."""
    return np.ascontiguousarray(np.asarray(array).transpose(3, 2, 1, 0))


def _affine(image: Any) -> npt.NDArray[np.float64]:
    """Take the affine of MONAI's MetaTensor; millimetre voxels where there is none."""
    affine = getattr(image, "affine", None)
    return np.eye(4) if affine is None else np.asarray(affine, np.float64)


def _spacing(affine: npt.NDArray[np.float64]) -> Float3:
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return z, y, x
