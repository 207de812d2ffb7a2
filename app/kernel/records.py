"""Frozen records of many fields, made and copied without `__init__`: what it does for seventy fields costs ten times as much.

For dataclasses without slots and without a `__post_init__`.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def replace(record: T, /, **changes: Any) -> T:
    """Return a copy with some fields changed, as dataclasses.replace does.

    Raises:
        TypeError: a name is no field.
    """
    fields = record.__dict__
    if not changes.keys() <= fields.keys():
        raise TypeError(f"{type(record).__name__} has no field {', '.join(sorted(changes.keys() - fields.keys()))}")
    copy = object.__new__(type(record))
    copy.__dict__.update(fields, **changes)
    return copy


def made(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return a record of a dataclass with these values and its defaults, as `kind(**values)` does.

    Raises:
        TypeError: a name is no field, or a field without a default is missing.
    """
    names, defaults, factories = _fields(kind)
    record = object.__new__(kind)
    fields = record.__dict__
    fields.update(defaults, **values)
    for name, factory in factories:
        if name not in fields:
            fields[name] = factory()
    if fields.keys() != names:
        raise TypeError(f"{kind.__name__}: {', '.join(sorted(fields.keys() ^ names))} missing, or no field")
    return record


@cache
def _fields(kind: type[Any]) -> tuple[frozenset[str], dict[str, Any], tuple[tuple[str, Any], ...]]:
    fields = dataclasses.fields(kind)
    defaults = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    factories = tuple((field.name, field.default_factory) for field in fields if field.default_factory is not dataclasses.MISSING)
    return frozenset(field.name for field in fields), defaults, factories
