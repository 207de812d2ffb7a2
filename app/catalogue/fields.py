"""Field makers of the catalogue's schemas: required, strict, nothing guessed."""

from typing import Any

from marshmallow import Schema, fields
from marshmallow.validate import Length, Range, Regexp

IDENTITY_LEVELS = ("L1", "L2", "L3", "L4")
UNITS = ("working", "calendar")

KEY = Regexp(r"^[a-z][a-z0-9_]*$", error="want small letters, digits and _")
DAY = Regexp(r"^\d{4}-\d{2}-\d{2}$", error="want YYYY-MM-DD")
HM = Regexp(r"^([01]\d|2[0-3]):[0-5]\d$", error="want HH:MM")


def text(*, empty: bool = False, **kwargs: Any) -> fields.String:
    """A required text; not empty unless said."""
    kwargs.setdefault("validate", None if empty else Length(min=1))
    return fields.String(required=True, **kwargs)


def number(low: int = 0, high: int | None = None, **kwargs: Any) -> fields.Integer:
    """A required whole number within bounds; no text, no float."""
    return fields.Integer(required=True, strict=True, validate=Range(low, high), **kwargs)


def flag() -> fields.Boolean:
    return fields.Boolean(required=True, truthy={True}, falsy={False})


def texts(**kwargs: Any) -> fields.List:
    return fields.List(fields.String(validate=Length(min=1)), required=True, **kwargs)


def condition(**kwargs: Any) -> fields.Dict:
    """`when`: situation key -> values, of which one suffices."""
    values = fields.List(fields.String(validate=Length(min=1)), validate=Length(min=1))
    return fields.Dict(keys=fields.String(validate=KEY), values=values, **kwargs)


def many(schema: type[Schema], **kwargs: Any) -> fields.List:
    return fields.List(fields.Nested(schema), required=True, **kwargs)


def one(schema: type[Schema]) -> fields.Nested:
    return fields.Nested(schema, required=True)
