"""What a worker has in hand: deliveries claimed under a lease, many at once, and changed only while they are still ours.

Whatever the places of a worker want at the same moment is one command: claims of a lane, notes of outcomes. A note that its caller has
an answer to is durable (majority, journaled), however many were written together.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo import ASCENDING, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import ConnectionFailure

from app.storage.claims import claim
from app.storage.gather import Gather
from app.storage.mongo import Database
from push.lanes import CAMPAIGN, ORDINARY, URGENT

log = structlog.get_logger(__name__)

# Longer than a call may take in that lane (`longest_call_s`), so whoever finds it run out knows that the one before is dead. Short for what
# is urgent: what a dead worker had in hand waits for its end.
LEASES: Mapping[str, timedelta] = {URGENT: timedelta(seconds=5), ORDINARY: timedelta(seconds=60), CAMPAIGN: timedelta(seconds=60)}
_MARGIN_S = 1.5  # of a lease: for what stops a worker between two lines, and for clocks that differ
_LINGER_S = 0.004  # so long a note waits for others

Settle = Callable[[AsyncClientSession], Awaitable[None]]


def longest_call_s(lane: str) -> float:
    """Return how long a vendor may be waited for in a lane, in all."""
    return LEASES[lane].total_seconds() - _MARGIN_S


@dataclass(frozen=True)
class _Change:
    """`settle` runs in the transaction that makes the change, and only when it is made."""

    mine: Mapping[str, Any]
    update: Mapping[str, Any]
    settle: Settle | None


class InHand:
    """One per process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._deliveries = database["deliveries"]
        # What is urgent waits for nothing; the others have enough to do meanwhile.
        self._writes: dict[bool, Gather[_Change, bool]] = {
            is_urgent: Gather(self._write_all, in_flight=2, linger_s=0.0 if is_urgent else _LINGER_S) for is_urgent in (True, False)
        }
        self._settling: dict[bool, Gather[_Change, bool | None]] = {
            is_urgent: Gather(self._settle_all, at_most=32, in_flight=2, linger_s=0.0 if is_urgent else _LINGER_S)
            for is_urgent in (True, False)
        }

    async def claim(self, lane: str, now: datetime, most: int) -> list[dict[str, Any]]:
        """Take due deliveries of a lane under a lease. A state `sending` tells that whoever had it before died."""
        return await claim(
            self._deliveries,
            _due(lane, now),
            sort=[("next_at", ASCENDING)],
            most=most,
            changes={"$set": {"next_at": now + LEASES[lane]}},
        )

    async def oldest_due(self, lane: str, now: datetime) -> datetime | None:
        """Return since when the oldest delivery of a lane has been due, or None when none is."""
        due = await self._deliveries.find_one(_due(lane, now), {"next_at": 1}, sort=[("next_at", ASCENDING)])
        return None if due is None else due["next_at"]

    async def change(
        self,
        delivery: Mapping[str, Any],
        changes: Mapping[str, Any],
        attempt: Mapping[str, Any] | None = None,
        *,
        settle: Settle | None = None,
        lets_go: bool = False,
    ) -> bool:
        """Change a delivery that is still ours; False when its lease ran out and another worker has taken it.

        Args:
            settle: what belongs into the same transaction.
            lets_go: give up the claim as well: one that comes later may then tell for it.
        """
        update: dict[str, Any] = {"$set": dict(changes)}
        if attempt is not None:
            update["$push"] = {"attempts": {"$each": [attempt], "$slice": -30}}
        if lets_go:
            update["$unset"] = {"claim": ""}
        mine = {"_id": delivery["_id"], "claim": delivery["claim"], "is_open": True}
        item = _Change(mine, update, settle)
        is_urgent = delivery.get("lane") == URGENT
        if settle is None:
            return await self._writes[is_urgent].add(item)
        made = await self._settling[is_urgent].add(item)
        return (await self._in_one_transaction([item]))[0] if made is None else made

    async def start_sending(self, delivery: Mapping[str, Any], channel: str, now: datetime) -> bool:
        """Note, before the call, that a channel is being called, and renew the lease for it; False: it is not ours any more."""
        lease = LEASES[delivery.get("lane", ORDINARY)]
        return await self.change(delivery, {"state": "sending", "channel": channel, "next_at": now + lease})

    # --- together ---

    async def _write_all(self, changes: list[_Change]) -> list[bool]:
        return await self._write(changes, None)

    async def _settle_all(self, changes: list[_Change]) -> Sequence[bool | None]:
        """Return what `_in_one_transaction` does; None where a change has to go alone."""
        try:
            return await self._in_one_transaction(changes)
        except ConnectionFailure:  # perhaps written, perhaps not: each one's lease tells
            raise
        except Exception as error:  # one of them, and which one shows when each goes alone
            log.warning("delivery.batch_fell_apart", count=len(changes), error=type(error).__name__)
            return [None] * len(changes)

    async def _in_one_transaction(self, changes: list[_Change]) -> list[bool]:
        async def work(session: AsyncClientSession) -> list[bool]:
            made = await self._write(changes, session)
            for change, is_made in zip(changes, made, strict=True):
                if is_made and change.settle is not None:
                    await change.settle(session)
            return made

        return await self._database.transaction(work)

    async def _write(self, changes: Sequence[_Change], session: AsyncClientSession | None) -> list[bool]:
        found: set[tuple[str, str]] | None = None
        if session is not None:  # which of them are ours has to be known before a final state takes that away
            found = await self._still_ours(changes, session)
            changes_made = [change for change in changes if _key(change) in found]
        else:
            changes_made = list(changes)
        if not changes_made:
            return [False] * len(changes)
        result = await self._deliveries.bulk_write(
            [UpdateOne(change.mine, change.update) for change in changes_made], ordered=False, session=session
        )
        if found is None and result.matched_count == len(changes):
            return [True] * len(changes)
        if found is None:
            # The word of a claim is in one delivery, and stays when it ends: who has it was changed by this.
            found = await self._still_ours(changes, None)
        return [_key(change) in found for change in changes]

    async def _still_ours(self, changes: Sequence[_Change], session: AsyncClientSession | None) -> set[tuple[str, str]]:
        wanted = {"_id": {"$in": [change.mine["_id"] for change in changes]}}
        rows = await self._deliveries.find(wanted, {"claim": 1, "is_open": 1}, session=session).to_list()
        return {(row["_id"], row.get("claim", "")) for row in rows if session is None or row["is_open"]}


def _key(change: _Change) -> tuple[str, str]:
    return change.mine["_id"], change.mine["claim"]


def _due(lane: str, now: datetime) -> dict[str, Any]:
    # What was written before there were lanes is ordinary.
    lanes: Any = {"$in": [ORDINARY, None]} if lane == ORDINARY else lane
    return {"is_open": True, "lane": lanes, "next_at": {"$lte": now}}
