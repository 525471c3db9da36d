"""Make one store of the shares of an array job: ``python -m preprocessing.merge --shards STORE``."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from preprocessing.console.errors import EXIT_DONE, EXIT_REFUSED, InputError
from preprocessing.console.flags import DEFAULT_SHARDS, Place, main
from preprocessing.console.places import is_remote, remote_errors, remove_folder, sync_folder
from preprocessing.conversion.finish import conclude, finish_store
from preprocessing.conversion.partition import Conversion, Partition, read_part
from preprocessing.conversion.single_writer import only_writer
from preprocessing.shards.commit import has_shard
from preprocessing.shards.files import INDEX, MANIFEST
from preprocessing.shards.store import open_store, read_index

log = logging.getLogger(__name__)
FOLDER = re.compile(r"part-(\d{5})-of-(\d{5})")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Merge the folders that to_shards --partition 1/4 ... 4/4 wrote into one output.

    Nothing is copied: shards are renamed into place (on an object store the shares wrote them there) and the manifest
    is written. The store is byte for byte the one that a single run would have made. If it is interrupted, run it
    again.
    """

    shards: Place = DEFAULT_SHARDS
    """Folder that was the --output of every share (or into which their part-... folders were copied);
    s3://BUCKET/FOLDER works too."""


def merge(options: Options) -> int:
    """Run the command; returns the exit code, 3 when any share had refused cases."""
    root = options.shards
    with remote_errors(root):
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give the --output of the shares with --shards")
    with only_writer(root):
        if _was_merged(root):
            manifest = open_store(root).manifest
            log.info("%s: was merged already", root / MANIFEST)
            return EXIT_REFUSED if manifest.errors else EXIT_DONE
        folders = _shares(root)
        parts = [read_part(folder) for folder in folders]
        plan = _agreed_plan(folders, [plan for plan, _ in parts])
        for folder, (_, shards) in zip(folders, parts, strict=True):
            _check_shards(folder, root, shards)
        for folder, (_, shards) in zip(folders, parts, strict=True):
            _move_shards(folder, root, shards)
        store = finish_store(root, plan.shard_names, plan.dataset, plan.options, plan.regions)
        for folder in folders:
            remove_folder(folder)
    return conclude(root, store, f"merged from {len(folders)} shares")


def _was_merged(root: Path) -> bool:
    """Tell whether an earlier merge came as far as the manifest; remove what it has left of the shares."""
    leftovers = [path for path in root.iterdir() if FOLDER.fullmatch(path.name)]
    if not (root / MANIFEST).is_file() or any(shard for path in leftovers for shard in path.glob("shard-*")):
        return False
    if leftovers and leftovers[0].name.endswith(f"-{len(leftovers):05d}"):
        return False  # every share is there: an earlier merge had not come to removing them, or they were made anew
    for path in leftovers:
        remove_folder(path)
    return True


def _shares(root: Path) -> list[Path]:
    """List the folders of all shares in order; raises ``InputError`` naming those that are missing."""
    found = {path: FOLDER.fullmatch(path.name) for path in sorted(root.iterdir()) if path.is_dir()}
    shares = {path: Partition(number=int(m[1]), of=int(m[2])) for path, m in found.items() if m}
    if not shares:
        raise InputError(f"{root}: no part-... folder in it; convert with --partition first")
    counts = sorted({share.of for share in shares.values()})
    if len(counts) > 1:
        raise InputError(f"{root}: shares of {counts[0]} and of {counts[1]}; delete those of the other conversion")
    numbers = {share.number for share in shares.values()}
    missing = [f"{number}/{counts[0]}" for number in range(1, counts[0] + 1) if number not in numbers]
    if missing:
        raise InputError(
            f"{root}: {len(missing)} of {counts[0]} shares are missing, the first: --partition {missing[0]}"
        )
    return list(shares)


def _agreed_plan(folders: list[Path], plans: list[Conversion]) -> Conversion:
    for folder, plan in zip(folders[1:], plans[1:], strict=True):
        if not plan.agrees_with(plans[0]):
            raise InputError(
                f"{folder} was converted with other options or from another data set than {folders[0]}; "
                "delete it and run its --partition again"
            )
    return plans[0]


def _check_shards(folder: Path, root: Path, shards: list[str]) -> None:
    """Raise ``InputError`` for a shard of a share that cannot be merged, before any is moved.

    It lies in the share's folder, or in ``root``: there an earlier merge moved it, or an object store has had it so.
    """
    for name in shards:
        is_moved = is_remote(root) or not (folder / name).exists()
        if not is_moved and (root / name).exists():
            raise InputError(f"{root / name} is there already; delete it, or merge in a folder of its own")
        place = root / name if is_moved else folder / name
        if not has_shard(place):
            raise InputError(f"{folder}: shard {name} is missing; delete {folder} and run its --partition again")
        try:
            read_index(place)
        except InputError as error:
            raise InputError(
                f"{place / INDEX} is damaged; delete {place} and {folder}, and run its --partition again"
            ) from error


def _move_shards(folder: Path, root: Path, shards: list[str]) -> None:
    for name in shards:
        if not is_remote(root) and (folder / name).exists():
            (folder / name).rename(root / name)
    sync_folder(root)


if __name__ == "__main__":
    main(merge, Options)
