"""What is odd about the files of a data set, though they can be converted: one line for each kind, with the count."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from preprocessing.conversion.case import AXES, LOSSY
from preprocessing.shards.entries import CaseEntry
from preprocessing.volumes.image import ROUNDED, ConvertOptions
from preprocessing.volumes.placement import PLACES, SIZES, UNITS

log = logging.getLogger(__name__)
TRUST = "if another field is right, give --trust sform, qform or pixdim"
KINDS = {
    SIZES: ("the header's fields disagree on the voxel size", TRUST),
    PLACES: ("sform and qform place the voxels differently, the sform is used", TRUST),
    ROUNDED: ("labels off whole numbers by at most 0.001 are rounded", "write labels as integers without scl_slope"),
    LOSSY: ("integers beyond 24 bits do not fit into float32", "shift or scale them if the last digits matter"),
    AXES: ("image and label run their axes in other ways, which --ignore-affine overlooks", "turn the label if wrong"),
    UNITS: (
        "the header's unit is not millimetres; sizes are taken as millimetres",
        "correct the header if they are not",
    ),
}


def say_notes(entries: Sequence[CaseEntry], options: ConvertOptions) -> None:
    """Log one warning for each kind of oddity: how many cases have it, what the first says, and what to do."""
    for kind, (meaning, remedy) in KINDS.items():
        having = [entry for entry in entries if kind in entry.notes]
        if having and (options.trust == "auto" or kind not in (SIZES, PLACES)):
            first = having[0]
            said = f"{meaning}; the first, {first.case_id}: {first.notes[kind]}; {remedy}"
            log.warning("%d of %d cases: %s", len(having), len(entries), said)
