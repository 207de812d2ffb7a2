"""Days in a department's answer of which the resident is reminded: `dates` of a kind in check_kinds.json says which rows hold one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from app.kernel.numbers import mask_plate
from app.reminders.model import Dated


def dates_of(kind: Mapping[str, Any], records: Iterable[Mapping[str, Any]], index: Callable[[str], str]) -> list[Dated]:
    """Return the days that the records of an answer hold. A row that is not there or holds no day is passed by: it is an offer, no duty.

    Args:
        kind: of check_kinds.json.
        index: gives a plate or a number as one that can be stored, the same for the same.
    """
    found = []
    for record in records:
        rows = {row["label"]: str(row["value"]) for row in record["rows"]}
        for wanted in kind.get("dates", ()):
            day = _day(rows.get(wanted["label"], ""), wanted.get("months", 0))
            if day is None:
                continue
            named = rows.get(wanted["named_by"], "") if "named_by" in wanted else ""
            name = wanted["name"] + (f" {mask_plate(named)}" if named and wanted["kind"] == "inspection" else "")
            if named and wanted["kind"] == "appointment":
                name = named
            subject = f"check:{kind['kind']}:{wanted['kind']}" + (f":{index(named)}" if named else "")
            found.append(Dated(subject, wanted["kind"], name, day, item=wanted["item"]))
    return _one_each(found)


def _one_each(found: Sequence[Dated]) -> list[Dated]:
    # Two records of one subject: the nearer day is the one that matters.
    nearest: dict[str, Dated] = {}
    for dated in found:
        if dated.subject not in nearest or dated.due_on < nearest[dated.subject].due_on:
            nearest[dated.subject] = dated
    return list(nearest.values())


def _day(text: str, months: int) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    if not months:
        return day
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    # Only the day itself can be missing in the later month (29 February): then the month's last.
    for last in (day.day, 30, 29, 28):
        try:
            return date(year, month + 1, min(day.day, last))
        except ValueError:
            continue
    return None
