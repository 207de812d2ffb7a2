"""Deadlines: each limit in its own unit, the earlier binds, and the clock stands while the law stops it."""

from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cases import deadlines
from app.cases.model import Suspension
from app.kernel.calendar import WorkingCalendar

CALENDAR = WorkingCalendar.load(Path(__file__).resolve().parents[3] / "config" / "calendars")


def d(text):
    return date.fromisoformat(text)


@pytest.mark.parametrize(
    ("accepted", "promised", "legal", "due", "estimated"),
    [
        ("2026-02-11", (5, "working"), None, "2026-02-25", False),
        ("2026-02-13", (7, "working"), (15, "calendar"), "2026-02-28", False),  # a passport: the law is earlier
        ("2026-11-24", (10, "working"), (60, "calendar"), "2026-12-08", False),  # the law's end lies in 2027, unbinding
        ("2026-11-24", (0, "working"), None, "2026-11-24", False),
    ],
)
def test_known_days(accepted, promised, legal, due, estimated):
    found = deadlines.decide_by(CALENDAR, d(accepted), promised, legal)
    assert (found.on, found.estimated) == (d(due), estimated)


def test_a_count_into_a_year_without_notice_says_so():
    assert deadlines.decide_by(CALENDAR, d("2026-12-28"), (10, "working"), None).estimated


def test_a_hearing_does_not_count():
    stop = Suspension("hearing", 20, d("2026-06-03"), d("2026-06-10"))
    without = deadlines.decide_by(CALENDAR, d("2026-06-01"), (10, "working"), None)
    with_stop = deadlines.decide_by(CALENDAR, d("2026-06-01"), (10, "working"), None, [stop])
    # Wed 3 June stops the clock after two days; it runs again on Thu 11 June with eight days left.
    assert without.on == d("2026-06-15")
    assert with_stop.on == deadlines.decide_by(CALENDAR, d("2026-06-10"), (8, "working"), None).on


@given(
    start=st.dates(d("2026-03-01"), d("2026-06-30")),
    days=st.integers(1, 30),
    first=st.integers(0, 20),
    length=st.integers(0, 20),
)
def test_against_an_independent_count_day_by_day(start, days, first, length):
    stop = Suspension("testing", 5, start + timedelta(days=first), start + timedelta(days=first + length))
    found = deadlines.decide_by(CALENDAR, start, (days, "working"), None, [stop]).on
    day, left = start, days
    while left:
        day += timedelta(days=1)
        if stop.from_on < day <= stop.until_on:
            continue
        left -= CALENDAR.is_workday(day)[0]
    # A limit that had ended before the stop is not moved by it.
    assert found == day
