"""The store beside nnU-Net's preprocessed folder: written at first use, checked against the folder afterwards."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.console.errors import InputError
from preprocessing.conversion.from_nnunet import NnunetFolder, open_nnunet, readers
from preprocessing.conversion.prepared import write_cases
from preprocessing.shards.files import MANIFEST
from preprocessing.shards.store import Store, open_store
from preprocessing.volumes.nifti import checksum_of

log = logging.getLogger(__name__)


def store_beside(preprocessed: Path, needed: Collection[str]) -> Store:
    """Open the store of a preprocessed folder; write it first where it is not there, or lacks a ``needed`` case.

    One process writes and the others wait, ranks and folds alike. Raises ``InputError`` where the folder has changed
    since, or ``CaseError`` for a case that cannot be used.
    """
    folder = open_nnunet(preprocessed, keep_mask=True)
    root = preprocessed.with_name(f"{preprocessed.name}_voxelfeed")
    with _alone(root.with_name(f"{root.name}.lock")):
        if not (root / MANIFEST).is_file() or not set(needed) <= set(open_store(root).case_ids):
            log.info("%s: writing the cases of %s there, once", root, preprocessed)
            write_cases(root, folder.dataset, readers(folder), stop_on_error=True)
    store = open_store(root)
    _check_same(store, folder)
    return store


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock for the block; another process waits here."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_same(store: Store, folder: NnunetFolder) -> None:
    """Compare description, sizes, and the checksums of files that were touched after the store was written."""
    manifest, dataset = store.manifest, folder.dataset
    for name in ("channel_names", "label_names", "ignore_label"):
        before, now = getattr(manifest, name), getattr(dataset, name)
        if before != now:
            raise InputError(
                f"{store.root} was written with {name} {before}, now {now}; delete it, it is written again"
            )
    written = (Path(store.root) / MANIFEST).stat().st_mtime
    for _, entry in store.entries():
        for path, record in zip(folder.files(entry.case_id), entry.sources, strict=True):
            if not path.is_file():
                raise InputError(
                    f"case {entry.case_id}: {path} is gone since {store.root} was written; delete the store"
                )
            found = path.stat()
            same = found.st_size == record.size_bytes
            if same and max(found.st_ctime, found.st_mtime) > written:
                same = checksum_of(path) == record.xxh3
            if not same:
                raise InputError(
                    f"case {entry.case_id}: {path} has changed since {store.root} was written; delete the store, it is "
                    "written again"
                )
