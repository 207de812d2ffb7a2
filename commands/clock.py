"""The virtual clock of dev and test: move it, and web, worker and the stand-ins follow within a second or two."""

import asyncio
import re
from dataclasses import replace
from datetime import datetime, timedelta

import aiohttp
import click

from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import SHANGHAI, chinese_moment, real_now
from commands.environment import load_settings, start_logging
from commands.servers import CannotStart
from config.settings import Settings

MOST = timedelta(days=3650)
_STEP = re.compile(r"\+(\d{1,4})(wd|d|h)")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, metavar="[+5wd | +3d | +2h | set 2026-12-31T09:00 | reset]")
def command(words: tuple[str, ...]) -> None:
    """Show or move the hall's clock (dev and test only).

    \b
    +5wd    five working days on, by the calendar, at the same time of day
    +3d +2h days, hours
    set     to a Shanghai time that is not before the real one
    reset   back to the real time; what was done meanwhile keeps its dates
    """
    settings = load_settings()
    if settings.is_production:
        raise CannotStart("the clock cannot be moved with HALL_ENV=production")
    if not settings.mongodb_uri:
        raise CannotStart("no hall runs here: start ./hall dev first, or set HALL_MONGODB_URI")
    start_logging(replace(settings, log_level="error"), "clock")
    ahead, has_sandbox = asyncio.run(move(settings, words))
    if words and not has_sandbox:
        click.echo("the stand-ins do not run; they follow when they are told again", err=True)
    click.echo(status(ahead))


def status(ahead: timedelta) -> str:
    """Return the line that says what the hall's clock shows."""
    now = chinese_moment(real_now() + ahead)
    return f"{now} (the real time)" if not ahead else f"{now} (ahead by {ahead}; ./hall clock reset)"


async def move(settings: Settings, words: tuple[str, ...]) -> tuple[timedelta, bool]:
    """Move the clock as the words say; return by how much it runs ahead now, and whether the stand-ins have been told.

    Raises:
        CannotStart: the words are not understood, or lead before the real time or more than ten years ahead.
    """
    from app.storage import virtual_clock
    from app.storage.mongo import Database
    from app.supervision.notices import Notices
    from config.settings import ROOT

    database = Database(settings.mongodb_uri, settings.mongodb_database)
    try:
        before = await virtual_clock.stored(database)
        if not words:
            return before, True
        notices = Notices(database, WorkingCalendar.load(ROOT / "config" / "calendars"))
        await notices.refresh()
        ahead = moved(before, words, real_now(), notices.calendar)
        await virtual_clock.move(database, ahead)
    finally:
        await database.close()
    return ahead, await _tell_sandbox(settings.sandbox_url, ahead)


def moved(before: timedelta, words: tuple[str, ...], real: datetime, calendar: WorkingCalendar) -> timedelta:
    """Return by how much the clock is to run ahead. Raises CannotStart for what is not understood."""
    match words:
        case ("reset",):
            return timedelta(0)
        case ("set", text):
            try:
                wanted = datetime.fromisoformat(text)
            except ValueError:
                raise CannotStart(f"clock set {text}: want a time such as 2026-12-31T09:00") from None
            ahead = (wanted if wanted.tzinfo else wanted.replace(tzinfo=SHANGHAI)) - real
        case (step,) if found := _STEP.fullmatch(step):
            count, unit = int(found[1]), found[2]
            if unit == "wd":
                day = (real + before).astimezone(SHANGHAI).date()
                ahead = before + (calendar.add_working_days(day, count).on - day if count else timedelta(0))
            else:
                ahead = before + (timedelta(days=count) if unit == "d" else timedelta(hours=count))
        case _:
            raise CannotStart(f"clock {' '.join(words)}: want +5wd, +3d, +2h, set 2026-12-31T09:00, or reset")
    if not timedelta(0) <= ahead <= MOST:
        raise CannotStart("the clock can run ahead of the real one by up to ten years, never behind it")
    return ahead


async def _tell_sandbox(url: str, ahead: timedelta) -> bool:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as http,
            http.post(f"{url}/_sim/clock", json={"offset_s": ahead.total_seconds()}) as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
