"""Deadlines: each limit in its own unit, the earlier binds, and the clock stands while the law stops it."""

from datetime import date, timedelta
from pathlib import Path

import chinese_calendar
import pytest
from chinese_calendar import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cases import deadlines
from app.cases.model import Suspension
from app.kernel.calendar import Notice, WorkingCalendar
from tests.app.cases.counting import last_day

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


# --- ten years against a count that is written differently ---


def _notice(year):
    def of(days):
        return frozenset(day for day in days if day.year == year)

    return Notice(year, "chinesecalendar", date(year, 1, 1), of(constants.holidays), of(constants.workdays))


TEN_YEARS = WorkingCalendar([_notice(year) for year in range(2016, 2027)])
limits = st.tuples(st.integers(0, 60), st.sampled_from(["working", "calendar"]))
stop_plans = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 30)), max_size=4)


def stops_of(start, plan):
    """Stops one after another: each begins some days after the last one ended and lasts some days."""
    stops, day = [], start
    for after, length in plan:
        begun = day + timedelta(days=after)
        day = begun + timedelta(days=length)
        stops.append(Suspension("hearing", length, begun, day))
    return stops


@settings(max_examples=2000, deadline=None)
@given(
    start=st.dates(date(2016, 1, 1), date(2025, 6, 30)),
    promised=limits,
    legal=st.none() | limits,
    plan=stop_plans,
    extension=st.none() | st.tuples(st.integers(1, 30), st.sampled_from(["working", "calendar"])),
)
def test_ten_years_of_deadlines_against_an_independent_count(start, promised, legal, plan, extension):
    stops = stops_of(start, plan)
    found = deadlines.decide_by(TEN_YEARS, start, promised, legal, stops, extension)
    counted = [
        last_day(
            start,
            [limit, *([extension] if extension else [])],
            [(stop.from_on + timedelta(days=1), stop.until_on) for stop in stops],
            chinese_calendar.is_workday,
        )
        for limit in (promised, legal)
        if limit is not None
    ]
    assert found.on == min(counted)
    assert not found.estimated
    assert chinese_calendar.is_workday(found.on) or found.on == start


@settings(max_examples=500, deadline=None)
@given(start=st.dates(date(2016, 1, 1), date(2025, 6, 30)), limit=limits, plan=stop_plans, more=st.integers(1, 30))
def test_a_stop_or_an_extension_never_brings_the_day_nearer(start, limit, plan, more):
    plain = deadlines.decide_by(TEN_YEARS, start, limit, None).on
    stopped = deadlines.decide_by(TEN_YEARS, start, limit, None, stops_of(start, plan)).on
    extended = deadlines.decide_by(TEN_YEARS, start, limit, None, stops_of(start, plan), (more, limit[1])).on
    assert plain <= stopped < extended


@pytest.mark.parametrize("year", CALENDAR.published_years)
def test_the_notices_loaded_say_the_same_as_the_package(year):
    for day in (date(year, 1, 1) + timedelta(days=number) for number in range(365)):
        assert CALENDAR.is_workday(day) == (chinese_calendar.is_workday(day), False), day


@given(day=st.dates(date(2016, 3, 1), date(2025, 12, 31)), count=st.integers(1, 20))
def test_so_many_working_days_before_a_day(day, count):
    before = deadlines.working_days_before(TEN_YEARS, day, count)
    between = [before + timedelta(days=number) for number in range((day - before).days)]
    assert sum(map(chinese_calendar.is_workday, between)) == count
    assert chinese_calendar.is_workday(before)
