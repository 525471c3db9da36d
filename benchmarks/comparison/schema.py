"""The form of a result file as a JSON schema: what a record lacks or has too much is an error before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]
FORMAT_VERSION = 2

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number", "minimum": 0}
TRIPLE: Schema = {"type": "array", "items": COUNT, "minItems": 3, "maxItems": 3}


def _object(fields: Mapping[str, Schema], **changes: Any) -> Schema:
    """Require exactly ``fields``."""
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False} | changes


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


METRICS = ("patches_per_s", "mb_per_s", "cpu_s_per_patch", "first_batch_s", "peak_memory_mb", "others_cores")
MACHINE = {"cpu": TEXT, "cores": COUNT, "ram_gib": NUMBER, "gpu": _or_null(TEXT), "num_gpus": COUNT}
OPTIONS = {"augment": TEXT, "patch": TRIPLE, "batch_size": COUNT, "samples_per_case": COUNT, "seed": COUNT}
SPREAD = _object({"median": NUMBER, "min": NUMBER, "max": NUMBER})
RUN = _object({"batches": COUNT, "wall_s": NUMBER, **dict.fromkeys(METRICS, NUMBER)})
TRAINING = _object(
    {
        "net": TEXT,
        "steps": COUNT,
        "wall_s": NUMBER,
        "patches_per_s": SPREAD,
        "waiting": SPREAD,
        "gpu_utilisation": _or_null(NUMBER),
        "gpu_memory_mb": _or_null(NUMBER),
        "of_ceiling": _or_null(NUMBER),
    }
)
ROW = _object(
    {
        "label": TEXT,
        "loader": TEXT,
        "device": {"enum": ["cpu", "gpu"]},
        "settings": {"type": "string"},
        "batch_size": COUNT,
        "workers": _or_null(COUNT),
        "checked": TEXT,
        "failure": _or_null(TEXT),
        "start_s": NUMBER,
        "runs": _list(RUN),
        "summary": _or_null(_object(dict.fromkeys(METRICS, SPREAD))),
        "training": _or_null(TRAINING),
    }
)
SCHEMA: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "voxelfeed loader comparison",
    **_object(
        {
            "format_version": {"const": FORMAT_VERSION},
            "date": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$"},
            "machine": _object({**MACHINE, "system": TEXT, "python": TEXT}),
            "commit": _or_null(_object({"hash": TEXT, "dirty": {"type": "boolean"}})),
            "versions": {"type": "object", "additionalProperties": TEXT},
            "data": _object(
                {
                    "name": TEXT,
                    "cases": COUNT,
                    "channels": COUNT,
                    "image_dtype": TEXT,
                    "stored_mb": NUMBER,
                    "shape_dhw": _object(dict.fromkeys(("min", "median", "max"), TRIPLE)),
                }
            ),
            "options": _object(
                {
                    **OPTIONS,
                    "runs": COUNT,
                    "seconds": NUMBER,
                    "threads": COUNT,
                    "workers": COUNT,
                    "device": TEXT,
                    "train": TEXT,
                }
            ),
            "method": _list(TEXT),
            "memory_kind": {"enum": ["pss", "uss", "rss"]},
            "rows": _list(ROW),
            "noisy": _list(TEXT),
            "left_out": _list(_object({"label": TEXT, "reason": TEXT})),
        }
    ),
}
