"""Segment NIfTI volumes with a trained checkpoint: ``python -m training.predict``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from preprocessing.console.errors import EXIT_DONE, EXIT_REFUSED, CaseError, InputError
from preprocessing.console.flags import Flag, main
from preprocessing.console.folder_lock import hold
from preprocessing.console.progress import shown
from preprocessing.shards.files import MANIFEST, write_json
from preprocessing.volumes.nifti import SUFFIXES
from training.distributed.world import choose_device, read_world
from training.inference.inputs import Input, find_inputs
from training.inference.outputs import DESCRIPTION, PROBABILITIES, describe, noted, save_label, save_probabilities
from training.inference.predictor import Predictor
from training.inference.sliding import Sliding
from training.model.checkpoint import load_checkpoint
from training.model.compute import choose_amp, gpu_memory_ran_out
from training.model.grids import UnlikeTraining

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Segment every volume of a folder; each label map has the shape, affine and voxel size of its image.

    Volumes that cannot be used are skipped and named; the exit code is then 3.
    """

    checkpoint: Path = Path("runs/demo/checkpoints/best.pt")
    """Checkpoint of training.run."""
    input: Path = Path("data/phantom/imagesTs")
    """A .nii.gz file or a folder of them (4D: one channel per volume, as in training), a folder of nnU-Net's
    CASE_0000.nii.gz or of BraTS case folders, a CSV or JSON list of cases, or a shard store."""
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
    """Average over the eight ways to flip each window: eight times the time, a little more accuracy."""
    overlap: float = 0.5
    """Overlap of neighbouring windows, 0 to 0.9; more is slower and a little better."""
    like_training: Flag = False
    """Bring images to the orientation and voxel size of the training set, where theirs are others, and the label maps
    back. Otherwise the network sees them as they are, and those that differ are counted."""
    max_volume_gib: float = 16.0
    """Refuse a file whose header promises more than this."""


def predict(options: Options) -> int:
    """Run the command; returns the exit code."""
    if not 0 <= options.overlap <= 0.9:
        raise InputError(f"--overlap {options.overlap:g}: between 0 and 0.9")
    if options.checkpoint.is_dir():
        raise InputError(f"--checkpoint {options.checkpoint} is a folder; give its checkpoints/best.pt")
    content = load_checkpoint(options.checkpoint)
    checksum = xxhash.xxh3_64_hexdigest(options.checkpoint.read_bytes())
    check_place(options)
    device = choose_device(options.device, read_world())
    how = Sliding(overlap=options.overlap, amp=choose_amp(options.amp, device), mirror=options.mirror)
    predictor = Predictor.from_checkpoint(content, how, device)
    found = find_inputs(options.input, predictor.spec, options.max_volume_gib, options.like_training)
    cases = _chosen(found, content, options.cases)
    made_by: dict[str, Any] = {"checkpoint": str(options.checkpoint), "checkpoint_xxh3": checksum}
    if options.cases != "all":  # evaluate then does not miss the others
        made_by["cases"] = [case.case_id for case in cases]
    with hold(options.output, "another predict"):
        check_made_by(options, checksum)
        write_json(options.output / DESCRIPTION, describe(predictor.spec) | made_by)
        unlike = UnlikeTraining(predictor.spec.seen)
        refused = _predict_all(cases, predictor, options, unlike)
    for error in refused:
        log.error("refused %s", error)
    if str(unlike):
        is_store = (options.input / MANIFEST).is_file()
        remedy = "predict the NIfTI files with" if is_store else "their labels may be wrong, try"
        log.warning("%s: %s --like-training true", unlike, remedy)
    log.info("%s: %d label maps%s", options.output, len(cases) - len(refused), _and_refused(refused))
    return EXIT_REFUSED if refused else EXIT_DONE


def check_place(options: Options) -> None:
    """Raise ``InputError`` where ``--output`` cannot be a folder for predictions."""
    source = options.input if options.input.is_dir() else options.input.parent
    if options.output.resolve() == source.resolve():
        raise InputError(f"--output {options.output} is the folder of the input; give another one")
    if options.output.is_file():
        raise InputError(f"--output {options.output} is a file; give a folder")


