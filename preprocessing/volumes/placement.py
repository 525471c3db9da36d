"""Where a file's voxels lie and how large they are: the affine in force, and where the header contradicts itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocessing.console.errors import InputError
from preprocessing.volumes.grid import Float3

TRUSTED = ("auto", "sform", "qform", "pixdim")
SIZES, PLACES, UNITS = "sizes", "places", "units"
ROUNDING = 1e-4  # of a size: headers hold 32-bit numbers, and tools write them with six digits
UNIT_NAMES = {1: "metres", 3: "micrometres"}
SAME_PLACE = 0.1  # of a voxel, at the corners
FLATTEST = 1e-6  # volume of a voxel as a share of that of a box with its sides
Affine = npt.NDArray[np.float64]


def affine_in_force(header: Any, path: Path, trust: str) -> Affine:
    """Return what maps voxels x,y,z to millimetres [4,4].

    ``auto`` is nibabel's rule: the sform where its code is set, else the qform, else pixdim alone. ``sform`` and
    ``qform`` insist on one; ``pixdim`` keeps the directions of ``auto`` and takes the sizes in pixdim. Raises
    ``InputError`` where the file lacks the one, or its affine is not finite or gives voxels no volume.
    """
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if trust in ("sform", "qform"):
        if not int(header[f"{trust}_code"]):
            raise InputError(f"{path}: has no {trust} (its code is 0); give another --trust, or correct the header")
        affine = np.asarray(getattr(header, f"get_{trust}")(), dtype=np.float64)
    elif trust == "pixdim":
        affine = np.asarray(header.get_base_affine(), dtype=np.float64) if _fault(affine) else affine
        affine[:3, :3] *= _pixdim(header) / np.linalg.norm(affine[:3, :3], axis=0)
    if fault := _fault(affine):
        others = [name for name in ("sform", "qform") if int(header[f"{name}_code"])]
        hint = ", or give --trust qform" if trust == "auto" and len(others) == 2 else ""
        raise InputError(f"{path}: its affine {fault}; correct the header{hint}")
    return affine


def _fault(affine: Affine) -> str:
    """Say why nothing can be placed by an affine, or nothing."""
    if not np.isfinite(affine).all():
        return "is not finite"
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(affine[:3, :3])) > FLATTEST * sizes.prod():
        return ""
    return f"is singular, voxels of {_text(sizes)} have no volume"


def sizes_of(affine: Affine, header: Any) -> Float3:
    """Return the voxel size x,y,z in millimetres: that of the affine, in the digits of pixdim where both agree."""
    sizes, written = np.linalg.norm(affine[:3, :3], axis=0), _pixdim(header)
    x_mm, y_mm, z_mm = np.where(np.isclose(written, sizes, rtol=ROUNDING, atol=0), written, sizes).tolist()
    return x_mm, y_mm, z_mm


def contradictions(header: Any, affine: Affine) -> dict[str, str]:
    """Say, by kind, where fields of a header disagree beyond rounding with the ``affine`` in force."""
    found: dict[str, str] = {}
    sform = bool(int(header["sform_code"]))
    sizes = {"pixdim": _pixdim(header)}
    if sform:
        sizes["sform"] = np.linalg.norm(np.asarray(header.get_sform(), np.float64)[:3, :3], axis=0)
    used = np.linalg.norm(affine[:3, :3], axis=0)
    if not all(np.allclose(one, used, rtol=ROUNDING, atol=0) for one in sizes.values()):
        what = {"sform": "sform", "pixdim": "qform and pixdim" if int(header["qform_code"]) else "pixdim"}
        said = ", ".join(f"{what[name]} {_text(sizes[name])}" for name in what if name in sizes)
        found[SIZES] = f"{said}; used: {_text(used)}"
    elif sform and int(header["qform_code"]) and (apart := _apart(header)) > SAME_PLACE * used.min():
        found[PLACES] = f"a corner lies {apart:.4g} mm apart in sform and qform"
    if (unit := int(header["xyzt_units"]) % 8) in UNIT_NAMES:
        found[UNITS] = f"xyzt_units says {UNIT_NAMES[unit]}, sizes of {_text(used)} are used"
    return found


def _apart(header: Any) -> float:
    """Return how far apart, in millimetres, sform and qform put the corner of the volume where they differ most."""
    try:
        difference = np.asarray(header.get_sform() - header.get_qform(), np.float64)
    except ValueError:  # quaternions longer than 1: nibabel makes no matrix of them
        return 0.0
    last = np.array([side - 1 for side in header.get_data_shape()[:3]])
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * last
    return float(np.linalg.norm(corners @ difference[:3, :3].T + difference[:3, 3], axis=1).max())


def _pixdim(header: Any) -> Affine:
    return np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))


def _text(sizes: Affine) -> str:
    return " x ".join(f"{side:.6g}" for side in sizes) + " mm"
