"""Counting a campaign as things happen: what has ended or was opened and is not counted yet is found in an index of just those.

Guarantee: each ending and each opening is counted once, whatever dies when. That it is counted is noted with it, in the transaction that adds
it up. A delivery that a vendor lost after it was counted as sent is counted anew when it ends again, and the old count is taken back.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession

from app.storage.mongo import Database

_AT_ONCE = 1000
_ROUNDS = 4  # then the walk goes on; what is left is counted in the next round


class Counting:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._tallies = database["campaign_tallies"]

    async def run(self) -> None:
        """Count what has ended and what was opened since the last time. Several workers may do so at once."""
        for collection, is_over in (("deliveries", {"is_open": False}), ("messages", {"unread": False})):
            for _ in range(_ROUNDS):
                query = {"is_counted": False, **is_over}
                rows = await self._database[collection].find(query, {"_id": 1}).limit(_AT_ONCE).to_list()
                if rows:
                    await self._database.transaction(lambda session, name=collection, found=rows: self._count(name, found, session))
                if len(rows) < _AT_ONCE:
                    break

    async def _count(self, collection: str, rows: Sequence[Mapping[str, Any]], session: AsyncClientSession) -> None:
        # Read again inside: another worker may have counted some of them meanwhile.
        ids = [row["_id"] for row in rows]
        now = self._database[collection].find(
            {"_id": {"$in": ids}, "is_counted": False, ("is_open" if collection == "deliveries" else "unread"): False},
            {"event_id": 1, "state": 1, "counted_as": 1, "attempts": {"$slice": 1}, "stopped_at": 1},
            session=session,
        )
        sums: dict[str, Counter[str]] = {}
        of_state: dict[str, list[str]] = {}
        async for row in now:
            ended = _ended(row) if collection == "deliveries" else "opened"
            added = sums.setdefault(row["event_id"], Counter())
            added[ended] += 1
            if row.get("counted_as"):
                added[row["counted_as"]] -= 1
            of_state.setdefault(ended, []).append(row["_id"])
        for ended, of_it in of_state.items():
            noted = {"is_counted": True, "counted_as": ended}
            await self._database[collection].update_many({"_id": {"$in": of_it}}, {"$set": noted}, session=session)
        for event_id, added in sums.items():
            await self._tallies.update_one({"_id": event_id}, {"$inc": dict(added)}, upsert=True, session=session)

    async def is_open(self, campaign_id: str) -> bool:
        """Say whether a delivery of a campaign has not ended, or has and is not counted."""
        query = {"is_counted": False, "is_open": {"$in": [True, False]}, "event_id": campaign_id}
        return await self._database["deliveries"].find_one(query, {"_id": 1}) is not None

    async def of(self, campaign_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Return the counts by campaign; `{}` where nothing was counted yet."""
        found = {row["_id"]: row async for row in self._tallies.find({"_id": {"$in": list(campaign_ids)}})}
        return {each: found.get(each, {}) for each in campaign_ids}


def _ended(row: Mapping[str, Any]) -> str:
    """Return as what a final delivery counts: what was tried and reached no phone is `failed`, though the inbox has it."""
    return "failed" if row["state"] == "inbox" and row.get("attempts") and "stopped_at" not in row else str(row["state"])
