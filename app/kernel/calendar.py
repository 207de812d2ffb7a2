"""The working-day calendar: one file per year, holding what the State Council's notice of that year says.

A year whose notice is not loaded falls back to ordinary weekends and the statutory days of the package `holidays`; make-up
workdays are never guessed. Whatever was counted with such a year is `estimated`, said openly, and computed again later.

Sources: 行政许可法 art. 82 (days are working days), 民法典 art. 201-203 (the day of the start does not count; a period that ends
on a rest day ends on the next working day), 全国年节及纪念日放假办法.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

import holidays
import orjson

Unit = Literal["working", "calendar"]

_DAY = timedelta(days=1)
_SATURDAY = 5
# A promise of years is no promise in days; the bound keeps a wrong number from counting for minutes.
MAX_DAYS = 3660


class CalendarBroken(ValueError):
    """A calendar file is wrong; the text names the file and what is wrong in it."""


@dataclass(frozen=True, order=True)
class DueDay:
    """The last day of a limit. `estimated`: the count touched a year whose notice is not published."""

    on: date
    estimated: bool


@dataclass(frozen=True)
class Notice:
    """What one year's notice of the State Council says about days off and make-up workdays."""

    year: int
    number: str
    issued_on: date
    holidays: frozenset[date]
    makeup_workdays: frozenset[date]


class WorkingCalendar:
    """Which days are working days, as far as the published notices say. Immutable."""

    def __init__(self, notices: Iterable[Notice]) -> None:
        self._notices = {notice.year: notice for notice in notices}
        # A notice may also move a day of the neighbouring year (New Year's Eve), so the days are looked up in all of them.
        self._off = frozenset().union(*(notice.holidays for notice in self._notices.values()))
        self._makeup = frozenset().union(*(notice.makeup_workdays for notice in self._notices.values()))

    @classmethod
    def load(cls, folder: Path) -> "WorkingCalendar":
        """Read every `<year>.json` of a folder.

        Raises:
            CalendarBroken: names the first wrong file.
        """
        return cls([_read_notice(path) for path in sorted(folder.glob("*.json"))])

    @property
    def published_years(self) -> tuple[int, ...]:
        """Return the years whose notice is loaded, in order."""
        return tuple(sorted(self._notices))

    def notice(self, year: int) -> Notice | None:
        """Return the notice of a year, or None when it is not published."""
        return self._notices.get(year)

    def is_workday(self, day: date) -> tuple[bool, bool]:
        """Return (is a working day, is only estimated)."""
        if day in self._makeup:
            return True, False
        if day in self._off:
            return False, False
        if day.year in self._notices:
            return day.weekday() < _SATURDAY, False
        return day.weekday() < _SATURDAY and day not in _statutory_days(day.year), True

    def add_working_days(self, start: date, days: int) -> DueDay:
        """Return the last day of a limit in working days.

        Day 1 is the next working day after `start`, which does not count itself. A limit of 0 days (即办) ends on the
        start day, or on the next working day when that is a rest day.

        Raises:
            ValueError: `days` is negative or beyond MAX_DAYS.
        """
        _check(days)
        if days == 0:
            return self._on_or_after(start, estimated=False)
        day, left, estimated = start, days, False
        while left:
            day += _DAY
            is_workday, guess = self.is_workday(day)
            estimated = estimated or guess
            left -= is_workday
        return DueDay(day, estimated)

    def add_calendar_days(self, start: date, days: int) -> DueDay:
        """Return the last day of a limit in calendar days; one that ends on a rest day moves to the next working day.

        Raises:
            ValueError: `days` is negative or beyond MAX_DAYS.
        """
        _check(days)
        return self._on_or_after(start + days * _DAY, estimated=False)

    def add(self, start: date, days: int, unit: str) -> DueDay:
        """Return the last day of a limit in its own unit. Raises ValueError for an unknown unit."""
        if unit == "working":
            return self.add_working_days(start, days)
        if unit == "calendar":
            return self.add_calendar_days(start, days)
        raise ValueError(f"unit {unit!r}: want working or calendar")

    def binding_due(self, start: date, promised: tuple[int, str], legal: tuple[int, str] | None) -> DueDay:
        """Return the day that binds: the earlier of promise and law, each counted in its own unit.

        Of two that fall on one day the one that is not estimated is the surer statement.
        """
        due = self.add(start, *promised)
        return due if legal is None else min(due, self.add(start, *legal))

    def _on_or_after(self, day: date, *, estimated: bool) -> DueDay:
        while True:
            is_workday, guess = self.is_workday(day)
            estimated = estimated or guess
            if is_workday:
                return DueDay(day, estimated)
            day += _DAY


def _check(days: int) -> None:
    if not 0 <= days <= MAX_DAYS:
        raise ValueError(f"a limit of {days} days")


@functools.lru_cache(maxsize=16)
def _statutory_days(year: int) -> frozenset[date]:
    return frozenset(holidays.country_holidays("CN", years=year))


def _read_notice(path: Path) -> Notice:
    try:
        data = orjson.loads(path.read_bytes())
        notice = Notice(
            year=int(data["year"]),
            number=str(data["notice"]),
            issued_on=date.fromisoformat(data["issued_on"]),
            holidays=frozenset(map(date.fromisoformat, data["holidays"])),
            makeup_workdays=frozenset(map(date.fromisoformat, data["makeup_workdays"])),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CalendarBroken(f"{path.name}: {type(error).__name__}: {error}") from error
    if path.stem != str(notice.year):
        raise CalendarBroken(f"{path.name}: holds the year {notice.year}")
    if both := notice.holidays & notice.makeup_workdays:
        raise CalendarBroken(f"{path.name}: {min(both)} is a day off and a make-up workday")
    for day in sorted(notice.holidays | notice.makeup_workdays):
        if abs((day - date(notice.year, 7, 2)).days) > 200:
            raise CalendarBroken(f"{path.name}: {day} does not belong to {notice.year}")
    for day in sorted(notice.makeup_workdays):
        if day.weekday() < _SATURDAY:
            raise CalendarBroken(f"{path.name}: {day} is no weekend, so it needs no make-up")
    if not notice.holidays:
        raise CalendarBroken(f"{path.name}: no days off")
    return notice
