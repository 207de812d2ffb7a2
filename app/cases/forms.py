"""Forms: what an item asks, what a draft may hold, and what a submitted form must be.

A draft takes anything of the right JSON kind, so that a half-typed number survives; `judge` is strict and tells every gap at once.
One definition (the item's `form`) drives the API, the pages and this judgement.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from app.catalogue.model import applies
from app.kernel.errors import ErrorRow, error_row
from app.kernel.numbers import (
    check_bank_card,
    check_credit_code,
    check_id_number,
    check_mobile,
    check_plate,
    check_vin,
)

MAX_TEXT = 2000
MAX_ROWS = 50
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,6})?", re.ASCII)

Field = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """What judging needs besides the form itself."""

    today: date
    division_codes: Collection[str]
    fields_with_files: Collection[str] = ()  # photo fields for which a file was uploaded


def visible_fields(item: Mapping[str, Any], answers: Mapping[str, Any], values: Mapping[str, Any]) -> list[Field]:
    """Return the fields that are asked, by situation answers (`when`) and by other fields of the form (`show_when`)."""
    return [
        field
        for field in item["form"]
        if applies(field.get("when"), answers) and applies(field.get("show_when"), values)
    ]


def personal_keys(item: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of the fields whose answers are sealed at rest."""
    return frozenset(field["key"] for field in item["form"] if field.get("personal") or field.get("sensitive"))


def draft_values(item: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[ErrorRow]]:
    """Return what a draft keeps of `given`, and a row for each value of a wrong kind. None takes an answer back."""
    fields = {field["key"]: field for field in item["form"]}
    kept: dict[str, Any] = {}
    rows: list[ErrorRow] = []
    for key, value in given.items():
        pointer = f"/form/{key}"
        if key not in fields:
            rows.append(error_row(pointer, "unknown", "表单里没有这一项"))
        elif value is None:
            kept[key] = None
        else:
            try:
                kept[key] = _draft_value(fields[key]["type"], value)
            except ValueError as error:
                rows.append(error_row(pointer, "type", str(error)))
    return kept, rows


def _draft_value(kind: str, value: Any) -> Any:
    if kind == "boolean":
        if not isinstance(value, bool):
            raise ValueError("应为 true 或 false")
        return value
    if kind in ("number", "money"):
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError("应为数字")
        # A float never holds money or a limit: what came as 0.1 is kept as the text "0.1".
        return value if isinstance(value, int) and abs(value) < 10**15 else _text(str(value))
    if kind in ("multiselect", "list"):
        if not isinstance(value, list) or len(value) > MAX_ROWS:
            raise ValueError(f"应为列表，最多{MAX_ROWS}项")
        return [_text(entry) for entry in value]
    if kind == "table":
        if not isinstance(value, list) or len(value) > MAX_ROWS:
            raise ValueError(f"应为表格，最多{MAX_ROWS}行")
        return [_row(entry) for entry in value]
    return _text(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("应为文字")
    if len(value) > MAX_TEXT:
        raise ValueError(f"最多{MAX_TEXT}字")
    return value.replace("\x00", "")


def _row(entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict) or len(entry) > 20:
        raise ValueError("表格的每一行应为对象，键为列名")
    row = {_text(key): _text(str(value) if isinstance(value, (int, float)) else value) for key, value in entry.items()}
    if any(key.startswith("$") or "." in key for key in row):
        raise ValueError("列名不对")
    return row


def judge(
    item: Mapping[str, Any], answers: Mapping[str, Any], values: Mapping[str, Any], facts: Facts
) -> tuple[dict[str, Any], list[ErrorRow]]:
    """Return the normalised values of the visible fields, and one row for everything that is missing or wrong."""
    judged: dict[str, Any] = {}
    rows: list[ErrorRow] = []
    for field in visible_fields(item, answers, values):
        key, value = field["key"], values.get(field["key"])
        if _is_blank(value):
            if field["required"] and not (field["type"] == "photo" and key in facts.fields_with_files):
                rows.append(error_row(f"/form/{key}", "required", f"请填写“{field['label']}”"))
            continue
        try:
            judged[key] = _judge_value(field, value, facts)
        except ValueError as error:
            rows.append(error_row(f"/form/{key}", "invalid", f"“{field['label']}”：{error}"))
    return judged, rows


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value == []


def _judge_value(field: Field, value: Any, facts: Facts) -> Any:
    judged = _JUDGES[field["type"]](field, value, facts)
    if isinstance(judged, str):
        if len(judged) > field.get("max_length", MAX_TEXT):
            raise ValueError(f"最多{field.get('max_length', MAX_TEXT)}个字")
        pattern = field.get("pattern")
        if pattern and not re.fullmatch(pattern, judged, re.ASCII):
            raise ValueError("格式不对" + (f"，{field['hint']}" if field.get("hint") else "，请核对"))
    return judged


def _plain(_field: Field, value: Any, _facts: Facts) -> str:
    return " ".join(str(value).split())


def _lines(_field: Field, value: Any, _facts: Facts) -> str:
    return str(value).strip()


def _number(check: Callable[[str], str]) -> Callable[[Field, Any, Facts], str]:
    return lambda _field, value, _facts: check(str(value))


def _select(field: Field, value: Any, _facts: Facts) -> str:
    if value not in {option["value"] for option in field["options"]}:
        raise ValueError("请从选项中选择")
    return str(value)


def _multiselect(field: Field, value: Any, _facts: Facts) -> list[str]:
    options = {option["value"] for option in field["options"]}
    if any(entry not in options for entry in value):
        raise ValueError("请从选项中选择")
    return list(dict.fromkeys(value))


def _decimal(field: Field, value: Any, _facts: Facts) -> Any:
    text = str(value).strip()
    # Plain digits only: an exponent would let ten characters ask for gigabytes.
    if not _NUMBER.fullmatch(text):
        raise ValueError("请填写数字，最多15位整数、6位小数")
    number = Decimal(text)
    if field["type"] == "money" and (number < 0 or number != number.quantize(Decimal("0.01"))):
        raise ValueError("请填写金额（元），最多两位小数")
    if "min" in field and number < field["min"]:
        raise ValueError(f"不能小于{field['min']}")
    if isinstance(field.get("max"), int) and number > field["max"]:
        raise ValueError(f"不能大于{field['max']}")
    return value if isinstance(value, int) else text


def _day(field: Field, value: Any, facts: Facts) -> str:
    try:
        day = date.fromisoformat(str(value).strip())
    except ValueError:
        raise ValueError("请填写日期，例如 2026-11-23") from None
    if field.get("max") == "today" and day > facts.today:
        raise ValueError("日期不能晚于今天")
    return day.isoformat()


def _moment(_field: Field, value: Any, _facts: Facts) -> str:
    try:
        moment = datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise ValueError("请填写日期和时间，例如 2026-11-23 09:30") from None
    return moment.isoformat(timespec="minutes")


def _month(_field: Field, value: Any, _facts: Facts) -> str:
    text = str(value).strip()
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text):
        raise ValueError("请填写年月，例如 2026-11")
    return text


