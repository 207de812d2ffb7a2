"""Moments and days: a moment is an aware UTC datetime (`..._at`), a day is an Asia/Shanghai date (`..._on`).

There are two clocks. `utc_now` is the hall's: everything that the law or a promise counts goes by it, and in dev and test it can be
moved ahead (app/storage/virtual_clock.py). `real_now` is the machine's: sign-ins go by it, so that nobody is signed out by a demo.
"""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

SHANGHAI = ZoneInfo("Asia/Shanghai")


_ahead = timedelta(0)


def real_now() -> datetime:
    """Return the machine's present moment, aware, UTC, cut to milliseconds: what MongoDB stores is what we compare."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def utc_now() -> datetime:
    """Return the present moment of the hall, as `real_now` gives it."""
    return real_now() + _ahead if _ahead else real_now()


def run_ahead(by: timedelta) -> None:
    """Let the hall's clock in this process run ahead of the machine's. Dev and test alone; zero puts it right.

    Raises:
        ValueError: `by` is negative: the hall's clock is never behind, else MongoDB's TTL indexes would remove what is still good.
    """
    global _ahead
    if by < timedelta(0):
        raise ValueError(f"the clock cannot run behind ({by})")
    _ahead = by


def ahead() -> timedelta:
    """Return by how much the hall's clock runs ahead in this process."""
    return _ahead


def shanghai_day(moment: datetime) -> date:
    """Return the Shanghai day on which an aware moment falls."""
    return moment.astimezone(SHANGHAI).date()


def today() -> date:
    """Return the present day in Shanghai."""
    return shanghai_day(utc_now())


def format_utc(moment: datetime | None) -> str | None:
    """Return RFC 3339 in UTC with seconds (`2026-11-23T06:00:00Z`), or None."""
    return None if moment is None else f"{moment.astimezone(UTC).isoformat(timespec='seconds')[:19]}Z"


def parse_utc(text: str) -> datetime:
    """Read an RFC 3339 moment into an aware UTC datetime. Raises ValueError, also for a time without offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"moment without offset: {text!r}")
    return moment.astimezone(UTC)


def chinese_day(day: date) -> str:
    """Return a day as residents read it: `2026年12月8日`."""
    return f"{day.year}年{day.month}月{day.day}日"


def chinese_moment(moment: datetime) -> str:
    """Return a moment as residents read it, Shanghai time: `2026年12月8日 14:05`."""
    local = moment.astimezone(SHANGHAI)
    return f"{chinese_day(local.date())} {local:%H:%M}"
