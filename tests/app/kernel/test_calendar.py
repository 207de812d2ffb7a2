"""The working-day calendar: the published notices, the counting rules, and the years not yet published."""

import json
from datetime import date, timedelta
from pathlib import Path

import chinese_calendar
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernel.calendar import CalendarBroken, DueDay, WorkingCalendar
from config.settings import ROOT

FOLDER = ROOT / "config" / "calendars"
CALENDAR = WorkingCalendar.load(FOLDER)

published_days = st.dates(date(2024, 1, 1), date(2026, 12, 31))


def sure(text: str) -> DueDay:
    return DueDay(date.fromisoformat(text), estimated=False)


def test_every_day_of_the_published_years_agrees_with_chinesecalendar():
    day = date(2024, 1, 1)
    while day <= date(2026, 12, 31):
        assert CALENDAR.is_workday(day) == (chinese_calendar.is_workday(day), False), day
        day += timedelta(days=1)


@pytest.mark.parametrize(
    ("year", "number"),
    [(2024, "国办发明电〔2023〕7号"), (2025, "国办发明电〔2024〕12号"), (2026, "国办发明电〔2025〕7号")],
)
def test_each_year_names_its_notice(year, number):
    notice = CALENDAR.notice(year)
    assert notice is not None
    assert notice.number == number
    assert notice.issued_on.year == year - 1


@pytest.mark.parametrize(
    ("accepted_on", "days", "due"),
    [
        ("2026-02-11", 5, "2026-02-25"),  # Sat 14 Feb is a make-up workday, then nine days off
        ("2026-02-12", 3, "2026-02-24"),
        ("2026-02-13", 1, "2026-02-14"),
        ("2026-02-13", 7, "2026-03-02"),
        ("2026-11-23", 0, "2026-11-23"),  # decided on the spot
        ("2026-11-21", 0, "2026-11-23"),  # handed in on a Saturday
        ("2026-11-21", 1, "2026-11-23"),
        ("2026-09-19", 1, "2026-09-20"),  # a Sunday that is worked
    ],
)
def test_working_days_start_with_the_next_working_day(accepted_on, days, due):
    assert CALENDAR.add_working_days(date.fromisoformat(accepted_on), days) == sure(due)


@pytest.mark.parametrize(
    ("accepted_on", "days", "due"),
    [
        ("2026-02-13", 15, "2026-02-28"),  # a Saturday, but a make-up workday
        ("2026-11-23", 5, "2026-11-30"),  # Saturday 28 Nov moves on to Monday
        ("2026-09-16", 15, "2026-10-08"),  # 1 Oct, the first of the days off
        ("2026-11-21", 0, "2026-11-23"),
    ],
)
def test_calendar_days_that_end_on_a_rest_day_move_on(accepted_on, days, due):
    assert CALENDAR.add_calendar_days(date.fromisoformat(accepted_on), days) == sure(due)


def test_the_earlier_of_promise_and_law_binds_each_in_its_own_unit():
    # A passport: seven working days promised are longer than the fifteen calendar days of the law.
    assert CALENDAR.binding_due(date(2026, 2, 13), (7, "working"), (15, "calendar")) == sure("2026-02-28")
    assert CALENDAR.binding_due(date(2026, 11, 2), (7, "working"), (15, "calendar")) == sure("2026-11-11")
    assert CALENDAR.binding_due(date(2026, 2, 13), (7, "working"), None) == sure("2026-03-02")


def test_a_year_without_a_notice_is_estimated_from_weekends_and_statutory_days():
    assert CALENDAR.is_workday(date(2027, 1, 1)) == (False, True)
    assert CALENDAR.is_workday(date(2027, 1, 4)) == (True, True)
    assert CALENDAR.is_workday(date(2027, 2, 8)) == (False, True)  # Spring Festival
    assert CALENDAR.is_workday(date(2027, 1, 2)) == (False, True)  # a Saturday; no make-up day is guessed


def test_a_count_that_reaches_an_unpublished_year_says_so():
    assert CALENDAR.add_working_days(date(2026, 12, 24), 5) == sure("2026-12-31")
    assert CALENDAR.add_working_days(date(2026, 12, 24), 6) == DueDay(date(2027, 1, 4), estimated=True)
    assert CALENDAR.add_calendar_days(date(2026, 12, 20), 15) == DueDay(date(2027, 1, 4), estimated=True)


def test_the_flag_is_that_of_the_day_that_binds():
    start = date(2026, 12, 24)
    assert CALENDAR.binding_due(start, (5, "working"), (60, "calendar")) == sure("2026-12-31")
    assert CALENDAR.binding_due(start, (10, "working"), (7, "calendar")) == sure("2026-12-31")
    assert CALENDAR.binding_due(start, (10, "working"), (60, "calendar")).estimated


def test_published_years_are_listed():
    assert CALENDAR.published_years == (2024, 2025, 2026)


@given(start=published_days, days=st.integers(0, 40))
@settings(max_examples=200)
def test_counting_agrees_with_a_day_by_day_list(start, days):
    """Independent count: list the working days after the start, take the n-th."""
    horizon = [start + timedelta(days=offset) for offset in range(0, 120)]
    worked = [day for day in horizon[1:] if CALENDAR.is_workday(day)[0]]
    due = CALENDAR.add_working_days(start, days)
    if days:
        assert due.on == worked[days - 1]
        assert sum(1 for day in horizon if start < day <= due.on and CALENDAR.is_workday(day)[0]) == days
    else:
        assert due.on == next(day for day in horizon if CALENDAR.is_workday(day)[0])
    assert CALENDAR.is_workday(due.on)[0]
    assert due.estimated == (due.on.year > 2026)


@given(start=published_days, days=st.integers(0, 90))
@settings(max_examples=100)
def test_a_calendar_limit_is_never_shortened_and_ends_on_a_working_day(start, days):
    due = CALENDAR.add_calendar_days(start, days).on
    assert due >= start + timedelta(days=days)
    assert CALENDAR.is_workday(due)[0]
    between = (due - start).days - days
    assert not any(CALENDAR.is_workday(start + timedelta(days=days + i))[0] for i in range(between))


@pytest.mark.parametrize("days", [-1, 100_000])
def test_senseless_limits_are_refused(days):
    with pytest.raises(ValueError, match="limit of"):
        CALENDAR.add_working_days(date(2026, 1, 5), days)


def test_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="fortnights"):
        CALENDAR.add(date(2026, 1, 5), 1, "fortnights")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"year": 2030}, "holds the year"),
        ({"makeup_workdays": ["2026-01-01"]}, "day off and a make-up"),
        ({"makeup_workdays": ["2026-01-05"]}, "no weekend"),
        ({"holidays": ["2029-01-01"]}, "does not belong"),
        ({"holidays": []}, "no days off"),
        ({"holidays": ["1 January"]}, "2026.json"),
        ({"notice": None, "issued_on": 5}, "2026.json"),
        ({"holidays": ["2026-01-01", "2026-02-30"]}, "'2026-02-30' is no day"),
        ({"holidays": ["2026-01-01", "2026-01-01"]}, "2026-01-01 stands there twice"),
        ({"holidays": ["2026-01-01", "2026-10-01"]}, "2026-05-01 is a public holiday and missing"),
        ({"makeup_workdays": {}}, "makeup_workdays: want a list"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, change, said):
    data = json.loads((FOLDER / "2026.json").read_text(encoding="utf-8")) | change
    (tmp_path / "2026.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(CalendarBroken, match=said):
        WorkingCalendar.load(tmp_path)
