"""The notices of years (节假日安排) at run time: what an operator has loaded goes before the files of config/calendars.

A loaded notice is kept in MongoDB; every process looks for news every few seconds and counts by it from then on, without a restart.
Days counted before are counted again: by the command that loads, and once more by a worker when every process has surely learnt of it
(`LEARNT`), because one that had not yet may have counted meanwhile. Counting again what is right changes nothing, so a command or a
worker that dies costs nothing but time: where it stopped is kept with the notice.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import structlog
from pymongo.errors import PyMongoError

from app.cases.errors import CaseConflict, CaseNotFound
from app.cases.service import Cases
from app.kernel.calendar import Notice, WorkingCalendar, notice_of
from app.kernel.clock import real_now
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

COLLECTION = "calendar_notices"
LEARNT = timedelta(seconds=60)
_EVERY_S = 5.0
_LEASE = timedelta(seconds=60)
_BATCH = 1000
# A limit that began in the old year may end in the new one; one that ends before the year begins does not touch it. Notices move a
# few days of the neighbouring years too (New Year's Eve).
_BEFORE_YEAR = timedelta(days=7)


@dataclass(frozen=True)
class Loaded:
    """What loading a notice did. `changed`: it was news; `replaced`: another notice of that year was in force."""

    notice: Notice
    changed: bool
    replaced: bool


class Notices:
    """What is loaded. Its `calendar` is the one that everybody in this process counts by."""

    def __init__(self, database: Database, calendar: WorkingCalendar) -> None:
        self._notices = database[COLLECTION]
        self._defaults = [notice for year in calendar.published_years if (notice := calendar.notice(year))]
        self._seen: dict[int, datetime] = {}
        self.calendar = calendar

    async def refresh(self) -> bool:
        """Take what is loaded; return whether that was news."""
        seen = {row["_id"]: row["loaded_at"] async for row in self._notices.find({}, {"loaded_at": 1})}
        if seen == self._seen:
            return False
        rows = await self._notices.find({}).to_list()
        self.calendar.replace([*self._defaults, *(notice_of(row["data"], f"notice of {row['_id']}") for row in rows)])
        self._seen = {row["_id"]: row["loaded_at"] for row in rows}
        log.info("calendar.loaded", years=self.calendar.published_years)
        return True

    async def run(self, stop: asyncio.Event, *, every_s: float = _EVERY_S) -> None:
        """Follow what is loaded until `stop`. A database that is away, or a notice that cannot be read, leaves the calendar as it is."""
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), every_s)
                return
            except TimeoutError:
                pass
            try:
                await self.refresh()
            except PyMongoError as error:
                log.warning("calendar.database_away", error=type(error).__name__)
            except ValueError as error:
                log.error("calendar.unreadable", exc_info=error)

    async def load(self, data: Mapping[str, Any], name: str) -> Loaded:
        """Put the notice of a year in force, instead of any other of that year. The same notice again changes nothing.

        Raises:
            CalendarBroken: one line that names the wrong day; nothing was changed.
        """
        notice = notice_of(data, name)
        await self.refresh()
        before = self.calendar.notice(notice.year)
        if before == notice:
            return Loaded(notice, changed=False, replaced=False)
        row = {
            "_id": notice.year,
            "data": {key: data[key] for key in ("year", "notice", "title", "issued_on", "holidays", "makeup_workdays") if key in data},
            "loaded_at": real_now(),
            # What is left to do: counted again up to this case, and whether all is done.
            "recount": {"after": "", "done": False, "lease_until": real_now() + LEARNT},
        }
        await self._notices.replace_one({"_id": notice.year}, row, upsert=True)
        await self.refresh()
        return Loaded(notice, changed=True, replaced=before is not None)


class Recounts:
    """Counts cases again after a notice was loaded."""

    def __init__(self, database: Database, notices: Notices, cases: Cases, clock: Callable[[], datetime] = real_now) -> None:
        self._rows = database[COLLECTION]
        self._notices = notices
        self._cases = cases
        self._clock = clock

    async def run(self, year: int, after: str = "", tell: Callable[[int, int, str], Any] | None = None) -> tuple[int, int]:
        """Count again every open case whose days touch the year, however many there are; return (looked at, changed).

        Args:
            after: the last case that was done already.
            tell: async, called after each piece with (looked at, changed, last case).
        """
        looked_at, changed = 0, 0
        begins_on = date(year, 1, 1) - _BEFORE_YEAR
        while True:
            ids, last = await self._cases.store.due_since(begins_on, after, _BATCH)
            for case_id in ids:
                looked_at += 1
                try:
                    changed += await self._cases.recompute(case_id)
                except (CaseNotFound, CaseConflict):  # gone, or changed by somebody who counts by the new calendar
                    continue
                except Exception as error:  # one broken case holds up no other
                    log.warning("calendar.recount_failed", case_id=case_id, exc_info=error)
            if tell is not None:
                await tell(looked_at, changed, last)
            if not last:
                return looked_at, changed
            after = last

    async def run_due(self) -> int:
        """Do, or go on with, what loaded notices have left to do; return how many cases changed. Any number of workers may call this."""
        total = 0
        while (row := await self._claim()) is not None:
            await self._notices.refresh()

            async def keep(_looked_at: int, _changed: int, last: str, year: int = row["_id"], loaded_at: datetime = row["loaded_at"]) -> None:
                # Of this loading alone: a corrected notice that came meanwhile begins from the start.
                mine = {"_id": year, "loaded_at": loaded_at}
                kept = {"recount.after": last, "recount.lease_until": self._clock() + _LEASE, "recount.done": not last}
                await self._rows.update_one(mine, {"$set": kept})

            _looked_at, changed = await self.run(row["_id"], row["recount"]["after"], keep)
            log.info("calendar.recounted", year=row["_id"], changed=changed)
            total += changed
        return total

    async def _claim(self) -> dict[str, Any] | None:
        now = self._clock()
        waiting = {"recount.done": False, "recount.lease_until": {"$lte": now}}
        return await self._rows.find_one_and_update(waiting, {"$set": {"recount.lease_until": now + _LEASE}})
