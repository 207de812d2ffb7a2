"""The days on which the applicant of a case is expected somewhere: an appointed day of the form, and a hearing. Pure."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from app.cases import hearings
from app.cases.model import FINAL, Case, State
from app.reminders.model import Dated


def prefix(case_id: str) -> str:
    """Return what the subjects of a case's days begin with."""
    return f"case:{case_id}:"


def appointments(case: Case, item: Mapping[str, Any]) -> list[Dated]:
    """Return the days that are still to come for an open case, as it stands now; none for a draft or an ended case."""
    if case.state is State.DRAFT or case.state in FINAL:
        return []
    found = []
    for field in item["form"]:
        day = case.form.get(field["key"]) if field.get("appointment") else None
        if isinstance(day, str) and day:
            found.append(Dated(f"{prefix(case.id)}{field['key']}", "appointment", case.item_name, date.fromisoformat(day), case_id=case.id))
    if hearings.is_under_way(case):
        held_on = case.suspensions[-1].expected_on
        if held_on is not None:
            found.append(Dated(f"{prefix(case.id)}hearing", "appointment", f"{case.item_name}：听证", held_on, case_id=case.id))
    return found
