"""Moments and days: a moment is an aware UTC datetime (`..._at`), a day is an Asia/Shanghai date (`..._on`)."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

SHANGHAI = ZoneInfo("Asia/Shanghai")


def utc_now() -> datetime:
    """Return the present moment, aware, UTC, cut to milliseconds: what MongoDB stores is what we compare."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def shanghai_day(moment: datetime) -> date:
    """Return the Shanghai day on which an aware moment falls."""
    return moment.astimezone(SHANGHAI).date()


def today() -> date:
    """Return the present day in Shanghai."""
    return shanghai_day(utc_now())


def format_utc(moment: datetime | None) -> str | None:
    """Return RFC 3339 in UTC with seconds (`2026-11-23T06:00:00Z`), or None."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
