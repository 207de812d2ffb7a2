"""Reminders: whoever learns of a day notes it here (`put`), and the sweep tells of it.

Guarantee: a day is told at each of its thresholds once. The event is appended in the transaction that takes the threshold from the row, so
there are both or neither; two workers at one person conflict on the rows, and the second finds nothing left. Noting the same day again
changes nothing, so its source may be handed over as often as it likes. A clock that jumps over several thresholds tells once.

Collection `reminders`: {_id, owner_id, subject, kind, name, due_on, item, case_id, tell_on: [day], look_on: day | None,
noted_at, expires_at}, one row per person and subject; days are text, so that nobody mistakes midnight UTC for a Shanghai day.
"""

from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import structlog
from prometheus_client import Counter
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import shanghai_day, utc_now
from app.kernel.events import Event, new_event
from app.kernel.ids import new_id
from app.reminders.model import KEPT, Dated, Telling, days_to_tell, is_over, tellings
from app.storage import outbox
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

INDEXES = {
    "reminders": [
        IndexModel([("owner_id", ASCENDING), ("subject", ASCENDING)], name="of_owner", unique=True),
        IndexModel([("subject", ASCENDING)], name="of_subject"),
        # Only what is still to be told, so it stays small.
        IndexModel([("look_on", ASCENDING), ("_id", ASCENDING)], name="look_on", partialFilterExpression={"look_on": {"$type": "string"}}),
        IndexModel([("expires_at", ASCENDING)], name="expires", expireAfterSeconds=0),
    ]
}
_BATCH = 200
BEGINS = timedelta(hours=9)

reminded = Counter("hall_reminders", "Reminders told", ["event"])


