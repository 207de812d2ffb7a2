"""What was answered on a form, in the words a person reads: the same on pages and on papers."""

from collections.abc import Mapping
from typing import Any


def option_label(field: Mapping[str, Any], value: Any) -> str:
    """Return the words of an option."""
    for option in field.get("options") or ():
        if option["value"] == value:
            return str(option["label"])
    return str(value)


def shown(field: Mapping[str, Any], value: Any, divisions: Mapping[str, str]) -> str:
    """Return an answer of a form as a person reads it."""
    kind = field["type"]
    if value is None or value == "" or value == []:
        return "（未填）"
    if kind == "boolean":
        return "是" if value else "否"
    if kind == "select":
        return option_label(field, value)
    if kind == "multiselect":
        return "、".join(option_label(field, entry) for entry in value)
    if kind == "division":
        return divisions.get(value, str(value))
    if kind == "list":
        return "、".join(value)
    if kind == "table":
        return "；".join("，".join(f"{name} {cell}" for name, cell in row.items() if cell) for row in value)
    if kind == "money":
        return f"{value} 元"
    return str(value).replace("T", " ") if kind == "datetime" else str(value)
