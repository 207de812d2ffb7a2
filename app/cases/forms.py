"""Forms: what an item asks, what a draft may hold, and what a submitted form must be.

A draft takes anything of the right JSON kind, so that a half-typed number survives; `judge` is strict and tells every gap at once.
One definition (the item's `form` and `rules`) drives the API, the pages and this judgement. A computed field is answered by the
hall alone: what a client sends for it is left aside.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from app.catalogue import rules
from app.catalogue.model import applies
from app.kernel.errors import ErrorRow, error_row
from app.kernel.numbers import (
    check_bank_card,
    check_credit_code,
    check_document_number,
    check_id_number,
    check_mobile,
    check_plate,
    check_vin,
)
from app.kernel.text import without_unseen

MAX_TEXT = 2000
MAX_ROWS = 50

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
        elif "computed" in fields[key]:
            continue
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
    return without_unseen(value)


def _row(entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict) or len(entry) > 20:
        raise ValueError("表格的每一行应为对象，键为列名")
    row = {_text(key): _text(str(value) if isinstance(value, (int, float)) else value) for key, value in entry.items()}
    if any(key.startswith("$") or "." in key for key in row):
        raise ValueError("列名不对")
    return row


def with_computed(item: Mapping[str, Any], values: Mapping[str, Any], today: date) -> dict[str, Any]:
    """Return the values with the computed fields answered anew; one that cannot be computed yet is absent."""
    found = dict(values)
    for field in item["form"]:
        if "computed" in field:
            found.pop(field["key"], None)
            if (value := rules.computed_value(field, found, today)) is not None:
                found[field["key"]] = value
    return found


def judge(
    item: Mapping[str, Any], answers: Mapping[str, Any], values: Mapping[str, Any], facts: Facts
) -> tuple[dict[str, Any], list[ErrorRow]]:
    """Return the normalised values of the visible fields, and one row for everything that is missing or wrong."""
    judged, found = _judged(item, answers, values, facts)
    return judged, [row for row, level in found if level == "error"]


def advice(item: Mapping[str, Any], answers: Mapping[str, Any], values: Mapping[str, Any], facts: Facts) -> list[ErrorRow]:
    """Return what looks wrong but holds nothing up: told to the resident beside the field, and to the clerk, who decides."""
    return [row for row, level in _judged(item, answers, values, facts)[1] if level == "advice"]


def _judged(
    item: Mapping[str, Any], answers: Mapping[str, Any], values: Mapping[str, Any], facts: Facts
) -> tuple[dict[str, Any], list[tuple[ErrorRow, str]]]:
    values = with_computed(item, values, facts.today)
    judged: dict[str, Any] = {}
    rows: list[tuple[ErrorRow, str]] = []
    wrong: set[str] = set()
    fields = visible_fields(item, answers, values)
    for field in fields:
        key, value = field["key"], values.get(field["key"])
        if _is_blank(value):
            by_file = field["type"] == "photo" and key in facts.fields_with_files
            # What a computed field lacks is asked for where it is typed.
            if field["required"] and not by_file and "computed" not in field:
                rows.append((error_row(f"/form/{key}", "required", f"请填写“{field['label']}”"), "error"))
            continue
        try:
            judged[key] = _judge_value(field, value, facts)
        except ValueError as error:
            wrong.add(key)
            rows.append((error_row(f"/form/{key}", "invalid", f"“{field['label']}”：{error}"), "error"))
            continue
        if field["type"] == "table":
            rows += [(error_row(f"/form/{key}", "invalid", text), "advice") for text in _cell_advice(field, judged[key], facts)]
    rows += _broken_rules(item, answers, judged, {field["key"] for field in fields}, wrong, facts.today)
    return judged, rows


def _broken_rules(
    item: Mapping[str, Any],
    answers: Mapping[str, Any],
    judged: Mapping[str, Any],
    asked: Collection[str],
    wrong: Collection[str],
    today: date,
) -> Iterator[tuple[ErrorRow, str]]:
    for rule in item.get("rules", ()):
        named = rules.named(rule["check"])
        # A rule speaks of what is asked and readable: about a field that is wrong by itself enough is said already.
        if not set(named) <= set(asked) or not set(named).isdisjoint(wrong):
            continue
        if applies(rule.get("when"), answers) and applies(rule.get("show_when"), judged) and not rules.holds(rule["check"], judged, today):
            code = "required" if "any_of" in rule["check"] else "rule"
            yield error_row(f"/form/{rule['fields'][0]}", code, rule["message"]), rule["level"]


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value == []


def _judge_value(field: Field, value: Any, facts: Facts) -> Any:
    judged = _JUDGES[field.get("format", field["type"])](field, value, facts)
    if isinstance(judged, str) and "computed" not in field:
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


def _citizen_number(_field: Field, value: Any, facts: Facts) -> str:
    return check_id_number(str(value), on=facts.today)


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
    if not rules.PLAIN_NUMBER.fullmatch(text):
        raise ValueError("请填写数字，最多15位整数、6位小数")
    number = Decimal(text)
    if field["type"] == "money" and (number < 0 or number != number.quantize(Decimal("0.01"))):
        raise ValueError("请填写金额（元），最多两位小数")
    if "computed" in field:
        return value  # bounds bind what a person types; what follows from other answers is a matter of rules
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


def _table(field: Field, value: Sequence[Mapping[str, str]], facts: Facts) -> list[dict[str, str]]:
    columns, kinds = field["columns"], field.get("column_types", {})
    rows = [{column: row.get(column, "").strip() for column in columns} for row in value]
    rows = [row for row in rows if any(row.values())]
    if any(key not in columns for row in value for key in row):
        raise ValueError(f"列名应为：{'、'.join(columns)}")
    if field["required"] and not rows:
        raise ValueError("请至少填写一行")
    for number, row in enumerate(rows, 1):
        for column in columns:
            kind = kinds.get(column, {"type": "text"})
            if not row[column]:
                if not kind.get("optional"):
                    raise ValueError(f"第{number}行的“{column}”没有填")
                continue
            try:
                row[column] = str(_JUDGES[kind["type"]](kind, row[column], facts))
            except ValueError as error:
                if kind.get("level") != "advice":
                    raise ValueError(f"第{number}行的“{column}”：{error}") from None
    return rows


def _cell_advice(field: Field, rows: Sequence[Mapping[str, str]], facts: Facts) -> Iterator[str]:
    """Yield what looks wrong in columns that hold nothing up."""
    for column, kind in field.get("column_types", {}).items():
        if kind.get("level") == "advice":
            for number, row in enumerate(rows, 1):
                try:
                    if row[column]:
                        _JUDGES[kind["type"]](kind, row[column], facts)
                except ValueError as error:
                    yield f"“{field['label']}”第{number}行的“{column}”：{error}"


_JUDGES: dict[str, Callable[[Field, Any, Facts], Any]] = {
    "text": _plain,
    "textarea": _lines,
    "address": _plain,
    "photo": _plain,
    "id_number": _citizen_number,
    "document_number": _number(check_document_number),
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
