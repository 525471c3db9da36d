"""What SageMaker's API accepts, as its published model in botocore says: checked without an account."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from job_request import Request

from preprocessing.errors import InputError

JAVA_ONLY = r"\p{"  # the patterns are Java's; classes of Unicode characters (tags have them) are unknown to re


def check_request(kind: str, request: Request) -> None:
    """Compare the request for a job with the API's model; raises ``InputError`` with the first thing that does not fit.

    ``kind`` is ``Training`` or ``Processing``. botocore itself checks names, types and minima only; patterns, maxima
    and enumerations are in the model as well.
    """
    try:
        import botocore.session
        from botocore.validate import ParamValidator
    except ImportError as error:
        raise InputError(f'{error}; the launcher needs boto3: pip install "voxelfeed[sagemaker]"') from error
    operation = f"Create{kind}Job"
    shape = botocore.session.get_session().get_service_model("sagemaker").operation_model(operation).input_shape
    report = ParamValidator().validate(request, shape)
    problems = report.generate_report().splitlines() if report.has_errors() else [*_problems(operation, request, shape)]
    if problems:
        raise InputError(f"SageMaker would refuse the request: {problems[0]}")


def _problems(place: str, value: Any, shape: Any) -> Iterator[str]:
    """Yield what in ``value`` breaks a maximum, a pattern or an enumeration of the model's ``shape``."""
    most = shape.metadata.get("max")
    if most is not None:
        is_number = shape.type_name in ("integer", "long")
        if (value if is_number else len(value)) > most:
            yield f"{place} is {_short(value)}{'' if is_number else f', a length of {len(value)}'}; at most {most}"
    if shape.type_name == "structure":
        for name, inner in value.items():
            yield from _problems(f"{place}.{name}", inner, shape.members[name])
    elif shape.type_name == "list":
        for index, inner in enumerate(value):
            yield from _problems(f"{place}[{index}]", inner, shape.member)
    elif shape.type_name == "map":
        for name, inner in value.items():
            yield from _problems(f"{place}: the name", name, shape.key)
            yield from _problems(f"{place}.{name}", inner, shape.value)
    elif shape.type_name == "string":
        yield from _odd_text(place, value, shape)


def _odd_text(place: str, text: str, shape: Any) -> Iterator[str]:
    pattern = shape.metadata.get("pattern", JAVA_ONLY)
    if JAVA_ONLY not in pattern and not re.fullmatch(pattern, text):
        yield f"{place} is {_short(text)}; it must match {pattern}"
    if shape.enum and text not in shape.enum:
        near = difflib.get_close_matches(text, shape.enum)
        yield f"{place} is {text}, unknown; " + (f"near: {', '.join(near)}" if near else "see the API's documentation")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
