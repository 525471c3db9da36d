"""What the schemas of all results are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number", "minimum": 0}
TRIPLE: Schema = {"type": "array", "items": COUNT, "minItems": 3, "maxItems": 3}
DATE: Schema = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$"}


def exactly(fields: Mapping[str, Schema], *, optional: Sequence[str] = ()) -> Schema:
    """Require ``fields`` and nothing else; those named by ``optional`` may be missing, as in results of before them."""
    required = [name for name in fields if name not in optional]
    return {"type": "object", "properties": dict(fields), "required": required, "additionalProperties": False}


def list_of(schema: Schema) -> Schema:
    """Describe a list."""
    return {"type": "array", "items": schema}


def or_null(schema: Schema) -> Schema:
    """Let ``null`` stand for what is not known."""
    return {"anyOf": [schema, {"type": "null"}]}


SPREAD: Schema = exactly(dict.fromkeys(("median", "min", "max"), NUMBER))
