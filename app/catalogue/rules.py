"""Rules across the fields of a form, as data: a small closed language, so that an item's file can say them and no text is ever run.

An operand is a field's key, or one of
    {"value": 16}  {"today": true}  {"birth_of": key}  {"age_of": key}  {"sex_of": key}  {"sum_of": [key, column]}  {"count_of": key}
(the `..._of` of an id_number field read the citizen number; `sum_of` and `count_of` read a table). A check is one of
    {"left": operand, "is": "<=", "right": operand}  {"any_of": [key, ...]}
A comparison with something that is not there, or not readable yet, holds: that it must be there is said by the field (`required`, `show_when`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from app.kernel.numbers import check_id_number

Operand = str | Mapping[str, Any]
Value = Decimal | str | None

COMPARISONS = {"<": lt, "<=": le, "==": eq, "!=": ne, ">=": ge, ">": gt}
PLAIN_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,6})?", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}(-\d{2})?([T ].*)?", re.ASCII)
_NUMBERS, _DAYS = ("number", "money"), ("date", "month", "datetime")
_FROM_CITIZEN_NUMBER = ("birth_of", "age_of", "sex_of")


def value_of(operand: Operand, values: Mapping[str, Any], today: date) -> Value:
    """Return what an operand stands for under these answers: a number, a text (days as ISO text), or None when it is not known."""
    if isinstance(operand, str):
        return _plain(values.get(operand))
    [(name, argument)] = operand.items()
    if name == "value":
        return _plain(argument)
    if name == "today":
        return today.isoformat()
    if name == "count_of":
        return Decimal(len(_rows(values.get(argument))))
    if name == "sum_of":
        return _sum(_rows(values.get(argument[0])), argument[1])
    return _from_citizen_number(name, values.get(argument), today)


def _plain(value: Any) -> Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return Decimal(value)
    return (value.strip() or None) if isinstance(value, str) else None


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _sum(rows: Sequence[Mapping[str, Any]], column: str) -> Decimal | None:
    cells = [str(row.get(column, "")).strip() for row in rows]
    # A cell that is no number makes the sum unknown, not smaller.
    return sum(map(Decimal, cells), Decimal(0)) if cells and all(map(PLAIN_NUMBER.fullmatch, cells)) else None


def _from_citizen_number(name: str, value: Any, today: date) -> Value:
    try:
        number = check_id_number(str(value), on=today)
    except ValueError:
        return None
    born_on = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    if name == "birth_of":
        return born_on.isoformat()
    if name == "sex_of":
        return "1" if int(number[16]) % 2 else "2"  # GB/T 2261.1
    return Decimal(today.year - born_on.year - ((today.month, today.day) < (born_on.month, born_on.day)))


def computed_value(field: Mapping[str, Any], values: Mapping[str, Any], today: date) -> Any:
    """Return the answer of a computed field in the field's own form, or None when what it is computed from is not there."""
    found = value_of(field["computed"], values, today)
    if isinstance(found, Decimal):
        return int(found) if found == found.to_integral_value() else str(found)
    return found[:7] if found is not None and field["type"] == "month" else found


def holds(check: Mapping[str, Any], values: Mapping[str, Any], today: date) -> bool:
    """Say whether a check holds under these answers."""
    if "any_of" in check:
        return any(_is_there(values.get(key)) for key in check["any_of"])
    left, right = (_comparable(value_of(check[side], values, today)) for side in ("left", "right"))
    if left is None or right is None or isinstance(left, Decimal) != isinstance(right, Decimal):
        return True
    if isinstance(left, str) and isinstance(right, str) and _DAY.fullmatch(left) and _DAY.fullmatch(right):
        # A month and a day, a day and a moment: compared as exactly as the coarser one is given.
        shorter = min(len(left), len(right))
        left, right = left[:shorter].replace(" ", "T"), right[:shorter].replace(" ", "T")
    return bool(COMPARISONS[check["is"]](left, right))


def _comparable(value: Value) -> Value:
    return Decimal(value) if isinstance(value, str) and PLAIN_NUMBER.fullmatch(value) and len(value) <= 16 else value


def _is_there(value: Any) -> bool:
    return value is not None and value != [] and not (isinstance(value, str) and not value.strip())


def named(check: Mapping[str, Any]) -> list[str]:
    """Return the keys of the fields a check reads, in its order."""
    if "any_of" in check:
        return list(check["any_of"])
    return list(dict.fromkeys(key for side in ("left", "right") for key in _named(check[side])))


def _named(operand: Operand) -> list[str]:
    if isinstance(operand, str):
        return [operand]
    [(name, argument)] = operand.items()
    if name in ("value", "today"):
        return []
    return [argument[0] if name == "sum_of" else argument]


# --- judged when a catalogue is loaded: nothing of this can fail while a form is filled in ---


def check_mistakes(check: Any, form: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is wrong with a check; `form` has the fields by key."""
    if not isinstance(check, Mapping):
        yield "want an object"
    elif set(check) == {"any_of"}:
        keys = check["any_of"]
        if not isinstance(keys, list) or not keys:
            yield "any_of: want a list of keys"
            return
        yield from (f"the form has no field {key!r}" for key in keys if key not in form)
    elif set(check) == {"left", "is", "right"}:
        wrong = [line for side in ("left", "right") for line in operand_mistakes(check[side], form)]
        if check["is"] not in COMPARISONS:
            wrong.append(f"is: want one of {' '.join(COMPARISONS)}")
        if not wrong and len(kinds := {_kind(check[side], form) for side in ("left", "right")}) > 1:
            wrong.append(f"a {' is compared with a '.join(sorted(kinds))}")
        yield from wrong
    else:
        yield "want {left, is, right} or {any_of}"


def operand_mistakes(operand: Any, form: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is wrong with an operand."""
    if isinstance(operand, str):
        if operand not in form:
            yield f"the form has no field {operand!r}"
        return
    if not isinstance(operand, Mapping) or len(operand) != 1:
        yield "want a key or an object of one function"
        return
    [(name, argument)] = operand.items()
    if name == "today":
        if argument is not True:
            yield "today: want true"
    elif name == "value":
        if isinstance(argument, bool) or not isinstance(argument, (int, str)):
            yield "value: want a whole number or a text"
    elif name in _FROM_CITIZEN_NUMBER or name == "count_of":
        wanted = "table" if name == "count_of" else "id_number"
        if form.get(argument, {}).get("type") != wanted:
            yield f"{name}: {argument!r} is no {wanted} field"
    elif name == "sum_of":
        if not isinstance(argument, list) or len(argument) != 2 or argument[1] not in form.get(argument[0], {}).get("columns", ()):
            yield f"sum_of: {argument!r} is no column of a table"
    else:
        yield f"no function {name!r}"


def _kind(operand: Operand, form: Mapping[str, Mapping[str, Any]]) -> str:
    if isinstance(operand, str):
        kind = form[operand]["type"]
        return "number" if kind in _NUMBERS else "day" if kind in _DAYS else "text"
    [(name, argument)] = operand.items()
    if name in ("age_of", "sum_of", "count_of") or (name == "value" and isinstance(argument, int)):
        return "number"
    return "day" if name in ("today", "birth_of") or (name == "value" and _DAY.fullmatch(argument)) else "text"
