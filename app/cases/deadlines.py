"""Deadlines of a case: each limit in its own unit, the earlier one binds, and the clock stands while the law stops it.

Sources: 行政许可法 art. 32 (five days to tell what is missing), art. 42 and 45, art. 82 (working days); 民法典 art. 201-203 (the day of
the start does not count; a period that ends on a rest day ends on the next working day).
"""

from collections.abc import Sequence
from datetime import date, timedelta

from app.cases.model import Suspension
from app.kernel.calendar import DueDay, WorkingCalendar

ACCEPT_WITHIN_WORKING_DAYS = 5


def accept_by(calendar: WorkingCalendar, received_on: date) -> DueDay:
    """Return the day by which the agency accepts, refuses, or names everything that is missing."""
    return calendar.add_working_days(received_on, ACCEPT_WITHIN_WORKING_DAYS)


def decide_by(
    calendar: WorkingCalendar,
    accepted_on: date,
    promised: tuple[int, str],
    legal: tuple[int, str] | None,
    suspensions: Sequence[Suspension] = (),
) -> DueDay:
    """Return the last day for the decision: the earlier of promise and law.

    Args:
        promised, legal: (days, `working` or `calendar`).
        suspensions: ended ones, in order of time; days in `(from_on, until_on]` do not count.
    """
    limits = [promised] if legal is None else [promised, legal]
    candidates = [_limit_end(calendar, accepted_on, days, unit, suspensions) for days, unit in limits]
    # Of two that fall on one day the published one is the surer statement.
    return min(candidates, key=lambda due: (due.on, due.estimated))


def _limit_end(
    calendar: WorkingCalendar, start: date, days: int, unit: str, suspensions: Sequence[Suspension]
) -> DueDay:
    estimated = False
    for stop in suspensions:
        if stop.until_on is None:
            continue
        used, guess = _days_used(calendar, start, stop.from_on, unit)
        if used >= days:  # the limit had already ended when the clock was stopped
            break
        days, start, estimated = days - used, stop.until_on, estimated or guess
    end = calendar.add_working_days(start, days) if unit == "working" else calendar.add_calendar_days(start, days)
    return DueDay(end.on, end.estimated or estimated)


def _days_used(calendar: WorkingCalendar, start: date, stopped_on: date, unit: str) -> tuple[int, bool]:
    """Count the days of a limit in `(start, stopped_on]`."""
    if unit == "calendar":
        return max(0, (stopped_on - start).days), False
    used, estimated, day = 0, False, start
    while day < stopped_on:
        day += timedelta(days=1)
        workday, guess = calendar.is_workday(day)
        used, estimated = used + workday, estimated or guess
    return used, estimated
