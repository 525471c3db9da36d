"""Segment NIfTI volumes with a trained checkpoint: ``python -m training.predict``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from rich import get_console
from rich.progress import track
from torch import nn

from pipelines.reference import intensity_for
from preprocessing.cases import find_cases
from preprocessing.cli import Flag, main
from preprocessing.convert import ConvertOptions, prepare_image, read_images
from preprocessing.dataset import Source
from preprocessing.errors import EXIT_DONE, EXIT_REFUSED, CaseError, InputError
from preprocessing.geometry import plan_geometry, restore_to_source
from preprocessing.nifti import SUFFIXES, Volume
from preprocessing.shards import write_json
from training.checkpoint import load_checkpoint
from training.distributed import choose_device, read_world
from training.inference import Labels, ModelSpec, Scores, decode, predict_logits, probabilities, to_input
from training.precision import choose_amp

log = logging.getLogger(__name__)
DESCRIPTION, PROBABILITIES = "prediction.json", "probabilities"
FINEST = 65535  # steps between probability 0 and 1 in a file of uint16


@dataclass(frozen=True, kw_only=True)
class Options:
    """Segment every volume of a folder; each label map has the shape, affine and voxel size of its image.

    Volumes that cannot be used are skipped and named; the exit code is then 3.
    """

    checkpoint: Path = Path("runs/demo/checkpoints/best.pt")
    """Checkpoint of training.run."""
    input: Path = Path("data/phantom/imagesTs")
    """A .nii.gz file or a folder of them (4D: one channel per volume, as in training), a folder of nnU-Net's
    CASE_0000.nii.gz or of BraTS case folders, or a CSV or JSON list of cases."""
    output: Path = Path("predictions")
    """Folder for the label maps, named as their images."""
    device: str = "auto"
    """auto, cpu or cuda."""
    amp: str = "auto"
    """Mixed precision: auto, bf16, fp16 or off."""
    cases: str = "all"
    """Which cases of --input: all, validation (those the run of the checkpoint held out), or a comma list of ids."""
    probabilities: Flag = False
    """Also write --output/probabilities, 4D: one volume for each region, or for the background and each label."""
    mirror: Flag = False
    """Average over the eight ways to flip the axes: eight times the time, a little more accuracy."""
    overlap: float = 0.5
    """Overlap of neighbouring windows, 0 to 0.9; more is slower and a little better."""
    max_volume_gib: float = 16.0
    """Refuse a file whose header promises more than this."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A network with what it needs around it to segment a file."""

    network: nn.Module
    spec: ModelSpec
    amp: torch.dtype | None
    overlap: float
    mirror: bool
    max_volume_gib: float

    def predict(self, volumes: Sequence[Volume]) -> Labels:
        """Segment one image, its channels in one file or in several.

        Returns label ids uint8 [x,y,z] on the whole source grid, numbered as the label files of the training set were.
        Where the training set was resampled, probabilities are interpolated and the label is chosen on the source grid
        (nnU-Net's way): a border between voxels of the stored grid is not lost.
        """
        return self.label_of(self.scores(volumes))

    def label_of(self, scores: Iterable[Scores]) -> Labels:
        """Choose the label ids [x,y,z] that ``scores`` speak for."""
        return self.spec.ids_in_files[decode(scores, self.spec)]

    def scores(self, volumes: Sequence[Volume]) -> Iterator[Scores]:
        """Yield the probability less one half of each region or class, float32 [x,y,z] on the whole source grid."""
        spec = self.spec
        options = spec.convert_options
        geometry = plan_geometry(volumes[0], options.orientation, options.spacing, self.max_volume_gib)
        image = prepare_image(volumes, geometry, options, spec.modality)
        intensity = intensity_for(spec.modality, image.channels, spec.channels)
        device = next(self.network.parameters()).device
        voxels = to_input(image.voxels, intensity, device)
        logits = predict_logits(self.network, voxels, spec, self.overlap, self.amp, mirror=self.mirror)
        scores = probabilities(logits, spec).sub_(0.5).numpy()
        beyond = [0.5 if channel == 0 and spec.regions is None else -0.5 for channel in range(len(scores))]
        for score, outside in zip(scores, beyond, strict=True):
            yield restore_to_source(score, image.origin_dhw, image.source_shape_dhw, geometry, outside)


def predict(options: Options) -> int:
    """Run the command; returns the exit code."""
    if not 0 <= options.overlap <= 0.9:
        raise InputError(f"--overlap {options.overlap:g}: between 0 and 0.9")
    if options.checkpoint.is_dir():
        raise InputError(f"--checkpoint {options.checkpoint} is a folder; give its checkpoints/best.pt")
    content = load_checkpoint(options.checkpoint)
    check_output(options)
    spec = ModelSpec.from_plain(content["spec"])
    cases = _chosen(find_cases(options.input, spec.channel_names), content, options.cases)
    device = choose_device(options.device, read_world())
    network = spec.build()
    network.load_state_dict(content["model"])
    network.to(device)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / DESCRIPTION, _describe(spec) | {"checkpoint": str(options.checkpoint)})
    amp = choose_amp(options.amp, device)
    predictor = Predictor(
        network=network,
        spec=spec,
        amp=amp,
        overlap=options.overlap,
        mirror=options.mirror,
        max_volume_gib=options.max_volume_gib,
    )
    refused = _predict_all(cases, predictor, options)
    for error in refused:
        log.error("refused %s", error)
    log.info("%s: %d label maps%s", options.output, len(cases) - len(refused), _and_refused(refused))
    return EXIT_REFUSED if refused else EXIT_DONE


