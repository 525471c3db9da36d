"""The files that ``predict`` writes: label maps and probabilities on the grid of the image, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from training.inference.decode import Scores
from training.model.spec import Labels, ModelSpec

DESCRIPTION, PROBABILITIES = "prediction.json", "probabilities"
SCORES = "scores.json"
FINEST = 65535  # steps between probability 0 and 1 in a file of uint16
Steps = npt.NDArray[np.uint16]


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Say what the label maps hold, in their own numbers."""

    def ids(groups: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        return {name: [int(spec.ids_in_files[number]) for number in numbers] for name, numbers in groups.items()}

    return {
        "label_names": {int(spec.ids_in_files[number]): name for number, name in spec.label_names.items()},
        "groups": ids(spec.groups),
        "regions": None if spec.regions is None else ids(spec.regions),
        "ignore_label": None if spec.ignore_label is None else int(spec.ids_in_files[spec.ignore_label]),
        "probabilities": list(spec.groups) if spec.regions is not None else _class_names(spec),
    }


def _class_names(spec: ModelSpec) -> list[str]:
    """Name what each channel of a softmax stands for; ids that no label has are in between where ids have gaps."""
    return [spec.label_names.get(number, f"unused {number}") for number in range(max(spec.label_names) + 1)]


def noted(scores: Iterable[Scores], steps: Steps) -> Iterator[Scores]:
    """Pass the K ``scores`` on, one by one, and note the probabilities that they stand for in ``steps`` [x,y,z,K]."""
    for channel, score in enumerate(scores):
        steps[..., channel] = np.rint((score + 0.5) * FINEST)
        yield score


def save_label(path: Path, label_xyz: Labels, header: nib.Nifti1Header) -> None:
    """Write a label map with the geometry of its image's ``header``: same shape, affine, codes and zooms; uint8."""
    _save(path, label_xyz, header, slope=1.0)


def save_probabilities(path: Path, steps: Steps, header: nib.Nifti1Header) -> None:
    """Write what ``noted`` noted as a file x,y,z,K with the geometry of ``header``: uint16, scaled by its slope."""
    path.parent.mkdir(exist_ok=True)
    _save(path, steps, header, slope=1 / FINEST)


def _save(path: Path, stored: npt.NDArray[np.unsignedinteger[Any]], header: nib.Nifti1Header, slope: float) -> None:
    """Write ``stored``, which stands for itself times ``slope``, to a file that appears when it is complete."""
    header = header.copy()  # type: ignore[no-untyped-call]
    zooms = header.get_zooms()[:3]  # type: ignore[no-untyped-call]
    header.set_data_dtype(stored.dtype)  # type: ignore[no-untyped-call]
    header.set_data_shape(stored.shape)  # type: ignore[no-untyped-call]
    header.set_zooms((*zooms, 1.0)[: stored.ndim])  # type: ignore[no-untyped-call]
    header["cal_max"], header["cal_min"] = 0, 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image: Any = kind(stored, None, header)  # type: ignore[no-untyped-call]
    image.header.set_slope_inter(slope, 0)  # here, since an image forgets that of the header it is given
    temporary = path.with_name("." + path.name)
    nib.save(image, temporary)
    temporary.replace(path)