def check_made_by(options: Options, checksum: str) -> None:
    """Refuse to write over anything but earlier predictions of the same weights: raises ``InputError``.

    ``checksum`` is that of the checkpoint: at the same path there may lie another one, of a run that went on.
    """
    held = any(path.name.endswith(SUFFIXES) for path in options.output.iterdir())
    if held and (made_by := _made_by(options.output / DESCRIPTION)) != checksum:
        whose = "volumes that predict did not make" if made_by is None else "predictions of another checkpoint"
        known = "" if made_by is None else f" (checksum {made_by}, that of {options.checkpoint} is {checksum})"
        raise InputError(f"--output {options.output} holds {whose}{known}; give another folder")


def _made_by(described: Path) -> str | None:
    """Return the checksum of the checkpoint that made a folder of predictions, where that can be told."""
    try:
        content = json.loads(described.read_text(encoding="utf-8"))
        return str(content["checkpoint_xxh3"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _chosen(cases: list[Input], content: Mapping[str, Any], wanted: str) -> list[Input]:
    """Keep the cases that ``--cases`` names; raises ``InputError`` when one of them is not there."""
    if wanted == "all":
        return cases
    if wanted == "validation" and "cases" not in content:
        raise InputError(
            "--cases validation: this checkpoint lists no validation cases; take best.pt of a run that has validated"
        )
    names = list(content["cases"]) if wanted == "validation" else [name.strip() for name in wanted.split(",")]
    by_name = {case.case_id: case for case in cases}
    absent = [name for name in names if name not in by_name]
    if absent:
        raise InputError(f"--cases {wanted}: {len(absent)} of {len(names)} are not in --input, the first: {absent[0]}")
    return [by_name[name] for name in names]


def _predict_all(
    cases: Sequence[Input], predictor: Predictor, options: Options, unlike: UnlikeTraining
) -> list[CaseError]:
    watched = shown(cases, "predicting")
    return [error for case in watched if (error := _predict_case(case, predictor, options, unlike)) is not None]


def _predict_case(case: Input, predictor: Predictor, options: Options, unlike: UnlikeTraining) -> CaseError | None:
    """Write what is predicted for one case; returns why it is refused, if it is."""
    try:
        _write_case(case, predictor, options, unlike)
    except InputError as error:
        return CaseError(case.case_id, str(error))
    except (MemoryError, RuntimeError) as error:
        return CaseError(case.case_id, _out_of_memory(error))
    return None


def _write_case(case: Input, predictor: Predictor, options: Options, unlike: UnlikeTraining) -> None:
    image, header = case.read()
    unlike.add(image.geometry)
    name = f"{case.case_id}.nii.gz"
    if options.probabilities:
        steps = np.empty((*image.geometry.file_shape_dhw[::-1], predictor.spec.task.out_channels), np.uint16)
        label = predictor.label_of(noted(predictor.scores(image, steps.nbytes), steps))
        save_probabilities(options.output / PROBABILITIES / name, steps, header)
    else:
        label = predictor.predict(image)
    save_label(options.output / name, label, header)


def _out_of_memory(error: MemoryError | RuntimeError) -> str:
    """Say of which memory there was not enough; another error is raised again."""
    if isinstance(error, RuntimeError) and gpu_memory_ran_out(error):
        return f"out of GPU memory ({str(error).splitlines()[0]}); use --device cpu"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch's is a plain RuntimeError
        reason = str(error).partition("DefaultCPUAllocator: ")[2] or str(error) or "no more is said"
        return f"out of memory ({reason.splitlines()[0]}); end other programs, or take a larger machine"
    raise error


def _and_refused(refused: Sequence[CaseError]) -> str:
    return f"; {len(refused)} refused" if refused else ""


if __name__ == "__main__":
    main(predict, Options)
