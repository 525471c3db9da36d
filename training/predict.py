"""Segment NIfTI volumes with a trained checkpoint: ``python -m training.predict``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from rich import get_console
from rich.progress import track
from torch import nn

from pipelines.reference import intensity_from
from preprocessing.cli import main
from preprocessing.convert import ConvertOptions, prepare_image, restore_to_source
from preprocessing.errors import EXIT_DONE, EXIT_REFUSED, CaseError, InputError
from preprocessing.nifti import SUFFIXES, Volume, case_id_of, read_nifti
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
    """A .nii.gz file, or a folder of them; a 4D file holds one channel per volume, as in training."""
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

    def predict(self, volume: Volume) -> Labels:
        """Segment one volume; returns label ids uint8 [x,y,z] on the whole source grid.

        Raises ``InputError`` when the channels do not fit the checkpoint.
        """
        spec = self.spec
        if len(volume.channels) != len(spec.channel_names):
            raise InputError(
                f"{volume.path} has {len(volume.channels)} channels, the checkpoint was trained on "
                f"{len(spec.channel_names)} ({', '.join(spec.channel_names)})"
            )
        image = prepare_image([volume], ConvertOptions(crop_foreground=spec.crop_foreground), spec.modality)
        is_ct = spec.modality == "ct"
        intensity = intensity_from(spec.channels if is_ct else image.channels, keep_zero=not is_ct)
        device = next(self.network.parameters()).device
        voxels = to_input(image.voxels, intensity, device)
        predicted = predict_volume(self.network, voxels, spec, self.overlap, self.amp)
        whole = restore_to_source(predicted, image.origin_dhw, image.source_shape_dhw)
        return whole.astype(np.uint8, copy=False)


def predict(options: Options) -> int:
    """Run the command; returns the exit code."""
    if not 0 <= options.overlap <= 0.9:
        raise InputError(f"--overlap {options.overlap:g}: between 0 and 0.9")
    content = load_checkpoint(options.checkpoint)
    images = find_images(options.input)
    spec = ModelSpec.from_plain(content["spec"])
    device = choose_device(options.device, read_world())
    network = spec.build()
    network.load_state_dict(content["model"])
    network.to(device)
    options.output.mkdir(parents=True, exist_ok=True)
    regions = None if spec.regions is None else {name: list(numbers) for name, numbers in spec.regions.items()}
    described = {"label_names": spec.label_names, "groups": {k: list(v) for k, v in spec.groups.items()}}
    write_json(options.output / DESCRIPTION, described | {"regions": regions, "checkpoint": str(options.checkpoint)})
    amp = choose_amp(options.amp, device)
    refused = _predict_all(images, Predictor(network=network, spec=spec, amp=amp, overlap=options.overlap), options)
    for error in refused:
        log.error("refused %s", error)
    log.info("%s: %d label maps%s", options.output, len(images) - len(refused), _and_refused(refused))
    return EXIT_REFUSED if refused else EXIT_DONE


def _predict_all(images: Sequence[Path], predictor: Predictor, options: Options) -> list[CaseError]:
    refused: list[CaseError] = []
    for path in track(images, description="predicting", transient=True, disable=not get_console().is_terminal):
        try:
            volume = read_nifti(path, options.max_volume_gib)
            predicted = predictor.predict(volume)
        except InputError as error:
            refused.append(CaseError(case_id_of(path), str(error)))
            continue
        save_label(options.output / f"{case_id_of(path)}.nii.gz", predicted, volume)
    return refused


def _and_refused(refused: Sequence[CaseError]) -> str:
    return f"; {len(refused)} refused" if refused else ""


def find_images(path: Path) -> list[Path]:
    """List the NIfTI files of a folder in order, or the one file given; raises ``InputError`` when there is none."""
    if path.is_file():
        case_id_of(path)
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; give the images with --input")
    found = sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))
    if not found:
        inner = [p.name for p in sorted(path.iterdir()) if p.is_dir() and p.name.startswith("images")]
        hint = f"; did you mean {path / inner[0]}?" if inner else ""
        raise InputError(f"{path}: no .nii.gz or .nii file in it{hint}")
    twice = [a.name for a, b in pairwise(found) if case_id_of(a) == case_id_of(b)]
    if twice:
        raise InputError(f"{path}: {twice[0]} is there as .nii and as .nii.gz; both would be written to one file")
    return found


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
