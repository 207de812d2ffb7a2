"""Days of which people are reminded: what they are about, and how long before they are told. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

# Kind -> the event that tells of it, and how many days before the day it is told. An appointment: on the working day before it.
EXPIRING, CYCLE, APPOINTMENT = "reminder.expiring", "reminder.points_cycle", "reminder.appointment"
EVENTS = (EXPIRING, CYCLE, APPOINTMENT)
KINDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "licence": (EXPIRING, (90, 30, 7)),
    "driving_licence": (EXPIRING, (90, 30, 7)),  # known from a check and not from the wallet
    "inspection": (EXPIRING, (30, 7)),
    "points_cycle": (CYCLE, (7,)),
    "appointment": (APPOINTMENT, ()),
}
# What falls due within so many days after something that is told now is told with it: one message and not three in a week.
TOGETHER_DAYS = 6
# So long a row is kept after its day, so that who learns of the same day again does not remind again.
KEPT = timedelta(days=400)


@dataclass(frozen=True)
class Dated:
    """A day that matters to one person.

    Attributes:
        subject: what it is about, one row per person and subject: `licence:lic_1`, `case:case_1:hearing`.
        kind: one of KINDS.
        name: what the person calls it; nothing personal but what is masked.
        due_on: the Shanghai day itself.
        item: alias of the item that takes care of it, or empty.
        case_id: the case it belongs to, or empty.
    """

    subject: str
    kind: str
    name: str
    due_on: date
    item: str = ""
    case_id: str = ""


def days_to_tell(dated: Dated, today: date, is_workday: Callable[[date], tuple[bool, bool]]) -> list[str]:
    """Return the days on which a thing is still to be told of, in order; those that passed before it was known are left out.

    Args:
        is_workday: of the official calendar: (is a working day, is estimated).
    """
    days = [dated.due_on - timedelta(days=before) for before in KINDS[dated.kind][1]]
    if dated.kind == "appointment":
        day = dated.due_on - timedelta(days=1)
        while not is_workday(day)[0]:
            day -= timedelta(days=1)
        days = [day]
    return [day.isoformat() for day in sorted(days) if today <= day <= dated.due_on]


@dataclass(frozen=True)
class Telling:
    """What one message says: the event, its rows, and the days of each row that are told with it."""

    event: str
    rows: Sequence[dict[str, Any]]

    def left(self, row: dict[str, Any], today: date) -> list[str]:
        """Return the days that stay to be told of a row: of several that have passed one message tells."""
        last = (today + timedelta(days=TOGETHER_DAYS)).isoformat()
        return [day for day in row["tell_on"] if day > last]

    def entries(self, today: date) -> list[dict[str, Any]]:
        """Return what the texts are made of, the nearest day first."""
        # Known from the wallet and from a check: one thing all the same.
        rows = list({(row["due_on"], row["name"]): row for row in self.rows}.values())
        rows.sort(key=lambda row: (row["due_on"], row["name"]))
        return [
            {
                "name": row["name"],
                "kind": row["kind"],
                "due_on": row["due_on"],
                "days_left": (date.fromisoformat(row["due_on"]) - today).days,
                "item": row["item"],
                "case_id": row["case_id"],
            }
            for row in rows
        ]


def is_over(row: dict[str, Any], today: date) -> bool:
    """Say whether there is nothing to remind of any more: an appointment that has passed. What has expired is still to be renewed."""
    return row["kind"] == "appointment" and bool(row["due_on"] < today.isoformat())


def tellings(rows: Sequence[dict[str, Any]], today: date) -> list[Telling]:
    """Return the messages that are due today to one person, from all that is still to be told.

    A message goes out when one of its rows is due; what else of the same event falls due within TOGETHER_DAYS goes with it. An appointment
    is told by itself: two of them are two places.
    """
    day, last = today.isoformat(), (today + timedelta(days=TOGETHER_DAYS)).isoformat()
    found = []
    for event in EVENTS:
        of_event = [row for row in rows if KINDS[row["kind"]][0] == event and row["look_on"] <= last and not is_over(row, today)]
        if event == APPOINTMENT:
            found += [Telling(event, [row]) for row in of_event if row["look_on"] <= day]
        elif any(row["look_on"] <= day for row in of_event):
            found.append(Telling(event, of_event))
    return found
