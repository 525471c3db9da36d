"""The Medical Segmentation Decathlon layout: ``dataset.json`` lists every file, one 4D image a case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preprocessing.layouts.dataset import (
    Dataset,
    Source,
    compare_count,
    mention,
    modality_of,
    named_after,
    named_labels,
    numbered_names,
    path_inside,
    read_description,
    sorted_sources,
    understood,
)

PARTS = ("Tr", "Va", "Ts")


def read_msd(root: Path) -> Dataset:
    """Read ``dataset.json`` beside ``imagesTr labelsTr imagesTs``.

    Cases under "validation" are converted with their labels and named as such in ``Dataset.split``. Raises
    ``InputError`` for a missing or malformed ``dataset.json``, a path that leaves ``root``, or two cases of one name.
    Whether the listed files exist is found out case by case, so that one missing file does not stop the rest.
    """
    path = root / "dataset.json"
    described = read_description(path)
    needs = '"modality", "labels" and "training" with "image" and "label" in each entry'
    with understood(path, "an MSD dataset.json", needs):
        training = [_source(root, entry["image"], entry["label"]) for entry in described["training"]]
        validation = [_source(root, *_image_and_label(entry)) for entry in described.get("validation", [])]
        test = [_source(root, _image_and_label(entry)[0], None) for entry in described.get("test", [])]
        unread = [image for image, label in map(_image_and_label, described.get("test", [])) if label is not None]
        label_names = named_labels(path, described["labels"])
        channel_names = numbered_names(described["modality"])
    compare_count(path, described, len(training))
    training = [source for source in training if source not in validation]  # some list these under both
    mention(unread, f'cases under "test" in {path} are converted without the labels that they have')
    sources = sorted_sources([*training, *validation, *test], path, 'add entries under "training" or "test"')
    _mention_unlisted(root, sources)
    return Dataset(
        name=str(described.get("name", root.name)),
        root=root,
        channel_names=channel_names,
        label_names=label_names,
        modality=modality_of(channel_names),
        sources=sources,
        without_label='list the image under "test" in dataset.json',
        split={"validation": sorted(source.case_id for source in validation)} if validation else {},
    )


def _image_and_label(entry: Any) -> tuple[str, str | None]:
    return (entry["image"], entry.get("label")) if isinstance(entry, dict) else (entry, None)


def _source(root: Path, image: str, label: str | None) -> Source:
    described_in = root / "dataset.json"
    path = path_inside(root, image, described_in)
    truth = None if label is None else path_inside(root, label, described_in)
    return Source(**named_after(path), images=(path,), label=truth)


def _mention_unlisted(root: Path, sources: list[Source]) -> None:
    for kind in ("image", "label"):
        listed = {
            path for source in sources for path in (source.images if kind == "image" else (source.label,)) if path
        }
        found = [path for part in PARTS for path in sorted((root / f"{kind}s{part}").glob("*.nii*"))]
        unlisted = [path for path in found if path not in listed and not path.name.startswith(".")]
        if unlisted:  # unless a link or .. leads to it: resolving every path of a large set takes seconds
            resolved = {path.resolve() for path in listed}
            unlisted = [path for path in unlisted if path.resolve() not in resolved]
        mention(unlisted, f"{kind}s are not listed in dataset.json and are left out")
