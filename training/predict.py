"""Segment NIfTI volumes with a trained checkpoint: ``python -m training.predict``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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

from pipelines.reference import intensity_from
from preprocessing.cases import find_cases
from preprocessing.cli import main
from preprocessing.convert import ConvertOptions, prepare_image, read_images
from preprocessing.dataset import Source
from preprocessing.errors import EXIT_DONE, EXIT_REFUSED, CaseError, InputError
from preprocessing.geometry import plan_geometry, restore_to_source
from preprocessing.nifti import Volume
from preprocessing.shards import write_json
from training.checkpoint import load_checkpoint
from training.distributed import choose_device, read_world
from training.inference import Labels, ModelSpec, predict_volume, to_input
from training.precision import choose_amp

log = logging.getLogger(__name__)
DESCRIPTION = "prediction.json"


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
    max_volume_gib: float

    def predict(self, volumes: Sequence[Volume]) -> Labels:
        """Segment one image, its channels in one file or in several.

        Returns label ids uint8 [x,y,z] on the whole source grid, numbered as the label files of the training set were.
        """
        spec = self.spec
        options = spec.convert_options
        geometry = plan_geometry(volumes[0], options.orientation, options.spacing, self.max_volume_gib)
        image = prepare_image(volumes, geometry, options, spec.modality)
        is_ct = spec.modality == "ct"
        intensity = intensity_from(spec.channels if is_ct else image.channels, keep_zero=not is_ct)
        device = next(self.network.parameters()).device
        voxels = to_input(image.voxels, intensity, device)
        predicted = predict_volume(self.network, voxels, spec, self.overlap, self.amp)
        whole = restore_to_source(spec.ids_in_files[predicted], image.origin_dhw, image.source_shape_dhw, geometry)
        return whole.astype(np.uint8, copy=False)


def predict(options: Options) -> int:
    """Run the command; returns the exit code."""
    if not 0 <= options.overlap <= 0.9:
        raise InputError(f"--overlap {options.overlap:g}: between 0 and 0.9")
    content = load_checkpoint(options.checkpoint)
    spec = ModelSpec.from_plain(content["spec"])
    cases = find_cases(options.input, spec.channel_names)
    device = choose_device(options.device, read_world())
    network = spec.build()
    network.load_state_dict(content["model"])
    network.to(device)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / DESCRIPTION, _describe(spec) | {"checkpoint": str(options.checkpoint)})
    amp = choose_amp(options.amp, device)
    predictor = Predictor(
        network=network, spec=spec, amp=amp, overlap=options.overlap, max_volume_gib=options.max_volume_gib
    )
    refused = _predict_all(cases, predictor, options)
    for error in refused:
        log.error("refused %s", error)
    log.info("%s: %d label maps%s", options.output, len(cases) - len(refused), _and_refused(refused))
    return EXIT_REFUSED if refused else EXIT_DONE


def _describe(spec: ModelSpec) -> dict[str, Any]:
    """Say what the label maps hold, in their own numbers."""

    def ids(groups: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        return {name: [int(spec.ids_in_files[number]) for number in numbers] for name, numbers in groups.items()}

    return {
        "label_names": {int(spec.ids_in_files[number]): name for number, name in spec.label_names.items()},
        "groups": ids(spec.groups),
        "regions": None if spec.regions is None else ids(spec.regions),
    }


def _predict_all(cases: Sequence[Source], predictor: Predictor, options: Options) -> list[CaseError]:
    refused: list[CaseError] = []
    settings = ConvertOptions(max_volume_gib=options.max_volume_gib)
    for case in track(cases, description="predicting", transient=True, disable=not get_console().is_terminal):
        try:
            if case.problem:
                raise InputError(case.problem)
            volumes = read_images(case.images, predictor.spec.channel_names, settings)
            predicted = predictor.predict(volumes)
        except InputError as error:
            refused.append(CaseError(case.case_id, str(error)))
            continue
        save_label(options.output / f"{case.case_id}.nii.gz", predicted, volumes[0])
    return refused


def _and_refused(refused: Sequence[CaseError]) -> str:
    return f"; {len(refused)} refused" if refused else ""


def save_label(path: Path, label_xyz: npt.NDArray[np.uint8], source: Volume) -> None:
    """Write a label map with the geometry of ``source``: same shape, affine codes and zooms, dtype uint8.

    The file appears under its name only when it is complete.
    """
    header = source.header.copy()  # type: ignore[no-untyped-call]
    header.set_data_dtype(np.uint8)
    header.set_data_shape(label_xyz.shape)
    header.set_slope_inter(1, 0)
    header["cal_max"], header["cal_min"] = 0, 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(label_xyz, None, header)  # type: ignore[no-untyped-call]
    temporary = path.with_name("." + path.name)
    nib.save(image, temporary)
    temporary.replace(path)


if __name__ == "__main__":
    main(predict, Options)
