"""What a person wants to hear of: an item, a theme, the notices of a place.

A subscription is one row `{owner_id, kind, key, name, since}`, one per person, kind and key whoever asks twice or at once. Readers walk the
people of one key in the order of their ids (`subscribers`), so a walk can stop anywhere and go on from the last id it has.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.catalogue.live import LiveCatalogue
from app.kernel.clock import format_utc, utc_now
from app.kernel.errors import Conflict, NotFound
from app.kernel.ids import new_id
from app.storage.mongo import Database
from push.store import Store

ITEM, THEME, NOTICE = KINDS = ("item", "theme", "notice")
MOST = 50  # of one person

INDEXES = {
    "subscriptions": [
        IndexModel([("kind", ASCENDING), ("key", ASCENDING), ("owner_id", ASCENDING)], name="of_key", unique=True),
        IndexModel([("owner_id", ASCENDING), ("_id", ASCENDING)], name="of_owner"),
    ]
}


class NothingToFollow(NotFound):
    """No such item, theme or place."""

    code = "subscription.unknown_key"


class TooManySubscriptions(Conflict):
    code = "subscription.too_many"
    title = "订阅太多"


class Subscriptions:
    def __init__(
        self, database: Database, store: Store, catalogue: LiveCatalogue, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._rows = database["subscriptions"]
        self._heads = database["push_heads"]
        self._store = store
        self._catalogue = catalogue
        self._clock = clock
        # Called with who has taken over which rows, in the transaction of a join: a walk may have passed the one who stays already.
        self.when_moved: Callable[[str, list[dict[str, Any]], AsyncClientSession], Awaitable[None]] | None = None

    async def subscribers(
        self,
        kind: str,
        key: str,
        after: str = "",
        limit: int = 500,
        *,
        until: datetime | None = None,
        session: AsyncClientSession | None = None,
    ) -> list[str]:
        """Return the ids of people who follow this key, ascending, beginning after the id `after`; fewer than `limit` = the end.

        Args:
            until: only those who had subscribed by then.
        """
        query: dict[str, Any] = {"kind": kind, "key": key, "owner_id": {"$gt": after}}
        if until is not None:
            query["since"] = {"$lte": until}
        found = self._rows.find(query, {"_id": 0, "owner_id": 1}, session=session).sort("owner_id", ASCENDING).limit(limit)
        return [row["owner_id"] async for row in found]

    async def put(self, owner_id: str, kind: str, key: str) -> dict[str, Any]:
        """Follow something; asked again it changes nothing. Return the subscription as `view` shows it.

        Raises:
            NothingToFollow: the catalogue has no such item, theme or place.
            TooManySubscriptions: the person follows MOST others already.
        """
        key, name = self.resolve(kind, key)

        async def write(session: AsyncClientSession) -> dict[str, Any]:
            owner = await self._store.present_owner(owner_id, session)
            known = await self._rows.find_one({"kind": kind, "key": key, "owner_id": owner}, session=session)
            if known is not None:
                return known
            # Two requests of one person meet on this document, so the limit is counted by one after the other; so does joining residents.
            await self._heads.update_one({"_id": owner}, {"$inc": {"subscribed": 1}}, upsert=True, session=session)
            if await self._rows.count_documents({"owner_id": owner}, session=session, limit=MOST) >= MOST:
                raise TooManySubscriptions(f"最多订阅 {MOST} 项，请先取消不需要的。", en=f"At most {MOST} subscriptions; cancel one first.")
            row = {"_id": new_id("sub"), "owner_id": owner, "kind": kind, "key": key, "name": name, "since": self._clock()}
            await self._rows.insert_one(row, session=session)
            return row

        return self.view(await self._again(write))

    async def get(self, owner_id: str, kind: str, key: str) -> dict[str, Any]:
        """Return one subscription. Raises NothingToFollow: the person does not follow this."""
        owner = await self._store.present_owner(owner_id)
        row = await self._rows.find_one({"kind": kind, "key": self._canonical(kind, key), "owner_id": owner})
        if row is None:
            raise NothingToFollow("没有订阅这一项。", en="You have not subscribed to this.")
        return self.view(row)

    async def drop(self, owner_id: str, kind: str, key: str) -> None:
        """Follow something no more; harmless when it was not followed."""
        owner = await self._store.present_owner(owner_id)
        await self._rows.delete_one({"kind": kind, "key": self._canonical(kind, key), "owner_id": owner})

    async def of(self, owner_id: str) -> list[dict[str, Any]]:
        """Return all that a person follows, the newest first."""
        owner = await self._store.present_owner(owner_id)
        rows = await self._rows.find({"owner_id": owner}).sort("_id", -1).limit(4 * MOST).to_list()
        return [self.view(row) for row in rows]

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Give the subscriptions of a joined resident to the one that stays; what both follow is kept once. Harmless when repeated."""

        async def move(session: AsyncClientSession) -> None:
            rows = await self._rows.find({"owner_id": from_id}, session=session).to_list()
            if not rows:
                return
            await self._heads.update_one({"_id": into_id}, {"$inc": {"subscribed": 1}}, upsert=True, session=session)
            for row in rows:
                same = {"kind": row["kind"], "key": row["key"], "owner_id": into_id}
                if await self._rows.find_one(same, {"_id": 1}, session=session):
                    await self._rows.delete_one({"_id": row["_id"]}, session=session)
                else:
                    await self._rows.update_one({"_id": row["_id"]}, {"$set": {"owner_id": into_id}}, session=session)
            if self.when_moved is not None:
                await self.when_moved(into_id, rows, session)

        await self._again(move)

    def resolve(self, kind: str, key: str) -> tuple[str, str]:
        """Return the key under which this is followed, and its name for people. Raises NothingToFollow."""
        snapshot = self._catalogue.snapshot
        if kind == ITEM and (item := snapshot.by_name.get(key)) is not None:
            return item["alias"], item["name"]
        if kind == THEME and any(theme["name"] == key for theme in snapshot.themes):
            return key, f"“{key}”类事项"
        if kind == NOTICE and (division := snapshot.divisions.get(key)) is not None:
            return key, f"{division['name']}的通知"
        raise NothingToFollow("没有这个事项、主题或地区，不能订阅。", en="There is no such item, theme or place.")

    def view(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a subscription as the API shows it. `link` is None for what the catalogue no longer has."""
        link = None
        if row["kind"] == ITEM and row["key"] in self._catalogue.snapshot.by_alias:
            link = f"/items/{row['key']}"
        elif row["kind"] == THEME:
            link = f"/items?theme={row['key']}"
        elif row["kind"] == NOTICE:
            link = "/"
        return {"kind": row["kind"], "key": row["key"], "name": row["name"], "since": format_utc(row["since"]), "link": link}

    def _canonical(self, kind: str, key: str) -> str:
        item = self._catalogue.snapshot.by_name.get(key) if kind == ITEM else None
        return str(item["alias"]) if item is not None else key

    async def _again(self, write: Callable[[AsyncClientSession], Any]) -> Any:
        # Two at once on the same new document: the loser of the unique index runs again and finds the winner's.
        for last in (False, False, True):
            try:
                return await self._database.transaction(write)
            except DuplicateKeyError:
                if last:
                    raise
        return None
