"""The working-day calendar: one file per year, holding what the State Council's notice of that year says.

A year whose notice is not loaded falls back to ordinary weekends and the statutory days of the package `holidays`; make-up
workdays are never guessed. Whatever was counted with such a year is `estimated`, said openly, and computed again later.

Sources: 行政许可法 art. 82 (days are working days), 民法典 art. 201-203 (the day of the start does not count; a period that ends
on a rest day ends on the next working day), 全国年节及纪念日放假办法.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

import holidays
import orjson

Unit = Literal["working", "calendar"]

_DAY = timedelta(days=1)
_SATURDAY = 5
_FIXED_DAYS = ((1, 1), (5, 1), (10, 1), (10, 2), (10, 3))
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
    """Which days are working days, as far as the published notices say."""

    def __init__(self, notices: Iterable[Notice]) -> None:
        self.replace(notices)

    def replace(self, notices: Iterable[Notice]) -> None:
        """Take these notices and no others; of two for one year the later one counts. Whoever holds the calendar counts by them now."""
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
    except (OSError, ValueError) as error:
        raise CalendarBroken(f"{path.name}: {error}") from error
    if isinstance(data, Mapping) and path.stem != str(data.get("year")):
        raise CalendarBroken(f"{path.name}: holds the year {data.get('year')}")
    return notice_of(data, path.name)


def notice_of(data: object, name: str) -> Notice:
    """Return the notice that a calendar file holds: `{"year", "notice", "issued_on", "holidays": [day], "makeup_workdays": [day]}`.

    Raises:
        CalendarBroken: one line that begins with `name` and says which day, or which key, is wrong.
    """
    try:
        if not isinstance(data, Mapping):
            raise TypeError("want a JSON object")
        notice = Notice(
            year=_year(data),
            number=_text(data, "notice"),
            issued_on=_day(_text(data, "issued_on"), "issued_on"),
            holidays=_days(data, "holidays"),
            makeup_workdays=_days(data, "makeup_workdays"),
        )
        _judge(notice)
    except (TypeError, ValueError) as error:
        raise CalendarBroken(f"{name}: {error}") from error
    return notice


def _year(data: Mapping[str, object]) -> int:
    year = data.get("year")
    if type(year) is not int or not 1950 <= year <= 2200:
        raise ValueError(f"year: {year!r} is no year")
    return year


def _text(data: Mapping[str, object], key: str) -> str:
    text = data.get(key)
    if not isinstance(text, str) or not text:
        raise ValueError(f"{key}: want a text")
    return text


def _days(data: Mapping[str, object], key: str) -> frozenset[date]:
    listed = data.get(key)
    if not isinstance(listed, list):
        raise TypeError(f"{key}: want a list of days such as 2027-01-01")
    days: set[date] = set()
    for text in listed:
        day = _day(text, key)
        if day in days:
            raise ValueError(f"{key}: {day} stands there twice")
        days.add(day)
    return frozenset(days)


def _day(text: object, key: str) -> date:
    try:
        if isinstance(text, str) and len(text) == len("2027-01-01"):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f"{key}: {text!r} is no day such as 2027-01-01")


def _judge(notice: Notice) -> None:
    if both := notice.holidays & notice.makeup_workdays:
        raise ValueError(f"{min(both)} is a day off and a make-up workday")
    for day in sorted(notice.holidays | notice.makeup_workdays):
        if abs((day - date(notice.year, 7, 2)).days) > 200:
            raise ValueError(f"{day} does not belong to {notice.year}")
    for day in sorted(notice.makeup_workdays):
        if day.weekday() < _SATURDAY:
            raise ValueError(f"{day} is no weekend, so it needs no make-up")
    if not notice.holidays:
        raise ValueError("no days off")
    # No notice may take these away (全国年节及纪念日放假办法): one that lacks them was copied wrongly.
    for day in (date(notice.year, month, day) for month, day in _FIXED_DAYS):
        if day not in notice.holidays:
            raise ValueError(f"{day} is a public holiday and missing in holidays")