def check_output(options: Options) -> None:
    """Refuse to write over anything but earlier predictions of the same checkpoint: raises ``InputError``."""
    source = options.input if options.input.is_dir() else options.input.parent
    if options.output.resolve() == source.resolve():
        raise InputError(f"--output {options.output} is the folder of the input; give another one")
    if options.output.is_file():
        raise InputError(f"--output {options.output} is a file; give a folder")
    described = options.output / DESCRIPTION
    try:
        made_by = json.loads(described.read_text(encoding="utf-8"))["checkpoint"] if described.exists() else None
    except (ValueError, KeyError, TypeError):
        made_by = "something else"
    held = options.output.is_dir() and any(path.name.endswith(SUFFIXES) for path in options.output.iterdir())
    if held and made_by != str(options.checkpoint):
        whose = "volumes that predict did not make" if made_by is None else f"predictions of {made_by}"
        raise InputError(f"--output {options.output} holds {whose}; give another folder")


def _chosen(cases: list[Source], content: Mapping[str, Any], wanted: str) -> list[Source]:
    """Keep the cases that ``--cases`` names; raises ``InputError`` when one of them is not there."""
    if wanted == "all":
        return cases
    if wanted == "validation" and "cases" not in content:
        raise InputError("--cases validation: this checkpoint names none; take best.pt of a run that has validated")
    names = list(content["cases"]) if wanted == "validation" else [name.strip() for name in wanted.split(",")]
    by_name = {case.case_id: case for case in cases}
    absent = [name for name in names if name not in by_name]
    if absent:
        raise InputError(f"--cases {wanted}: {len(absent)} of {len(names)} are not in --input, the first: {absent[0]}")
    return [by_name[name] for name in names]


def _describe(spec: ModelSpec) -> dict[str, Any]:
    """Say what the label maps hold, in their own numbers."""

    def ids(groups: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        return {name: [int(spec.ids_in_files[number]) for number in numbers] for name, numbers in groups.items()}

    return {
        "label_names": {int(spec.ids_in_files[number]): name for number, name in spec.label_names.items()},
        "groups": ids(spec.groups),
        "regions": None if spec.regions is None else ids(spec.regions),
        "ignore_label": spec.ignore_label,
        "probabilities": list(spec.groups) if spec.regions is not None else _class_names(spec),
    }


def _class_names(spec: ModelSpec) -> list[str]:
    """Name what each channel of a softmax stands for; ids that no label has are in between where ids have gaps."""
    return [spec.label_names.get(number, f"unused {number}") for number in range(max(spec.label_names) + 1)]


def _predict_all(cases: Sequence[Source], predictor: Predictor, options: Options) -> list[CaseError]:
    shown = track(cases, description="predicting", transient=True, disable=not get_console().is_terminal)
    return [error for case in shown if (error := _predict_case(case, predictor, options)) is not None]


def _predict_case(case: Source, predictor: Predictor, options: Options) -> CaseError | None:
    """Write what is predicted for one case; returns why it is refused, if it is."""
    settings = ConvertOptions(max_volume_gib=options.max_volume_gib)
    name = f"{case.case_id}.nii.gz"
    try:
        if case.problem:
            raise InputError(case.problem)
        volumes = read_images(case.images, predictor.spec.channel_names, settings)
        scores = np.stack([*predictor.scores(volumes)]) if options.probabilities else predictor.scores(volumes)
        label = predictor.label_of(scores)
    except InputError as error:
        return CaseError(case.case_id, str(error))
    except torch.OutOfMemoryError as error:
        return CaseError(case.case_id, f"out of GPU memory ({str(error).splitlines()[0]}); use --device cpu")
    if isinstance(scores, np.ndarray):
        save_probabilities(options.output / PROBABILITIES / name, scores + 0.5, volumes[0])
    save_label(options.output / name, label, volumes[0])
    return None


def _and_refused(refused: Sequence[CaseError]) -> str:
    return f"; {len(refused)} refused" if refused else ""


def save_label(path: Path, label_xyz: npt.NDArray[np.uint8], source: Volume) -> None:
    """Write a label map with the geometry of ``source``: same shape, affine codes and zooms, dtype uint8."""
    _save(path, label_xyz, source, slope=1.0)


def save_probabilities(path: Path, probabilities_kxyz: Scores, source: Volume) -> None:
    """Write probabilities [K,x,y,z], as a file x,y,z,K with the geometry of ``source``: uint16, scaled by its slope."""
    path.parent.mkdir(exist_ok=True)
    steps = np.rint(np.moveaxis(probabilities_kxyz, 0, -1) * FINEST).astype(np.uint16)
    _save(path, steps, source, slope=1 / FINEST)


def _save(path: Path, stored: npt.NDArray[np.unsignedinteger[Any]], source: Volume, slope: float) -> None:
    """Write ``stored``, which stands for itself times ``slope``, to a file that appears when it is complete."""
    header = source.header.copy()  # type: ignore[no-untyped-call]
    zooms = header.get_zooms()[:3]
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header.set_zooms((*zooms, 1.0)[: stored.ndim])
    header["cal_max"], header["cal_min"] = 0, 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image: Any = kind(stored, None, header)  # type: ignore[no-untyped-call]
    image.header.set_slope_inter(slope, 0)  # here, since an image forgets that of the header it is given
    temporary = path.with_name("." + path.name)
    nib.save(image, temporary)
    temporary.replace(path)


if __name__ == "__main__":
    main(predict, Options)
