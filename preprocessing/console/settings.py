"""Settings out of options: what bears the same name is copied, so that nobody copies it by hand."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

SettingsT = TypeVar("SettingsT")


def settings_from(options: object, settings_type: type[SettingsT], **others: Any) -> SettingsT:
    """Make a ``settings_type`` of the fields of ``options`` that bear its fields' names; ``others`` win.

    Example: ``settings_from(LoaderConfig(patch=p, seed=3), PlanOptions, global_batch=8)`` has that patch and seed. Both
    are dataclasses; raises ``TypeError`` where a field without a default is in neither.
    """
    assert dataclasses.is_dataclass(settings_type)
    names = {field.name for field in dataclasses.fields(settings_type) if field.init} - set(others)
    shared = {name: getattr(options, name) for name in names if hasattr(options, name)}
    return settings_type(**shared, **others)
