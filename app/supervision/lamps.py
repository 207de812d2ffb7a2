"""Lamps of a case by its deadline (电子监察): green, yellow (due within two working days), red (overdue)."""

from datetime import date

from app.kernel.calendar import WorkingCalendar

WARN_WORKING_DAYS = 2  # 预警: local thresholds differ (20% or 2 days), so this stays one constant


def lamp(due_on: date | None, today: date, calendar: WorkingCalendar) -> str:
    """Return `none` without a deadline, else `green`, `yellow` or `red`."""
    if due_on is None:
        return "none"
    if today > due_on:
        return "red"
    return "yellow" if due_on <= calendar.add_working_days(today, WARN_WORKING_DAYS).on else "green"
