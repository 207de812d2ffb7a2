"""Lamps of a case by its deadline (电子监察): green, yellow (due within two working days), red (overdue).

A lamp depends on the day it is due alone, so that a list filtered by lamp is one range of its index (app/cases/queue.py). Cards are
finer: they also know how long the whole limit is (deadlines.warn_on).
"""

from datetime import date

from app.cases.deadlines import WARN_WORKING_DAYS
from app.kernel.calendar import WorkingCalendar


def lamp(due_on: date | None, today: date, calendar: WorkingCalendar) -> str:
    """Return `none` without a deadline, else `green`, `yellow` or `red`."""
    if due_on is None:
        return "none"
    if today > due_on:
        return "red"
    return "yellow" if due_on <= calendar.add_working_days(today, WARN_WORKING_DAYS).on else "green"
