"""The notice of a year (节假日安排): load it into the running hall, show what the hall counts by."""

import asyncio
import calendar as months
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson

from app.kernel.calendar import CalendarBroken, WorkingCalendar, notice_of
from app.kernel.clock import today
from commands.environment import load_settings, start_logging
from commands.servers import CannotStart
from config.settings import ROOT, Settings

if TYPE_CHECKING:
    from commands.assembly import Hall


@click.group()
def command() -> None:
    """The notice of a year: load it, show it."""


@command.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def load(path: Path) -> None:
    """Put the notice of a year in force, count every deadline it touches again, and tell residents whose day moved.

    The file is like those in config/calendars. A corrected notice of the same year replaces the earlier one. Safe to repeat; when it is
    cut off, a worker goes on.
    """
    try:
        data = orjson.loads(path.read_bytes())
        notice = notice_of(data, path.name)
    except CalendarBroken as error:
        raise CannotStart(str(error)) from error
    except (OSError, ValueError) as error:
        raise CannotStart(f"{path.name}: {error}") from error

    async def run(hall: "Hall") -> None:
        while not hall.catalogue.is_loaded:
            if not await hall.catalogue.load():
                raise CannotStart("no catalogue is published: ./hall publish first")
        loaded = await hall.notices.load(data, path.name)
        word = "unchanged" if not loaded.changed else "replaces the earlier notice" if loaded.replaced else "loaded"
        click.echo(f"{notice.year}: {notice.number}, {len(notice.holidays)} days off, {len(notice.makeup_workdays)} make-up workdays: {word}")

        async def tell(looked_at: int, changed: int, last: str) -> None:
            if last:
                click.echo(f"  {looked_at} cases counted again, {changed} changed ...")

        looked_at, changed = await hall.recounts.run(notice.year, tell=tell)
        click.echo(f"{looked_at} open cases counted again, {changed} changed; residents whose day moved are told.")

    _with_hall(run)


@command.command()
@click.argument("year", type=click.IntRange(1950, 2200))
def show(year: int) -> None:
    """Print the months of a year with its days off: [ ] day off, + make-up workday."""
    calendar = asyncio.run(_calendar(_settings()))
    notice = calendar.notice(year)
    click.echo(f"{year}  " + (f"{notice.number}, {notice.issued_on}" if notice else "no notice published: weekends and statutory days, estimated"))
    for month in range(1, 13):
        click.echo("\n".join(month_lines(calendar, year, month)))


def month_lines(calendar: WorkingCalendar, year: int, month: int) -> list[str]:
    """Return a month as lines of weeks, Monday first; a day off stands in brackets, a make-up workday after a plus."""
    lines = [f"\n{year}-{month:02d}  Mo   Tu   We   Th   Fr   Sa   Su"]
    first = date(year, month, 1)
    day = first - timedelta(days=first.weekday())
    last = date(year, month, months.monthrange(year, month)[1])
    while day <= last:
        cells = []
        for number in range(7):
            each = day + timedelta(days=number)
            is_workday = calendar.is_workday(each)[0]
            mark = f"[{each.day:>2}]" if not is_workday else f"+{each.day:>2} " if each.weekday() > 4 else f" {each.day:>2} "
            cells.append(mark if each.month == month else "    ")
        lines.append("        " + " ".join(cells).rstrip() + (" < today" if day <= today() < day + timedelta(days=7) and year == today().year else ""))
        day += timedelta(days=7)
    return lines


def _settings() -> Settings:
    settings = load_settings()
    if not settings.mongodb_uri:
        raise CannotStart("no hall runs here: start ./hall dev first, or set HALL_MONGODB_URI")
    settings = replace(settings, log_level="error")
    start_logging(settings, "calendar")
    return settings


async def _calendar(settings: Settings) -> WorkingCalendar:
    from app.storage.mongo import Database
    from app.supervision.notices import Notices

    database = Database(settings.mongodb_uri, settings.mongodb_database)
    try:
        notices = Notices(database, WorkingCalendar.load(ROOT / "config" / "calendars"))
        await notices.refresh()
        return notices.calendar
    finally:
        await database.close()


def _with_hall(work: "Callable[[Hall], Awaitable[None]]") -> None:
    from commands.assembly import assemble

    settings = _settings()

    async def run() -> None:
        hall = await assemble(settings)
        try:
            await work(hall)
        finally:
            await hall.close()

    asyncio.run(run())
