"""The catalogue of this process: the snapshot of what is published now, exchanged when something else is published."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from pymongo.errors import PyMongoError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.catalogue.errors import CatalogueNotLoaded, item_not_found
from app.catalogue.publish import CHANNEL, published_now, read_item, read_version
from app.catalogue.snapshot import Snapshot
from app.kernel.clock import today
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

_KEPT_OLD_ITEMS = 1000


class LiveCatalogue:
    """What handlers and services hold. Reads are from memory; only an item's old version is read from MongoDB."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._snapshot: Snapshot | None = None
        self._old_items: OrderedDict[tuple[str, int], Mapping[str, Any]] = OrderedDict()
        self._loading = asyncio.Lock()
        self._notices: dict[str, tuple[str, str]] | None = None  # id -> title and body, of those that showed at the last look
        # Called with each notice that begins to show while this process runs, or whose text is new; as in GET /v1/notices.
        self.on_notice: Callable[[dict[str, Any]], None] | None = None

    @property
    def is_loaded(self) -> bool:
        return self._snapshot is not None

    @property
    def snapshot(self) -> Snapshot:
        """Return the published catalogue. Raises CatalogueNotLoaded before the first load."""
        if self._snapshot is None:
            raise CatalogueNotLoaded("系统正在准备，请稍后再试。", retry_after_s=3, en="The catalogue is not loaded yet.")
        return self._snapshot

    async def load(self) -> bool:
        """Take what MongoDB says is published; return whether that was news. Readers keep the old one until the new one is whole."""
        async with self._loading:
            published = await published_now(self._database)
            if published is None or (self._snapshot and self._snapshot.version_id == published.version_id):
                return False
            catalogue = await read_version(self._database, published.version_id)
            if catalogue is None:
                return False
            # Building takes some hundred milliseconds of CPU: not on the loop.
            self._snapshot = await asyncio.to_thread(
                Snapshot, catalogue, version_id=published.version_id, number=published.number
            )
            log.info("catalogue.loaded", number=published.number, items=len(self._snapshot.items))
            return True

    async def run(self, stop: asyncio.Event, redis: Redis | None = None, *, every_s: float = 30.0) -> None:
        """Follow publications until `stop` is set: told through Redis at once, and checked against MongoDB every `every_s`."""
        self._look_at_notices()
        told = asyncio.Event()
        listener = asyncio.create_task(_listen(redis, told, stop)) if redis is not None else None
        try:
            while not stop.is_set():
                waits = [asyncio.ensure_future(event.wait()) for event in (stop, told)]
                await asyncio.wait(waits, timeout=every_s, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
                told.clear()
                if stop.is_set():
                    return
                try:
                    await self.load()
                    self._look_at_notices()
                except PyMongoError as error:
                    log.warning("catalogue.database_away", error=type(error).__name__)
                except Exception as error:
                    # A version this process cannot read (published by newer code) must not take away the one it serves.
                    log.error("catalogue.unreadable", exc_info=error)
        finally:
            if listener is not None:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)

    def _look_at_notices(self) -> None:
        """Tell of notices that show now and did not at the last look: published since, or their first day has come."""
        if self._snapshot is None:
            return
        before, rows = self._notices, self._snapshot.notices(today())
        self._notices = {row["id"]: (row["title"], row["body"]) for row in rows}
        if before is None or self.on_notice is None:  # at the first look all are old: whoever connects reads them
            return
        for row in reversed(rows):  # the oldest first
            if before.get(row["id"]) != self._notices[row["id"]]:
                self.on_notice(row)

    # --- rows, for our own code ---

    def item(self, code: str) -> Mapping[str, Any]:
        """Return a published item by code or alias. Raises ItemNotFound."""
        return self.snapshot.item(code)

    async def item_at(self, code: str, version: int) -> Mapping[str, Any]:
        """Return an item as it was published under a version, also when it is withdrawn by now. Raises ItemNotFound."""
        current = self.snapshot.by_name.get(code)
        if current is not None and current["version"] == version:
            return current
        key = (code, version)
        if key not in self._old_items:
            item = await read_item(self._database, code, version)
            if item is None:
                raise item_not_found()
            self._old_items[key] = item
            if len(self._old_items) > _KEPT_OLD_ITEMS:
                self._old_items.popitem(last=False)
        return self._old_items[key]

    def agency(self, agency_id: str) -> Mapping[str, Any]:
        """Return an agency. Raises NotFound."""
        return self.snapshot.agency(agency_id)

    def handling_agency(self, item: Mapping[str, Any], division_code: str) -> Mapping[str, Any]:
        """Return who handles an item applied for in a division."""
        return self.snapshot.handling_agency(item, division_code)

    def division(self, code: str) -> Mapping[str, Any] | None:
        """Return a division that receives cases, or None."""
        return self.snapshot.division(code)

    def choosable_divisions(self) -> list[Mapping[str, Any]]:
        return self.snapshot.choosable_divisions()

    @property
    def division_codes(self) -> frozenset[str]:
        return self.snapshot.division_codes


async def _listen(redis: Redis, told: asyncio.Event, stop: asyncio.Event) -> None:
    """Set `told` on each message of the channel. Redis away is only slower: the check against MongoDB goes on."""
    while not stop.is_set():
        try:
            async with redis.pubsub() as channel:
                await channel.subscribe(CHANNEL)
                told.set()  # whatever was said before we listened
                while not stop.is_set():
                    if await channel.get_message(ignore_subscribe_messages=True, timeout=1.0):
                        told.set()
        except (RedisError, OSError) as error:
            log.info("catalogue.redis_away", error=type(error).__name__)
            await asyncio.sleep(2)
