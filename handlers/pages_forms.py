"""Between an HTML form and the values of a case's form (api.md, "Handle"): names, kinds, and what a page needs to draw a field."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

PREFIX = "f."
MAX_ROWS = 50

# Field type -> attributes of the input: what keyboard a phone shows, what it may fill in by itself.
_INPUTS = {
    "date": 'type="date"',
    "datetime": 'type="datetime-local"',
    "month": 'type="month"',
    "mobile": 'type="tel" inputmode="tel" autocomplete="tel" maxlength="20"',
    "id_number": 'type="text" inputmode="text" autocapitalize="characters" autocomplete="off" maxlength="20" spellcheck="false"',
    "bank_card": 'type="text" inputmode="numeric" autocomplete="off" maxlength="30"',
    "number": 'type="text" inputmode="decimal" autocomplete="off" maxlength="20"',
    "money": 'type="text" inputmode="decimal" autocomplete="off" maxlength="20"',
    "uscc": 'type="text" autocapitalize="characters" autocomplete="off" maxlength="20" spellcheck="false"',
    "vin": 'type="text" autocapitalize="characters" autocomplete="off" maxlength="20" spellcheck="false"',
    "plate": 'type="text" autocapitalize="characters" autocomplete="off" maxlength="12" spellcheck="false" placeholder="粤F12345"',
    "address": 'type="text" autocomplete="street-address"',
}

_HINTS = {
    "id_number": "18位，最后一位可以是X",
    "mobile": "11位手机号",
    "plate": "例如 粤F12345，新能源车 粤FD12345",
    "vin": "17位，在行驶证上",
    "uscc": "18位，在营业执照上",
    "money": "单位：元",
    "list": "没有用到的格子空着就行",
}


def input_attributes(field: Mapping[str, Any]) -> str:
    """Return the attributes of a one-line input. Trusted text of our own; templates write it raw."""
    return _INPUTS.get(field["type"], 'type="text"')


def hint(field: Mapping[str, Any]) -> str:
    """Return what helps to fill a field: the item's own words first."""
    return str(field.get("hint") or _HINTS.get(field["type"], ""))


def input_value(field: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Return the text an input shows for a value."""
    value = values.get(field["key"])
    if value is None:
        return ""
    text = str(value)
    return text[:16].replace(" ", "T") if field["type"] == "datetime" else text


def condition(field: Mapping[str, Any]) -> str:
    """Return `show_when` as JSON for web/static/form.js, or empty text."""
    return orjson.dumps(field["show_when"]).decode() if field.get("show_when") else ""


def entries(field: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Return the inputs of a list field: what is filled in, and empty ones up to its limit (three when it has none)."""
    filled = list(values.get(field["key"]) or ())
    places = field.get("max_items") or max(3, len(filled) + 1)
    return (filled + [""] * places)[:places]


def table_rows(field: Mapping[str, Any], values: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Return the rows of a table field: what is filled in, and one empty row (three at first)."""
    filled: list[Mapping[str, str]] = list(values.get(field["key"]) or ())
    empty: list[Mapping[str, str]] = [{}]
    return filled + empty * (1 if filled else 3)


def read_values(fields: Sequence[Mapping[str, Any]], sent: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the values of the fields as the API takes them; None takes an answer back. Nothing is judged here.

    Args:
        sent: the form by name, as `PageHandler.form_fields` returns it.
    """
    return {field["key"]: _value(field, sent) for field in fields}


def _value(field: Mapping[str, Any], sent: Mapping[str, Sequence[str]]) -> Any:
    name, kind = PREFIX + field["key"], field["type"]
    given = list(sent.get(name, ()))
    if kind == "boolean":
        return {"true": True, "false": False}.get(given[-1] if given else "")
    if kind in ("multiselect", "list"):
        return [entry.strip() for entry in given if entry.strip()] or None
    if kind == "table":
        return _rows(field, sent) or None
    text = given[-1].strip() if given else ""
    if kind == "number" and re.fullmatch(r"-?\d{1,12}", text):
        return int(text)
    return text or None


def _rows(field: Mapping[str, Any], sent: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    rows = []
    for number in range(MAX_ROWS):
        cells = [sent.get(f"{PREFIX}{field['key']}.{number}.{place}", ()) for place in range(len(field["columns"]))]
        if not any(cells):
            break
        row = {column: cell[-1].strip() for column, cell in zip(field["columns"], cells, strict=True) if cell}
        if any(row.values()):
            rows.append(row)
    return rows


def read_answers(situations: Sequence[Mapping[str, Any]], sent: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the answers to an item's situation questions; a question left open is absent."""
    answers: dict[str, Any] = {}
    for situation in situations:
        given = [value for value in sent.get(f"q.{situation['key']}", ()) if value]
        if given:
            answers[situation["key"]] = given if situation["type"] == "multi" else given[-1]
    return answers
