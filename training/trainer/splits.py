"""Who is trained on and who is validated on: a held-out share, one fold of several, or what a split file says."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pipelines.plan import STREAM_SPLIT, random_words
from preprocessing.console.errors import InputError
from preprocessing.layouts.dataset import read_json
from preprocessing.volumes.nifti import SUFFIXES, case_id_of
from training.options import Options

log = logging.getLogger(__name__)
FILE_NAME = "splits_final.json"  # nnU-Net's name and form: a list of {"train": [...], "val": [...]}, one for each fold


@dataclass(frozen=True, kw_only=True)
class CaseSplit:
    """The cases of a run, in store order; ``folds`` are the validation cases of every fold, where folds were made."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...] = ()


def choose_split(
    options: Options, case_ids: Sequence[str], recorded: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> CaseSplit:
    """Split the labelled cases of a store as ``--splits``, ``--folds`` or ``--held-out`` say.

    Where none of them is given, the labelled cases that the data set itself lists under ``"validation"``
    (``recorded``, the manifest's ``split``) are validated on. Raises ``InputError`` for a fold that is not there, cases
    that the store lacks, cases in both parts, an empty part, or a ``--group-by`` that does not fit the names.
    """
    if options.splits is not None:
        listed = read_split(options.splits, options.fold)
        return _checked(*listed, case_ids, f"{options.splits}, fold {options.fold}")
    group_of = grouping(options.group_by)
    if options.folds:
        folds = make_folds(case_ids, options.folds, options.seed, group_of)
        validation = folds[options.fold]
        training = tuple(case_id for case_id in case_ids if case_id not in set(validation))
        return CaseSplit(training=training, validation=validation, folds=folds)
    named = set(recorded.get("validation", ())) & set(case_ids)
    if named and options.held_out == Options.held_out and not options.group_by:
        log.info("validated on the %d cases that the data set lists for that; --held-out draws others", len(named))
        rest = [case_id for case_id in case_ids if case_id not in named]
        return _checked(rest, sorted(named), case_ids, "the data set's own split")
    training, validation = split_cases(case_ids, options.held_out, options.seed, group_of)
    return CaseSplit(training=training, validation=validation)


def write_folds(run: Path, split: CaseSplit) -> None:
    """Leave the folds that were made in a run folder, in the form that ``--splits`` and nnU-Net read."""
    if split.folds:
        cases = sorted(case_id for fold in split.folds for case_id in fold)
        content = [{"train": [c for c in cases if c not in set(fold)], "val": list(fold)} for fold in split.folds]
        (run / FILE_NAME).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def grouping(pattern: str) -> Callable[[str], str]:
    """Return what tells the group of a case from its id: what ``pattern`` finds in it, its first group if it has one.

    ``"(.+)_visit"`` puts ``p07_visit1`` and ``p07_visit2`` together. Without a pattern each case is its own. What is
    returned raises ``InputError`` for a case that the pattern does not fit.
    """
    compiled = re.compile(pattern)

    def group_of(case_id: str) -> str:
        if not pattern:
            return case_id
        found = compiled.search(case_id)
        if found is None:
            raise InputError(f"--group-by {pattern}: does not fit case {case_id}; every case has to tell its group")
        return str(found[1] if compiled.groups else found[0])

    return group_of


def split_cases(
    case_ids: Sequence[str], fraction: float, seed: int, group_of: Callable[[str], str] = lambda case_id: case_id
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split cases into (training, validation), fixed by ``seed``; both keep store order, groups stay together.

    ``fraction`` of the groups, at least one, are held out; 10 cases at 0.2 give 8 and 2. At 0 all are both. Raises
    ``InputError`` for fewer than two groups to split.
    """
    if fraction == 0:
        return tuple(case_ids), tuple(case_ids)
    groups = list(dict.fromkeys(map(group_of, case_ids)))
    if len(groups) < 2:
        raise InputError(
            f"{len(groups)} labelled cases; at least 2 are needed, one of them to validate on; or --held-out 0"
        )
    keys = random_words(seed, STREAM_SPLIT, 0, 0, len(groups))
    count = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    held_out = {groups[index] for index in np.argsort(keys, kind="stable")[:count]}
    is_held_out = [group_of(case_id) in held_out for case_id in case_ids]
    training = tuple(case_id for case_id, held in zip(case_ids, is_held_out, strict=True) if not held)
    return training, tuple(case_id for case_id, held in zip(case_ids, is_held_out, strict=True) if held)


def make_folds(
    case_ids: Sequence[str], num_folds: int, seed: int, group_of: Callable[[str], str]
) -> tuple[tuple[str, ...], ...]:
    """Deal cases over folds, fixed by ``seed``: the validation cases of each fold, in store order.

    Groups are shuffled and dealt whole, each to the fold with the fewest cases yet: with 7 single cases and 3 folds
    that is 3, 2 and 2. Raises ``InputError`` for fewer groups than folds.
    """
    groups: dict[str, list[str]] = {}
    for case_id in case_ids:
        groups.setdefault(group_of(case_id), []).append(case_id)
    if len(groups) < num_folds:
        raise InputError(f"--folds {num_folds}: there are {len(groups)} groups of cases; give at most that many folds")
    names = list(groups)
    fold_of: dict[str, int] = {}
    sizes = [0] * num_folds
    for index in np.argsort(random_words(seed, STREAM_SPLIT, 1, num_folds, len(names)), kind="stable"):
        fold = sizes.index(min(sizes))
        sizes[fold] += len(groups[names[index]])
        fold_of |= dict.fromkeys(groups[names[index]], fold)
    return tuple(tuple(case_id for case_id in case_ids if fold_of[case_id] == fold) for fold in range(num_folds))


def read_split(path: Path, fold: int) -> tuple[list[str], list[str]]:
    """Read the (training, validation) cases of one fold from a file.

    A JSON list is nnU-Net's ``splits_final.json``. In a JSON object, ``"training"`` and ``"validation"`` list cases or
    their images (MSD), or each entry of ``"training"`` has a ``"fold"`` (MONAI's data lists). A CSV has the columns
    ``id`` and ``fold``. Raises ``InputError`` for anything else, and for a fold that is not there.
    """
    if path.suffix == ".csv":
        return _one_fold(_read_csv(path), fold, path)
    content = read_json(path)
    try:
        if isinstance(content, list):
            if fold >= len(content):
                raise InputError(f"--fold {fold}: {path} has {len(content)} folds, 0 to {len(content) - 1}")
            return list(map(str, content[fold]["train"])), list(map(str, content[fold]["val"]))
        entries = content["training"]
        if "validation" in content:
            return [_name_of(entry) for entry in entries], [_name_of(entry) for entry in content["validation"]]
        return _one_fold({_name_of(entry): str(entry["fold"]) for entry in entries}, fold, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: no split that can be read ({error!s} is missing or of the wrong kind); write nnU-Net's list of "
            '{"train": [...], "val": [...]}, "training" and "validation", or a CSV with the columns id,fold'
        ) from error


def num_folds_in(path: Path) -> int:
    """Count the folds of a split file; raises ``InputError`` as ``read_split`` does for the first, 0."""
    read_split(path, 0)
    if path.suffix == ".csv":
        return len({*_read_csv(path).values()})
    content = read_json(path)
    if isinstance(content, list):
        return len(content)
    return 1 if "validation" in content else len({str(entry["fold"]) for entry in content["training"]})


def _read_csv(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return {row["id"].strip(): row["fold"].strip() for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV file ({error})") from error
    except (KeyError, AttributeError) as error:
        raise InputError(f"{path}: a split needs the columns id and fold, and both in every row ({error!s})") from error


def _one_fold(fold_of: Mapping[str, str], fold: int, path: Path) -> tuple[list[str], list[str]]:
    known = sorted(set(fold_of.values()))
    if str(fold) not in known:
        raise InputError(f"--fold {fold}: {path} has the folds {', '.join(known)}")
    parts: tuple[list[str], list[str]] = ([], [])
    for case_id, of in fold_of.items():
        parts[of == str(fold)].append(case_id)
    return parts


def _name_of(entry: Any) -> str:
    """Return the case of an entry: its id, its image's path, or an object with ``"image"``."""
    image = entry["image"] if isinstance(entry, dict) else entry
    path = Path(image[0] if isinstance(image, list) else image)
    return case_id_of(path) if path.name.endswith(SUFFIXES) else path.name


def _checked(training: Sequence[str], validation: Sequence[str], case_ids: Sequence[str], where: str) -> CaseSplit:
    known, both = set(case_ids), sorted(set(training) & set(validation))
    if both:
        raise InputError(f"{where}: {len(both)} cases are in both parts, the first: {both[0]}; each goes into one")
    absent = [case_id for case_id in (*training, *validation) if case_id not in known]
    if absent:
        raise InputError(
            f"{where}: {len(absent)} of its {len(training) + len(validation)} cases are not among the {len(known)} "
            f"labelled ones of the store, the first: {absent[0]}; take them out, or convert them"
        )
    for name, part in (("training", training), ("validation", validation)):
        if not part:
            raise InputError(f"{where}: has no {name} case; a run needs one at least")
    unused = len(known) - len(set(training) | set(validation))
    if unused:
        log.warning("%s: %d labelled cases of the store are in neither part", where, unused)
    trained, validated = set(training), set(validation)
    return CaseSplit(
        training=tuple(case_id for case_id in case_ids if case_id in trained),
        validation=tuple(case_id for case_id in case_ids if case_id in validated),
    )
