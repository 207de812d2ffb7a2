"""What an operator must see that no single call shows: how old the oldest unclear outcome is, and refunds that take too long."""

from datetime import datetime, timedelta

from pymongo import ASCENDING

from app.storage.mongo import Database
from payments import metrics
from payments.model import AttemptState
from payments.refund import OVERDUE_AFTER, RefundState

EVERY = timedelta(seconds=30)


class Watching:
    def __init__(self, database: Database) -> None:
        self._orders = database["orders"]
        self._watched_at: datetime | None = None

    async def look(self, now: datetime) -> None:
        """Set the gauges, at most every 30 s; reads only what is under way, by the indexes of the sweeps."""
        if self._watched_at is not None and abs(now - self._watched_at) < EVERY:
            return
        self._watched_at = now
        metrics.oldest_unknown.set(await self._oldest_unknown_s(now))
        late = {
            "refund_due_at": {"$type": "date"},
            "refunds": {
                "$elemMatch": {
                    "state": {"$in": [RefundState.SENDING, RefundState.PROCESSING, RefundState.ABNORMAL]},
                    "sent_at": {"$lte": now - OVERDUE_AFTER},
                }
            },
        }
        metrics.refunds_overdue.set(await self._orders.count_documents(late))

    async def _oldest_unknown_s(self, now: datetime) -> float:
        """Return the age of the oldest call to a provider of which nobody knows what came of it, in seconds; 0 when there is none."""
        began: list[datetime] = []
        attempt = await self._orders.find_one(
            {"next_ask_at": {"$type": "date"}, "attempts.state": AttemptState.UNKNOWN}, sort=[("created_at", ASCENDING)]
        )
        if attempt is not None:
            began += [row["created_at"] for row in attempt["attempts"] if row["state"] == AttemptState.UNKNOWN]
        refund = await self._orders.find_one(
            {"refund_due_at": {"$type": "date"}, "refunds.state": RefundState.SENDING}, sort=[("refunds.sent_at", ASCENDING)]
        )
        if refund is not None:
            began += [row["sent_at"] for row in refund["refunds"] if row["state"] == RefundState.SENDING]
        return max(0.0, (now - min(began)).total_seconds()) if began else 0.0
