"""What no worker asks a channel for until a moment: the quota of a day that is used up, a template that the vendor refuses again and again.

Kept in MongoDB (`push_pauses`), so all workers keep to it and a restart forgets nothing. Each process looks at it every few seconds and
knows its own notes at once: another worker may ask a few times more in between, which the vendor refuses as it did before.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from pymongo import ReturnDocument

from app.storage.mongo import Database

log = structlog.get_logger(__name__)

_LOOK_S = 3.0


class Pauses:
    """One per process. A key is a channel, or a channel and what of it: `wechat`, `wechat:<template>`."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._pauses = database["push_pauses"]
        self._clock = clock
        self._known: dict[str, dict[str, Any]] = {}
        self._looked_at = -_LOOK_S  # a monotonic second
        self._looking = asyncio.Lock()

    async def until(self, key: str, now: datetime) -> datetime | None:
        """Return until when this pauses, or None when it does not at `now`."""
        await self._look()
        until: datetime | None = self._known.get(key, {}).get("until")
        return until if until is not None and until > now else None

    async def pause(self, key: str, until: datetime, code: str) -> None:
        """Pause until a moment; `code` is the vendor's, for whoever reads the collection."""
        await self._write(key, {"$set": {"until": until, "code": code, "at": self._clock()}, "$unset": {"wrong": ""}})
        log.warning("push.paused", key=key, until=until.isoformat(), code=code)

    async def count_wrong(self, key: str, code: str, *, most: int, until: datetime) -> None:
        """Count a refusal; the last of `most` without a success in between pauses until a moment."""
        row = await self._write(key, {"$inc": {"wrong": 1}, "$set": {"code": code, "at": self._clock()}})
        if row["wrong"] >= most:
            await self.pause(key, until, code)

    async def note_right(self, key: str) -> None:
        """Note a success: refusals before it do not count any more. Costs nothing where there were none."""
        if self._known.get(key, {}).get("wrong"):
            await self._write(key, {"$unset": {"wrong": ""}})

    async def _write(self, key: str, update: dict[str, Any]) -> dict[str, Any]:
        row = await self._pauses.find_one_and_update({"_id": key}, update, upsert=True, return_document=ReturnDocument.AFTER)
        self._known[key] = row
        return row

    async def _look(self) -> None:
        if time.monotonic() - self._looked_at < _LOOK_S:
            return
        async with self._looking:
            if time.monotonic() - self._looked_at < _LOOK_S:
                return
            began = time.monotonic()
            self._known = {row["_id"]: row for row in await self._pauses.find({}).to_list()}
            self._looked_at = began
