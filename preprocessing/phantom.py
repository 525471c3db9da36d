"""Make a synthetic BraTS-like data set in Medical Segmentation Decathlon layout: ``python -m preprocessing.phantom``.

Each case is a head without skull: white and grey matter and ventricles, a tumour of three nested, irregular parts
(edema, enhancing rim, non-enhancing core) that the four contrasts show as real ones do, a bias field, noise and an
arbitrary gain. It is for trying things out and for tests; nothing can be concluded about medicine from it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.console.flags import Triple, main
from preprocessing.console.progress import shown

log = logging.getLogger(__name__)
Field = npt.NDArray[np.float32]
DEFAULT_FOLDER = Path("data/phantom")
CHANNELS = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
LABELS = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
SPACING_MM = (2.5, 2.5, 2.5)
# Mean intensity of each tissue in FLAIR, T1w, t1gd, T2w; rows: CSF, grey, white, edema, non-enhancing, enhancing.
TISSUES = np.array(
    [
        [150, 180, 200, 900],
        [500, 420, 440, 560],
        [400, 600, 620, 380],
        [820, 380, 420, 780],
        [560, 300, 320, 840],
        [640, 400, 980, 600],
    ],
    dtype=np.float32,
)
DISAGREEMENT = 0.05  # of the tumour's radius
CSF, GREY, WHITE, FIRST_LABEL = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class PhantomOptions:
    """Make a synthetic BraTS-like data set: four MR contrasts, three nested tumour labels, nii.gz in MSD layout."""

    output: Path = DEFAULT_FOLDER
    """Folder to make; one that already holds the same data set is left as it is."""
    cases: int = 24
    """Cases to train on (imagesTr, labelsTr)."""
    test_cases: int = 4
    """Held-out cases (imagesTs, and labelsTs to score them with)."""
    shape: Triple = (60, 76, 64)
    """Voxels along D,H,W; each case varies by up to a tenth."""
    seed: int = 0
    """Another seed gives other heads."""


def phantom(options: PhantomOptions) -> int:
    """Run the command; returns the exit code."""
    made = make_phantom(options)
    total = options.cases + options.test_cases
    log.info("%s: %d cases%s", options.output, total, "" if made else ", there already")
    return EXIT_DONE


def make_phantom(options: PhantomOptions) -> bool:
    """Make the data set; returns whether there was anything to do.

    The folder appears under its name only once it is complete. Raises ``InputError`` for a count below 1, a negative
    seed, a side below 16, or an ``output`` that holds something else.
    """
    if options.cases < 1 or options.test_cases < 0:
        raise InputError(f"--cases {options.cases} --test-cases {options.test_cases}: at least 1 and 0 are needed")
    if not 0 <= options.seed < 2**64:
        raise InputError(f"--seed {options.seed}: it must be between 0 and 2**64 - 1")
    if min(options.shape) < 16:
        raise InputError(f"--shape {','.join(map(str, options.shape))}: every side needs at least 16 voxels")
    recipe = json.loads(json.dumps(dataclasses.asdict(options) | {"output": None}))
    if options.output.exists():
        if _recipe_of(options.output) == recipe:
            return False
        raise InputError(f"{options.output} holds something else; delete it or give another --output")
    building = options.output.with_name(options.output.name + ".tmp")
    shutil.rmtree(building, ignore_errors=True)
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (building / folder).mkdir(parents=True)
    numbers = range(options.cases + options.test_cases)
    for number in shown(numbers, "phantom"):
        part = "Tr" if number < options.cases else "Ts"
        image, label = make_case(options.shape, seed=options.seed, number=number)
        name = f"{_case_id(number)}.nii.gz"
        _save(building / f"images{part}" / name, image)
        _save(building / f"labels{part}" / name, label)
    described = {
        "name": "Phantom",
        "description": "synthetic heads with tumours, made by python -m preprocessing.phantom",
        "tensorImageSize": "4D",
        "modality": CHANNELS,
        "labels": LABELS,
        "numTraining": options.cases,
        "numTest": options.test_cases,
        "training": [
            {"image": f"./imagesTr/{_case_id(n)}.nii.gz", "label": f"./labelsTr/{_case_id(n)}.nii.gz"}
            for n in range(options.cases)
        ],
        "test": [f"./imagesTs/{_case_id(options.cases + n)}.nii.gz" for n in range(options.test_cases)],
        "phantom": recipe,
    }
    (building / "dataset.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    building.rename(options.output)
    return True


def make_case(
    shape_dhw: tuple[int, int, int], *, seed: int, number: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Make one case: image int16 [D,H,W,4], zero outside the head, and label uint8 [D,H,W] of 0 to 3."""
    random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, number]))
    shape = tuple(round(side * random.uniform(0.9, 1.1)) for side in shape_dhw)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij"), axis=-1)

    radius = np.array([random.uniform(0.76, 0.88) for _ in range(3)], dtype=np.float32)
    wobble = _smooth_noise(random, shape, sigma=9)
    depth_in_head = 1 - np.linalg.norm(grid / radius, axis=-1) + 0.05 * wobble  # 1 in the middle, 0 on the surface
    head = depth_in_head > 0

    folds = _smooth_noise(random, shape, sigma=2)
    tissue = np.where(depth_in_head + 0.08 * folds > 0.28, WHITE, GREY)
    ventricles = np.linalg.norm((np.abs(grid) - [0.0, 0.0, 0.16]) / [0.2, 0.34, 0.09], axis=-1)
    tissue[ventricles + 0.15 * wobble < 1] = CSF

    label, shown = _tumour(random, grid, head)
    tissue = np.where(shown > 0, shown.astype(np.int64) + FIRST_LABEL - 1, tissue)
    contrast = TISSUES * random.uniform(0.85, 1.15, size=TISSUES.shape).astype(np.float32)
    image = gaussian_filter(contrast[tissue], (0.8, 0.8, 0.8, 0))  # voxels on a border hold both tissues
    image *= 1 + 0.12 * np.stack([_smooth_noise(random, shape, sigma=14) for _ in CHANNELS], axis=-1)
    image += random.normal(0, 60, size=image.shape).astype(np.float32)
    image *= random.uniform(0.6, 1.6, size=len(CHANNELS)).astype(np.float32)
    image = np.clip(np.rint(image), 1, 32000) * head[..., None]
    return image.astype(np.int16), label


