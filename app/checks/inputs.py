"""Inputs of checks and bill look-ups: judged truly, every mistake told at once, with pointers /inputs/<key>."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from app.kernel.errors import ErrorRow, ValidationFailed, error_row
from app.kernel.numbers import check_id_number, check_plate

_LONGEST = 64

Field = Mapping[str, Any]


def judge(fields: Sequence[Field], given: Mapping[str, Any]) -> dict[str, str]:
    """Return the inputs that were given, normalised; blanks count as not given.

    Raises:
        ValidationFailed: one row for every unknown, wrong or missing input.
    """
    known = {field["key"]: field for field in fields}
    rows: list[ErrorRow] = []
    judged: dict[str, str] = {}
    for key, value in given.items():
        pointer = f"/inputs/{key.replace('~', '~0').replace('/', '~1')}"
        field = known.get(key)
        if field is None:
            rows.append(error_row(pointer, "unknown", "这里不需要这一项"))
            continue
        if value is None or value == "":
            continue
        try:
            text = _value(field, value)
        except ValueError as error:
            rows.append(error_row(pointer, "invalid", str(error)))
            continue
        if text:
            judged[key] = text
    named = {row["pointer"] for row in rows}
    for key, field in known.items():
        if field.get("required") and key not in judged and f"/inputs/{key}" not in named:
            rows.append(error_row(f"/inputs/{key}", "required", f"请填写{field['label']}"))
    if rows:
        raise ValidationFailed(rows)
    return judged


def _value(field: Field, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("应为文字")
    text = str(value).replace("\x00", "").strip()
    if field["type"] != "text" or "pattern" in field:
        # Keyboards of phones type full-width digits and letters as easily as others; a name is left as it is written.
        text = unicodedata.normalize("NFKC", text)
    if len(text) > _LONGEST:
        raise ValueError(f"最多{_LONGEST}个字符")
    if not text:
        return ""
    if field["type"] == "plate":
        return check_plate(text)
    if field["type"] == "id_number":
        return check_id_number(text)
    if "pattern" in field:
        text = "".join(text.split()).upper()
        if not re.fullmatch(field["pattern"].strip("^$"), text, re.ASCII):
            raise ValueError(f"{field['label']}不正确：{field['hint']}" if field["hint"] else f"{field['label']}不正确")
    return text


def missing_of(key_sets: Sequence[Sequence[str]], given: Mapping[str, str]) -> list[str] | None:
    """Return None when one set of keys is complete, else the keys that the nearest set still lacks."""
    lacking = [[key for key in keys if key not in given] for keys in key_sets]
    if not all(lacking):
        return None
    # The nearest set shares most with what was given; of equals the one that asks for least.
    best = min(range(len(lacking)), key=lambda i: (-(len(key_sets[i]) - len(lacking[i])), len(lacking[i])))
    return lacking[best]
