"""Lamps and the day from which a clock warns, against plain counts over real calendars."""

from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cases.deadlines import warn_on
from app.cases.model import Suspension
from app.kernel.calendar import WorkingCalendar
from app.supervision.lamps import lamp

CALENDAR = WorkingCalendar.load(Path(__file__).resolve().parents[3] / "config" / "calendars")
DAY = timedelta(days=1)


def days_left(day: date, due_on: date) -> int:
    count = 0
    while day < due_on:
        day += DAY
        count += CALENDAR.is_workday(day)[0]
    return count


workdays = st.dates(date(2024, 1, 2), date(2026, 10, 1)).filter(lambda day: CALENDAR.is_workday(day)[0])


@given(workdays, st.integers(-20, 60))
@settings(max_examples=300, deadline=None)
def test_a_lamp_is_yellow_for_the_last_two_working_days_and_red_after(due_on, before):
    today = due_on - before * DAY
    wanted = "red" if before < 0 else "yellow" if days_left(today, due_on) <= 2 else "green"
    assert lamp(due_on, today, CALENDAR) == wanted


@given(st.dates(date(2024, 1, 2), date(2026, 6, 1)), st.integers(0, 90))
@settings(max_examples=300, deadline=None)
def test_a_clock_warns_when_two_days_or_a_fifth_of_it_are_left_but_not_on_its_first_day(start, limit):
    due_on = CALENDAR.add_working_days(start, limit).on
    day = warn_on(CALENDAR, start, due_on)
    left = days_left(day, due_on)
    assert left == min(max(2, -(-limit // 5)), max(limit - 1, 0))
    assert day > start or limit == 0 or (left == 0 and day == due_on)
    assert day <= due_on


def test_time_in_which_the_clock_stood_makes_no_limit_longer():
    start = date(2026, 3, 2)
    stop = Suspension("hearing", 20, date(2026, 3, 3), date(2026, 4, 3))
    running = 10
    due_on = CALENDAR.add_working_days(date(2026, 4, 3), running - 1).on
    assert days_left(warn_on(CALENDAR, start, due_on, [stop]), due_on) == 2
    assert days_left(warn_on(CALENDAR, start, due_on), due_on) > 2, "without the stop it would look like a long limit"


@pytest.mark.parametrize(("due_on", "today", "colour"), [(None, "2026-03-02", "none"), ("2026-03-02", "2026-03-02", "yellow")])
def test_without_a_day_there_is_no_lamp_and_on_the_last_day_it_is_yellow(due_on, today, colour):
    assert lamp(date.fromisoformat(due_on) if due_on else None, date.fromisoformat(today), CALENDAR) == colour