def _tumour(
    random: np.random.Generator, grid: Field, head: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Place three nested irregular blobs somewhere inside the head: 1 edema, 3 enhancing, 2 the core within.

    Returns the tumour as a rater draws it, and as it is: the two differ along the borders, as they do in real data, so
    that nobody can score a Dice of 1.
    """
    shape = grid.shape[:3]
    centre = random.uniform(-0.4, 0.4, size=3).astype(np.float32)
    stretch = random.uniform(0.8, 1.25, size=3).astype(np.float32)
    size = random.uniform(0.32, 0.5)
    distance = np.linalg.norm((grid - centre) * stretch, axis=-1) / size
    coarse, fine = _smooth_noise(random, shape, sigma=5), _smooth_noise(random, shape, sigma=2.5)
    rater = DISAGREEMENT * _smooth_noise(random, shape, sigma=2)
    core = random.uniform(0.38, 0.46)
    drawn, true = (
        _nested(distance + 0.14 * coarse + shift, distance + 0.1 * fine + shift, core, head) for shift in (rater, 0)
    )
    return drawn, true


def _nested(outer: Field, inner: Field, core: float, head: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Cut the labels out of two distance fields; every label gets one voxel at least."""
    label = np.zeros(outer.shape, dtype=np.uint8)
    label[(outer < 1) & head] = 1
    label[(inner < 0.66) & (label == 1)] = 3
    label[(inner <= max(core, float(inner[label == 3].min(initial=1.0)))) & (label == 3)] = 2
    return label


def _smooth_noise(random: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Field:
    """Draw Gaussian noise, blur it by ``sigma`` voxels, scale it to a standard deviation of 1."""
    noise = gaussian_filter(random.standard_normal(shape, dtype=np.float32), sigma, mode="nearest", truncate=3)
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _save(path: Path, array_dhw: npt.NDArray[np.int16] | npt.NDArray[np.uint8]) -> None:
    """Write [D,H,W] or [D,H,W,C] as NIfTI x,y,z(,c) in scanner orientation LPS, as BraTS is."""
    xyz = array_dhw.transpose(2, 1, 0, *range(3, array_dhw.ndim))
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    affine[:3, 3] = (np.array(xyz.shape[:3]) - 1) / 2 * [SPACING_MM[0], SPACING_MM[1], -SPACING_MM[2]]
    nib.save(nib.Nifti1Image(xyz, affine), path)  # type: ignore[no-untyped-call]


def _case_id(number: int) -> str:
    return f"PHANTOM_{number + 1:03d}"


def _recipe_of(folder: Path) -> object:
    try:
        return json.loads((folder / "dataset.json").read_text(encoding="utf-8")).get("phantom")
    except (OSError, ValueError, AttributeError):
        return None


if __name__ == "__main__":
    main(phantom, PhantomOptions)
