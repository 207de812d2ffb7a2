"""Deadlines of a case: each limit in its own unit, the earlier one binds, and the clock stands while the law stops it.

Sources: 行政许可法 art. 32 (five days to tell what is missing), art. 42 (extension), art. 44 (delivery), art. 45 and 82 (stops; working days);
民法典 art. 201-203 (the day of the start does not count; a period that ends on a rest day ends on the next working day).
"""

from collections.abc import Sequence
from datetime import date, timedelta

from app.cases.model import Suspension
from app.kernel.calendar import DueDay, WorkingCalendar

Limit = tuple[int, str]  # (days, `working` or `calendar`)

# 预警: local rules differ (20 % or two days before the end), so the earlier of both warns.
WARN_WORKING_DAYS = 2
WARN_SHARE = 5  # the last fifth


def decide_by(
    calendar: WorkingCalendar,
    accepted_on: date,
    promised: Limit,
    legal: Limit | None,
    suspensions: Sequence[Suspension] = (),
    extension: Limit | None = None,
) -> DueDay:
    """Return the last day for the decision: the earlier of promise and law, each prolonged by the extension.

    Args:
        suspensions: ended ones, in order of time, none within another; days in `(from_on, until_on]` do not count.
        extension: runs from the old last day (art. 42); stops after it prolong the extension alone.
    """
    limits = [promised] if legal is None else [promised, legal]
    parts = [[limit] if extension is None else [limit, extension] for limit in limits]
    candidates = [_end_of(calendar, accepted_on, one_after_another, suspensions) for one_after_another in parts]
    # Of two that fall on one day the published one is the surer statement.
    return min(candidates, key=lambda due: (due.on, due.estimated))


def _end_of(calendar: WorkingCalendar, start: date, limits: Sequence[Limit], suspensions: Sequence[Suspension]) -> DueDay:
    estimated = False
    for days, unit in limits:
        due = _limit_end(calendar, start, days, unit, [stop for stop in suspensions if (stop.until_on or start) > start])
        start, estimated = due.on, estimated or due.estimated
    return DueDay(start, estimated)


def _limit_end(calendar: WorkingCalendar, start: date, days: int, unit: str, suspensions: Sequence[Suspension]) -> DueDay:
    ended = [(stop.from_on, stop.until_on) for stop in suspensions if stop.until_on is not None]
    estimated = False
    while ended:
        from_on, until_on = ended[0]
        used, guess = _days_used(calendar, start, from_on, unit)
        if used >= days:  # the limit had already run out when the clock was stopped
            break
        days, start, estimated = days - used, until_on, estimated or guess
        del ended[0]
    end = calendar.add(start, days, unit)
    for from_on, until_on in ended:
        if from_on < end.on <= until_on:  # only its grace, a rest day, was left, and this stop covers the day after it
            end = calendar.add_working_days(until_on, 1)
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


def warn_on(calendar: WorkingCalendar, start: date, due_on: date, suspensions: Sequence[Suspension] = ()) -> date:
    """Return the day from which a clock that ends on `due_on` is yellow.

    That is when two working days are left or a fifth of all, whichever is more; of a short limit at most all but the first, so that
    nothing is yellow on the day it began, unless it is due on that day.
    """
    days = _days_used(calendar, start, due_on, "working")[0]
    for stop in suspensions:
        if stop.until_on is not None:
            days -= _days_used(calendar, max(start, stop.from_on), min(due_on, stop.until_on), "working")[0]
    left = min(max(WARN_WORKING_DAYS, -(-days // WARN_SHARE)), max(days - 1, 0))
    return working_days_before(calendar, due_on, left)


def working_days_before(calendar: WorkingCalendar, day: date, count: int) -> date:
    """Return the working day that lies `count` working days before `day`."""
    while count > 0:
        day -= timedelta(days=1)
        count -= calendar.is_workday(day)[0]
    return day
