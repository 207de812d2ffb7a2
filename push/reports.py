"""What vendors report of messages they took: each report is kept until it is applied, and the first one of a message counts.

Guarantee: when `take` has returned, the report has had its effect or is stored. One that comes before our own note of the send (the answer
was slower than the report, or the worker died in between and the send is made again) waits in `delivery_reports` until that note is there.
The first report of a message counts, whatever comes after it, repeated or contradicting.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import structlog
from prometheus_client import Counter
from pymongo import ASCENDING, IndexModel

from app.storage.mongo import Database
from push.deliveries import Deliveries

log = structlog.get_logger(__name__)

# Longer than a delivery is tried (72 hours): its note may come as late as that.
KEPT = timedelta(days=5)
_FIRST_WAIT = timedelta(seconds=2)
_LONGEST_WAIT = timedelta(hours=1)
_AT_ONCE = 500
_SIDE_BY_SIDE = 16

INDEXES = {
    "delivery_reports": [
        IndexModel([("at", ASCENDING)], name="expires", expireAfterSeconds=int(KEPT.total_seconds())),
        IndexModel([("next_at", ASCENDING)], name="waiting", partialFilterExpression={"is_waiting": True}),
    ]
}

reports = Counter("hall_push_reports", "Reports of vendors on messages they took", ["channel", "fate", "outcome"])


def is_success(fate: str) -> bool:
    """Say whether a fate in the words of `Deliveries.report` means that the message arrived."""
    return fate.partition(":")[0].strip() == "success"


class Reports:
    def __init__(self, database: Database, deliveries: Deliveries, clock: Callable[[], datetime]) -> None:
        self._reports = database["delivery_reports"]
        self._deliveries = deliveries
        self._clock = clock

    async def take(self, channel: str, vendor_id: str, fate: str) -> None:
        """Apply a report now, or keep it until the send it speaks of is noted.

        Args:
            vendor_id: as `send` of the channel returned it.
            fate: `success`, or why the person did not get it (no personal data).
        """
        now, key = self._clock(), f"{channel}:{vendor_id}"
        word = "success" if is_success(fate) else "lost"
        if await self._reports.find_one({"_id": key}, {"_id": 1}) is not None:
            reports.labels(channel, word, "repeated").inc()
            return
        applied = await self._deliveries.report(vendor_id, fate, now, channel=channel)
        if applied and word == "success":  # the delivery itself remembers it
            reports.labels(channel, word, "applied").inc()
            return
        # A loss takes the vendor's id from the delivery, so here is where its repetition is known by.
        row = {"fate": fate[:80], "at": now, "is_waiting": not applied, "next_at": now + _FIRST_WAIT}
        await self._reports.update_one({"_id": key}, {"$setOnInsert": row}, upsert=True)
        reports.labels(channel, word, "applied" if applied else "early").inc()

    async def take_all(self, channel: str, told: Iterable[tuple[str, str]]) -> None:
        """Take many reports, each `(vendor_id, fate)`, side by side; of those on one message the first, here as everywhere."""
        waiting = {vendor_id: fate for vendor_id, fate in reversed(list(told))}

        async def place() -> None:
            while waiting:
                await self.take(channel, *waiting.popitem())

        await asyncio.gather(*(place() for _ in range(min(_SIDE_BY_SIDE, len(waiting)))))

    async def sweep(self) -> int:
        """Apply what waited for its send to be noted; called by the worker every few seconds. Returns how many were applied.

        Several workers may do it at once: applying is idempotent.
        """
        now, applied = self._clock(), 0
        due: list[dict[str, Any]] = (
            await self._reports.find({"is_waiting": True, "next_at": {"$lte": now}}).sort("next_at", 1).limit(_AT_ONCE).to_list()
        )
        for row in due:
            channel, _, vendor_id = row["_id"].partition(":")
            if await self._deliveries.report(vendor_id, row["fate"], now, channel=channel):
                changes: dict[str, Any] = {"is_waiting": False}
                applied += 1
            else:  # twice the age each time: a report of a message that is not ours costs little until it expires
                changes = {"next_at": now + min(max(now - row["at"], _FIRST_WAIT), _LONGEST_WAIT)}
            await self._reports.update_one({"_id": row["_id"]}, {"$set": changes})
        if applied:
            log.info("reports.early_applied", count=applied)
        return applied