def _division(_field: Field, value: Any, facts: Facts) -> str:
    if value not in facts.division_codes:
        raise ValueError("请从列表中选择地区")
    return str(value)


def _list(field: Field, value: Sequence[str], _facts: Facts) -> list[str]:
    entries = [" ".join(entry.split()) for entry in value if entry.strip()]
    if len(entries) > field.get("max_items", MAX_ROWS):
        raise ValueError(f"最多{field['max_items']}项")
    if field["required"] and not entries:
        raise ValueError("请至少填写一项")
    return entries


def _table(field: Field, value: Sequence[Mapping[str, str]], _facts: Facts) -> list[dict[str, str]]:
    columns = field["columns"]
    rows = [{column: row.get(column, "").strip() for column in columns} for row in value]
    rows = [row for row in rows if any(row.values())]
    if any(key not in columns for row in value for key in row):
        raise ValueError(f"列名应为：{'、'.join(columns)}")
    if field["required"] and not rows:
        raise ValueError("请至少填写一行")
    for number, row in enumerate(rows, 1):
        empty = [column for column in columns if not row[column]]
        if empty:
            raise ValueError(f"第{number}行的“{empty[0]}”没有填")
    return rows


_JUDGES: dict[str, Callable[[Field, Any, Facts], Any]] = {
    "text": _plain,
    "textarea": _lines,
    "address": _plain,
    "photo": _plain,
    "id_number": _number(check_id_number),
    "mobile": _number(check_mobile),
    "uscc": _number(check_credit_code),
    "plate": _number(check_plate),
    "vin": _number(check_vin),
    "bank_card": _number(check_bank_card),
    "number": _decimal,
    "money": _decimal,
    "boolean": lambda _field, value, _facts: value,
    "select": _select,
    "multiselect": _multiselect,
    "date": _day,
    "datetime": _moment,
    "month": _month,
    "division": _division,
    "list": _list,
    "table": _table,
}


def prefilled(item: Mapping[str, Any], sources: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers that are known already: `sources` maps a `prefill` name (`profile.name` ...) to a value."""
    return {
        field["key"]: sources[field["prefill"]]
        for field in item["form"]
        if field.get("prefill") in sources and sources[field["prefill"]]
    }
