"""Find the NIfTI files that a store was made from, for loaders that read those instead of the shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.console.errors import InputError
from preprocessing.console.places import is_remote, location, named_in
from preprocessing.shards.store import Store
from preprocessing.volumes.nifti import file_size


@contextmanager
def naming_lost_files(store: Store, case_ids: Iterable[str]) -> Iterator[None]:
    """Run the block; when it fails and a source of one of the cases is gone or changed, say that in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception:  # MONAI and DataLoader wrap what a reader raised in errors of their own
        for case_id in case_ids:
            source_files(store, case_id)
        raise


def source_files(store: Store, case_id: str) -> tuple[list[Path], Path]:
    """Return the image files (one, or one for each channel) and the label file of a labelled case.

    Raises ``InputError`` for a store that does not say where they are, or whose grid is not the files' own, and for a
    file on an object store or one that is gone or has changed since.
    """
    options = store.manifest.options
    if store.manifest.modality == "prepared":
        raise InputError(
            f"{store.root} holds arrays that were prepared elsewhere, this loader reads NIfTI files; use --loader dali"
        )
    root = store.source_root
    if not root:
        raise InputError(f"{store.root} does not say where its NIfTI files are; convert them again to use this loader")
    if options["orientation"] != "source" or options["spacing"] is not None:
        raise InputError(
            f"{store.root} was reoriented or resampled (--orientation {options['orientation']}, --spacing "
            f"{options['spacing']}), this loader reads the files as they are; use a store made without these flags"
        )
    paths = []
    for record in store.case(case_id).entry.sources:
        path = named_in(location(root), record.name)
        if is_remote(path):
            raise InputError(
                f"case {case_id}: {path} is on an object store, this loader reads folders; copy the data set, convert "
                "the copy"
            )
        size = file_size(path)
        if size != record.size_bytes:
            found = "is gone" if size is None else f"has {size} bytes, it had {record.size_bytes}"
            raise InputError(
                f"case {case_id}: {path} {found} since {store.root} was made; put it back, or convert again"
            )
        paths.append(path)
    return paths[:-1], paths[-1]