class Reminders:
    """Any number of workers may sweep at once."""

    def __init__(self, database: Database, calendar: WorkingCalendar, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._calendar = calendar
        self._rows = database["reminders"]
        self._clock = clock

    async def put(self, owner_id: str, dated: Dated) -> None:
        """Note a day of a person. The same day again changes nothing; another day of the same subject takes the old one's place."""
        now = self._clock()
        to_tell = days_to_tell(dated, shanghai_day(now), self._calendar.is_workday)
        facts = {
            "kind": dated.kind,
            "name": dated.name,
            "due_on": dated.due_on.isoformat(),
            "item": dated.item,
            "case_id": dated.case_id,
        }
        look_on = to_tell[0] if to_tell else None
        fresh = {**facts, "tell_on": to_tell, "look_on": look_on, "noted_at": now, "expires_at": _expiry(dated.due_on)}
        same = {"owner_id": owner_id, "subject": dated.subject}
        for last in (False, True):
            try:
                # The day sits in the filter: whoever brings the same one finds no row to change, and must not bring back what was told.
                result = await self._rows.update_one({**same, "due_on": {"$ne": facts["due_on"]}}, {"$set": fresh})
                if result.matched_count == 0:
                    await self._rows.update_one(same, {"$setOnInsert": {"_id": new_id("rmd"), **fresh}}, upsert=True)
                return
            except DuplicateKeyError:  # somebody else has just noted it
                if last:
                    raise

    async def drop(self, subjects: Collection[str]) -> None:
        """Remind of these no more."""
        if subjects:
            await self._rows.delete_many({"subject": {"$in": list(subjects)}})

    async def keep_only(self, prefix: str, subjects: Collection[str]) -> None:
        """Forget what is noted under subjects that begin with `prefix` and is not among these."""
        begins = {"$gte": prefix, "$lt": prefix[:-1] + chr(ord(prefix[-1]) + 1)}
        await self._rows.delete_many({"subject": {**begins, "$nin": list(subjects)}})

    async def of(self, owner_id: str) -> list[dict[str, Any]]:
        """Return what is noted of a person, the nearest day first: {subject, kind, name, due_on, item, case_id, tell_on}."""
        return await self._rows.find({"owner_id": owner_id}).sort([("due_on", 1), ("_id", 1)]).limit(200).to_list()

    async def run(self) -> int:
        """Tell everybody what is due today; return how many messages that makes.

        A person whose row fails is logged and passed by until the next sweep.
        """
        # The day of reminders begins at nine: nobody is woken at midnight because a date has changed.
        today, told, after, seen = shanghai_day(self._clock() - BEGINS), 0, ("", ""), set()
        while rows := await self._due(today, after):
            for row in rows:
                after = (row["look_on"], row["_id"])
                if row["owner_id"] in seen:
                    continue
                seen.add(row["owner_id"])
                try:
                    told += await self._tell(row["owner_id"], today)
                except Exception as error:  # a sweep must outlive whatever one row meets
                    log.warning("reminder.failed", reminder_id=row["_id"], exc_info=error)
        return told

    async def _due(self, today: date, after: tuple[str, str]) -> list[dict[str, Any]]:
        day, row_id = after
        query = {
            "look_on": {"$type": "string", "$lte": today.isoformat()},
            "$or": [{"look_on": {"$gt": day}}, {"look_on": day, "_id": {"$gt": row_id}}],
        }
        cursor = self._rows.find(query, {"look_on": 1, "owner_id": 1}).sort([("look_on", 1), ("_id", 1)]).limit(_BATCH)
        return await cursor.to_list()

    async def _tell(self, owner_id: str, today: date) -> int:
        messages: list[Telling] = []

        async def work(session: AsyncClientSession) -> None:
            query = {"owner_id": owner_id, "look_on": {"$type": "string"}}
            rows = await self._rows.find(query, session=session).sort("_id", 1).to_list()
            messages[:] = tellings(rows, today)
            over = [row["_id"] for row in rows if is_over(row, today)]
            if over:
                await self._rows.update_many({"_id": {"$in": over}}, {"$set": {"tell_on": [], "look_on": None}}, session=session)
            for message in messages:
                for row in message.rows:
                    left = message.left(row, today)
                    change = {"tell_on": left, "look_on": left[0] if left else None}
                    await self._rows.update_one({"_id": row["_id"]}, {"$set": change}, session=session)
            await outbox.append(self._database, session, [self._event(owner_id, message) for message in messages])

        await self._database.transaction(work)
        for message in messages:
            reminded.labels(message.event).inc()
        return len(messages)

    def _event(self, owner_id: str, message: Telling) -> Event:
        entries = message.entries(shanghai_day(self._clock()))
        first = entries[0]
        page = "me"
        if first["case_id"] and len(entries) == 1:
            page = f"cases/{first['case_id']}"
        elif first["item"] and len({entry["item"] for entry in entries}) == 1:
            page = f"items/{first['item']}"
        data = {"entries": entries, "page": page, "item_name": first["name"] if len(entries) == 1 else ""}
        # A subject of its own: a later reminder never tells in place of this one.
        return new_event(message.event, subject=("reminder", new_id("rmd")), owner_id=owner_id, data=data, at=self._clock())

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Give the days of a joined resident to the one that stays. Harmless when repeated.

        A day that both had noted is told as often as it was not yet told to either.
        """

        async def move(session: AsyncClientSession) -> None:
            for row in await self._rows.find({"owner_id": from_id}, session=session).to_list():
                own = await self._rows.find_one({"owner_id": into_id, "subject": row["subject"]}, session=session)
                if own is None:
                    await self._rows.update_one({"_id": row["_id"]}, {"$set": {"owner_id": into_id}}, session=session)
                    continue
                await self._rows.delete_one({"_id": row["_id"]}, session=session)
                if own["due_on"] == row["due_on"]:
                    left = [day for day in own["tell_on"] if day in row["tell_on"]]
                    change = {"tell_on": left, "look_on": left[0] if left else None}
                    await self._rows.update_one({"_id": own["_id"]}, {"$set": change}, session=session)
                elif row["noted_at"] > own["noted_at"]:
                    newer = {name: row[name] for name in row if name not in ("_id", "owner_id", "subject")}
                    await self._rows.update_one({"_id": own["_id"]}, {"$set": newer}, session=session)

        await self._database.transaction(move)


def _expiry(due_on: date) -> datetime:
    return datetime.combine(due_on, time(), UTC) + KEPT
