"""News for those who follow an item, a theme or a place: one announcement, told to each of them once.

An announcement is one document, whose id names its source (this change of this item, this notice, this opening), so it is made once however
often its source is found. The fan-out walks the subscribers key by key, in the order of their ids, a batch per transaction: the events of a
batch and the place up to which the walk has come are written together, so whatever dies, it goes on where it was, and two workers at
one announcement never write a batch twice. A person who follows it by several keys, or by two accounts that are joined meanwhile, is told
once: the events carry the source's name as `once` (push/service.py, tell).

A long walk waits while many of its events are still to be handed over, so that those of people's own matters do not wait behind it.

Collection `announcements`: {_id: source, event, keys: [{kind, key}], data, at, place, after, told, is_open, done_at}.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from prometheus_client import Counter
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import ConnectionFailure

from app.catalogue.live import LiveCatalogue
from app.kernel.clock import shanghai_day, utc_now
from app.kernel.events import Event, new_event
from app.reminders.service import BEGINS
from app.storage import outbox
from app.storage.mongo import Database
from push.model import EVENTS
from push.subscriptions import ITEM, NOTICE, THEME, Subscriptions

log = structlog.get_logger(__name__)

INDEXES = {
    "announcements": [
        IndexModel([("at", ASCENDING), ("_id", ASCENDING)], name="open", partialFilterExpression={"is_open": True}),
    ]
}
BATCH = 200
KEYS_OF_A_BATCH = 100
MOST_WAITING = 600  # of news in the outbox
_TOLD_AS = {"item.opened": "news.item_opened", "item.changed": "news.item_changed", "item.closed": "news.item_closed"}

fanned_out = Counter("hall_news_told", "Events of news written for people who follow something")

Key = dict[str, str]


class News:
    """Any number of workers may run it at once."""

    def __init__(
        self, database: Database, subscriptions: Subscriptions, catalogue: LiveCatalogue, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._announcements = database["announcements"]
        self._subscriptions = subscriptions
        self._catalogue = catalogue
        self._clock = clock
        subscriptions.when_moved = self._tell_moved

    # --- sources ---

    async def note_item(self, event: Event) -> None:
        """Announce what a publication did to an item (app/catalogue/changes.py). May be handed over any number of times."""
        row = event.data
        keys = [_key(ITEM, row["alias"])]
        if event.name == "item.opened":  # a new item is news for its themes; a changed one for those who want that item
            keys += [_key(THEME, theme) for theme in row["themes"]]
        page = "items" if event.name == "item.closed" else f"items/{row['alias']}"
        data = {"item_name": row["item_name"], "parts": list(row["parts"]), "page": page}
        await self._announce(f"publication:{row['publication']}:{row['code']}", _TOLD_AS[event.name], keys, data, event.at)

    async def look(self) -> None:
        """Announce what began to show by its day: notices, and times in which an item takes applications."""
        snapshot, now = self._catalogue.snapshot, self._clock()
        today = shanghai_day(now - BEGINS).isoformat()
        found: list[tuple[str, str, list[Key], dict[str, Any]]] = []
        for item in snapshot.items:
            for period in item.get("periods", ()):
                if period["from_on"] <= today <= period["until_on"]:
                    keys = [_key(ITEM, item["alias"]), *(_key(THEME, theme) for theme in item["themes"])]
                    days = {"period_name": period["name"], "from_on": period["from_on"], "until_on": period["until_on"]}
                    data = {"item_name": item["name"], "page": f"items/{item['alias']}", **days}
                    found.append((f"period:{item['alias']}:{period['key']}:{period['from_on']}", "news.period_opened", keys, data))
        for notice in snapshot.catalogue.notices:
            if notice["from_on"] <= today and (notice["until_on"] is None or today <= notice["until_on"]):
                page = f"items/{notice['item']}" if notice["item"] else ""
                data = {"item_name": notice["title"], "text": notice["body"], "page": page or "inbox"}
                found.append((f"notice:{notice['id']}", "news.notice_published", self._keys_of(notice), data))
        names = [source for source, _event, _keys, _data in found]
        known = {row["_id"] async for row in self._announcements.find({"_id": {"$in": names}}, {"_id": 1})}
        for source, event, keys, data in found:
            if source not in known:
                await self._announce(source, event, keys, data, now)

    def _keys_of(self, notice: Mapping[str, Any]) -> list[Key]:
        """Return who hears of a notice: followers of its item and themes, and of the places it is for, with the places inside them."""
        snapshot = self._catalogue.snapshot
        themes = set(notice.get("themes", ()))
        keys = []
        if notice["item"] and (item := snapshot.by_alias.get(notice["item"])):
            keys.append(_key(ITEM, item["alias"]))
            themes |= set(item["themes"])
        wanted = set(notice.get("divisions", ()))
        for code, row in snapshot.divisions.items():
            parents = _with_parents(code, row, snapshot.divisions)
            if not wanted or wanted & parents:
                keys.append(_key(NOTICE, code))
        return keys + [_key(THEME, theme) for theme in sorted(themes)]

    async def _announce(self, source: str, event: str, keys: Sequence[Key], data: Mapping[str, Any], at: datetime) -> None:
        document = {"event": event, "keys": list(keys), "data": dict(data), "at": at, "place": 0, "after": "", "told": 0, "is_open": True}
        # Upsert: whoever finds the same source at the same moment finds it made.
        await self._announcements.update_one({"_id": source}, {"$setOnInsert": document}, upsert=True)

    # --- telling ---

    async def run(self) -> int:
        """Go on with every open announcement, the oldest first; return how many events were written.

        One that fails is logged and passed by until the next round.
        """
        written = 0
        async for row in self._announcements.find({"is_open": True}, {"_id": 1}).sort([("at", 1), ("_id", 1)]):
            try:
                while (batch := await self.step(row["_id"])) is not None:
                    written += batch
            except ConnectionFailure:  # the database is away: the others would only wait for it one after the other, and so would whoever stops us
                raise
            except Exception as error:  # the others must not wait for what one of them meets
                log.warning("news.failed", source=row["_id"], exc_info=error)
        return written

    async def step(self, source: str) -> int | None:
        """Write one batch of an announcement; return how many events, or None when it is done or has to wait."""
        waiting = {"name": {"$in": list(EVENTS["news"])}, "state": "waiting"}
        if await self._database["events"].count_documents(waiting, limit=MOST_WAITING) >= MOST_WAITING:
            return None

        async def work(session: AsyncClientSession) -> int | None:
            # Written to before it is read on: two workers meet here, and the second one starts again behind the first.
            row = await self._announcements.find_one_and_update(
                {"_id": source, "is_open": True}, {"$inc": {"batches": 1}}, session=session, return_document=True
            )
            if row is None:
                return None
            people: list[str] = []
            place, after = row["place"], row["after"]
            # Most keys have few followers: a batch goes over as many of them as fill it.
            while place < min(len(row["keys"]), row["place"] + KEYS_OF_A_BATCH) and len(people) < BATCH:
                key, room = row["keys"][place], BATCH - len(people)
                found = await self._subscriptions.subscribers(key["kind"], key["key"], after, room, until=row["at"], session=session)
                people += found
                place, after = (place, found[-1]) if len(found) == room else (place + 1, "")
            await outbox.append(self._database, session, [self._event(row, person) for person in people])
            change: dict[str, Any] = {"place": place, "after": after}
            if place >= len(row["keys"]):
                change |= {"is_open": False, "done_at": self._clock()}
            await self._announcements.update_one(
                {"_id": source}, {"$set": change, "$inc": {"told": len(people)}}, session=session
            )
            return len(people)

        written = await self._database.transaction(work)
        fanned_out.inc(written or 0)
        return written

    async def _tell_moved(self, person: str, rows: Sequence[Mapping[str, Any]], session: AsyncClientSession) -> None:
        """Tell somebody who takes over subscriptions of what is on its way: the walk may have passed their id, and not yet the old one's.

        Who was told already is told no second time: the event has the announcement's name.
        """
        followed = {(row["kind"], row["key"]): row["since"] for row in rows}
        events = []
        async for open_row in self._announcements.find({"is_open": True}, session=session):
            since = (followed.get((key["kind"], key["key"])) for key in open_row["keys"])
            if any(moment is not None and moment <= open_row["at"] for moment in since):
                events.append(self._event(open_row, person))
        await outbox.append(self._database, session, events)

    def _event(self, row: Mapping[str, Any], person: str) -> Event:
        subject = ("news", hashlib.sha256(row["_id"].encode()).hexdigest()[:26])
        data = {**row["data"], "once": f"news:{row['_id']}"}
        return new_event(row["event"], subject=subject, owner_id=person, data=data, at=self._clock())


def _key(kind: str, key: str) -> Key:
    return {"kind": kind, "key": key}


def _with_parents(code: str, row: Mapping[str, Any], divisions: Mapping[str, Mapping[str, Any]]) -> set[str]:
    found = {code}
    while row["level"] != "city" and (parent := row.get("parent")) and parent not in found:
        found.add(parent)
        if parent not in divisions:
            break
        row = divisions[parent]
    return found
