"""Reconciliations and findings in MongoDB.

`reconciliations`: one document per provider and day, with how far it has come. One process works on it at a time (a lease that each step
renews); whoever takes over goes on from the last step. `findings`: one document per difference, its `_id` made of provider, day, kind and
number, so that a step done twice finds nothing twice.
"""

import os
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from app.kernel.ids import new_id
from app.storage.mongo import Database
from payments.bill import BillKind
from payments.reconcile.matching import Finding, FindingState, Ours

INDEXES: dict[str, list[IndexModel]] = {
    "orders": [
        # The days of what was paid and given back; both bounds of a range need the same element (see _BY_DAY).
        IndexModel([("attempts.paid_at", ASCENDING)], name="of_paid_day"),
        IndexModel(
            [("refunds.sent_at", ASCENDING)], name="of_refund_day", partialFilterExpression={"refunds.id": {"$type": "string"}}
        ),
    ],
    "findings": [
        IndexModel([("provider", ASCENDING), ("day", ASCENDING), ("state", ASCENDING)], name="of_day"),
        IndexModel([("agency_id", ASCENDING), ("state", ASCENDING), ("key", DESCENDING)], name="of_agency"),
        IndexModel([("key", ASCENDING)], name="key", unique=True),
    ],
    "reconciliations": [IndexModel([("day", DESCENDING)], name="by_day")],
}

LEASE = timedelta(minutes=1)
SENT_BEFORE = timedelta(days=30)  # a refund can take weeks between its application and the day it moves

# No more than matching needs: reading these is most of the work of a large day.
_ATTEMPT_PARTS = {f"attempts.{name}": 1 for name in ("id", "provider", "state", "amount_fen", "paid_at", "received_fen", "suspended_fen")}
_REFUND_PARTS = {
    f"refunds.{name}": 1
    for name in ("id", "provider", "state", "amount_fen", "agency_id", "attempt_id", "sent_at", "refunded_at")
}


class Busy(Exception):
    """Another process is at this provider and day."""


@dataclass
class Progress:
    """How far a reconciliation has come; all of it is written together after each step.

    Attributes:
        stage: fetch, theirs, ours, done.
        position: of the last number of the bill that was compared. window: how many windows of the day were compared.
        generation: how often the day was begun anew (`again`, or a bill that was made anew); findings keep in which they were last seen.
    """

    stage: str = "fetch"
    position: list[str] = field(default_factory=list)
    window: int = 0
    matched: int = 0
    theirs: dict[str, int] = field(default_factory=dict)
    ours: dict[str, int] = field(default_factory=lambda: {"payments": 0, "payments_fen": 0, "refunds": 0, "refunds_fen": 0})
    asked: int = 0
    generation: int = 0

    def to_document(self) -> dict[str, Any]:
        return dict(self.__dict__)


class ReconcileStore:
    def __init__(self, database: Database) -> None:
        self.database = database
        self._runs = database["reconciliations"]
        self._findings = database["findings"]
        self._orders = database["orders"]

    # --- reconciliations ---

    async def load(self, provider: str, day: date) -> dict[str, Any] | None:
        return await self._runs.find_one({"_id": f"{provider}:{day}"})

    async def claim(self, provider: str, day: date, holder: str, now: datetime, *, again: bool = False) -> dict[str, Any]:
        """Take a provider and day for the length of a lease and return its document.

        Args:
            again: also when it is done; then it begins anew.

        Raises:
            Busy: somebody else holds it.
        """
        run_id = f"{provider}:{day}"
        free: list[dict[str, Any]] = [{"lease_until": None}, {"lease_until": {"$lte": now}}, {"holder": holder}]
        known = await self.load(provider, day)
        anew = Progress(generation=((known or {}).get("progress") or {}).get("generation", 0) + 1 if known else 0)
        if known is not None and _is_dead(known.get("holder", "")):
            free.append({"holder": known["holder"]})
        try:
            return await self._runs.find_one_and_update(
                {"_id": run_id, "$or": free},
                {
                    "$set": {"holder": holder, "lease_until": now + LEASE, **({"progress": anew.to_document()} if again else {})},
                    "$setOnInsert": {"provider": provider, "day": day.isoformat(), "state": "waiting", "started_at": now, "tries": 0}
                    | ({} if again else {"progress": Progress().to_document()}),
                },
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError as error:
            raise Busy(run_id) from error

    async def save(self, run_id: str, holder: str, progress: Progress, now: datetime, **changes: Any) -> None:
        """Write how far it is and renew the lease. Raises Busy: somebody else has taken over meanwhile."""
        result = await self._runs.update_one(
            {"_id": run_id, "holder": holder},
            {"$set": {"progress": progress.to_document(), "lease_until": now + LEASE, **changes}},
        )
        if result.matched_count == 0:
            raise Busy(run_id)

    async def release(self, run_id: str, holder: str, **changes: Any) -> None:
        """End the lease."""
        await self._runs.update_one(
            {"_id": run_id, "holder": holder}, {"$set": {"lease_until": None, **changes}, "$inc": {"tries": 1}}
        )

    async def first_day(self) -> date | None:
        """Return the first day there is a reconciliation of, None when there is none yet."""
        row = await self._runs.find_one({}, {"day": 1}, sort=[("day", ASCENDING)])
        return None if row is None else date.fromisoformat(row["day"])

    # --- our side ---

    async def payments(self, numbers: Sequence[str]) -> dict[str, Ours]:
        """Return our records of these attempts."""
        rows = self._orders.find({"attempts.id": {"$in": list(numbers)}}, _ATTEMPT_PARTS, batch_size=len(numbers) + 1)
        wanted = set(numbers)
        return {ours.number: ours async for row in rows for ours in _attempts(row) if ours.number in wanted}

    async def refunds(self, numbers: Sequence[str]) -> dict[str, Ours]:
        """Return our records of these refunds."""
        rows = self._orders.find({"refunds.id": {"$in": list(numbers)}}, _REFUND_PARTS, batch_size=len(numbers) + 1)
        wanted = set(numbers)
        return {ours.number: ours async for row in rows for ours in _refunds(row) if ours.number in wanted}

    async def moved(self, provider: str, begin: datetime, end: datetime) -> AsyncIterator[tuple[Ours, str]]:
        """Yield what we booked as paid or given back at a provider between two moments: (record, number of the payment)."""
        # $elemMatch: without it an index over an array uses only one bound of the range.
        window = {"$gte": begin, "$lt": end}
        async for row in self._orders.find({"attempts": {"$elemMatch": {"paid_at": window}}}, _ATTEMPT_PARTS, batch_size=1000):
            for ours in _attempts(row):
                if ours.provider == provider and ours.is_booked and ours.moved_at and begin <= ours.moved_at < end:
                    yield ours, ours.number
        refunded = {"refunds.id": {"$type": "string"}, "refunds": {"$elemMatch": {"sent_at": window}}}
        async for row in self._orders.find(refunded, _REFUND_PARTS, batch_size=1000):
            for ours, refund in zip(_refunds(row), row.get("refunds", ()), strict=True):
                sent_at = refund.get("sent_at")
                if ours.provider == provider and ours.is_booked and sent_at and begin <= sent_at < end:
                    yield ours, refund["attempt_id"]

    async def own_refunds(self, provider: str, begin: datetime, end: datetime) -> dict[tuple[str, int], list[tuple[datetime, str]]]:
        """Return our refunds that may stand in the bill between two moments: (attempt, fen) -> (when it moved, number)."""
        window = {"$gte": begin - SENT_BEFORE, "$lt": end}
        query = {"refunds.id": {"$type": "string"}, "refunds": {"$elemMatch": {"sent_at": window}}}
        found: dict[tuple[str, int], list[tuple[datetime, str]]] = {}
        async for row in self._orders.find(query, _REFUND_PARTS, batch_size=1000):
            for refund in row.get("refunds", ()):
                moved_at = refund.get("refunded_at") or refund.get("sent_at")
                if refund["provider"] == provider and moved_at is not None:
                    found.setdefault((refund["attempt_id"], refund["amount_fen"]), []).append((moved_at, refund["id"]))
        return found

    async def agency_of(self, order_id: str) -> str:
        """Return whose money an order is about, "" when there is no such order."""
        row = await self._orders.find_one({"_id": order_id}, {"payables.agency_id": 1})
        return str(row["payables"][0]["agency_id"]) if row and row.get("payables") else ""

    async def owner_of(self, order_id: str) -> str:
        """Return whose order it is, "" when there is no such order."""
        row = await self._orders.find_one({"_id": order_id}, {"owner_id": 1})
        return str(row["owner_id"]) if row else ""

    # --- findings ---

    async def add(self, finding: Finding, state: FindingState, now: datetime, **more: Any) -> bool:
        """Write a finding unless it is there; say whether it is new."""
        # `key` is for people and addresses: `_id` holds whatever another system uses as a number.
        document = finding.to_document() | {"key": new_id("fnd"), "state": str(state), "found_at": now, **more}
        result = await self._findings.update_one({"_id": finding.id}, {"$setOnInsert": document}, upsert=True)
        return result.upserted_id is not None

    async def finding(self, finding_id: str) -> dict[str, Any] | None:
        return await self._findings.find_one({"_id": finding_id})

    async def change(
        self, row: Mapping[str, Any], sources: Iterable[FindingState], state: FindingState, **more: Any
    ) -> bool:
        """Move a finding, as it was read, from one of these states; say whether it moved. One that was revised since does not."""
        result = await self._findings.update_one(
            {"_id": row["_id"], "revision": row.get("revision"), "state": {"$in": [str(source) for source in sources]}},
            {"$set": {"state": str(state), **more}},
        )
        return result.matched_count == 1

    async def saw(self, finding_id: str, generation: int) -> None:
        """Note that the present run of its day has found it as well."""
        await self._findings.update_one({"_id": finding_id}, {"$set": {"seen_in": generation}})

    async def revise(self, row: Mapping[str, Any], finding: Finding) -> dict[str, Any] | None:
        """Let a finding be what the corrected bill makes of it, waiting to be looked at; None when somebody else was faster.

        What was in suspense for it must be taken out before.
        """
        gone = ("how", "said", "settled_at", "settled_by")
        return await self._findings.find_one_and_update(
            {"_id": row["_id"], "revision": row.get("revision"), "state": row["state"]},
            {
                "$set": finding.to_document() | {"state": str(FindingState.WAITING), "revision": row.get("revision", 0) + 1},
                "$unset": dict.fromkeys(gone, ""),
            },
            return_document=ReturnDocument.AFTER,
        )

    async def of_day(self, provider: str, day: date, *states: FindingState) -> AsyncIterator[dict[str, Any]]:
        """Yield the findings of a day, by their ids."""
        query: dict[str, Any] = {"provider": provider, "day": day.isoformat()}
        if states:
            query["state"] = {"$in": [str(state) for state in states]}
        async for row in self._findings.find(query).sort("_id", ASCENDING):
            yield row

    async def unsettled(self, provider: str, since: date, until: date, limit: int) -> list[dict[str, Any]]:
        """Return the findings from `since` up to `until` (not included) that are not settled."""
        query = {
            "provider": provider,
            "day": {"$gte": since.isoformat(), "$lt": until.isoformat()},
            "state": {"$in": [str(FindingState.WAITING), str(FindingState.OPEN)]},
        }
        return await self._findings.find(query).sort("_id", ASCENDING).limit(limit).to_list()

    async def counts(self, provider: str, day: date) -> dict[str, int]:
        """Return how many findings a day has: by state, and by kind."""
        match = {"provider": provider, "day": day.isoformat()}
        total: dict[str, int] = {}
        group = {"$group": {"_id": {"state": "$state", "kind": "$kind"}, "count": {"$sum": 1}}}
        async for row in await self._findings.aggregate([{"$match": match}, group]):
            for name in (row["_id"]["state"], row["_id"]["kind"]):
                total[name] = total.get(name, 0) + row["count"]
        return total

    async def page(self, agency_id: str, state: str, *, before: str, limit: int) -> list[dict[str, Any]]:
        """Return findings of an agency in a state that were found before the one with the key `before`, newest first."""
        query: dict[str, Any] = {"agency_id": agency_id, "state": state}
        if before:
            query["key"] = {"$lt": before}
        return await self._findings.find(query).sort("key", DESCENDING).limit(limit).to_list()

    async def finding_of_key(self, key: str) -> dict[str, Any] | None:
        return await self._findings.find_one({"key": key})


def _is_dead(holder: str) -> bool:
    """Say whether a holder (`host:pid:token`) was a process of this machine that is gone: then nobody has to wait for its lease."""
    host, _, rest = holder.rpartition(":")[0].rpartition(":")
    if host != socket.gethostname() or not rest.isdigit():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _attempts(row: dict[str, Any]) -> Iterable[Ours]:
    order_id = row["_id"]
    return [
        Ours(
            attempt["id"],
            attempt["provider"],
            BillKind.PAYMENT,
            order_id,
            "",  # looked up when it matters, see agency_of
            attempt["amount_fen"] if attempt.get("received_fen") is None else attempt["received_fen"],
            attempt["state"],
            attempt.get("paid_at"),
            attempt.get("suspended_fen", 0) if attempt["state"] == "held" else 0,
        )
        for attempt in row["attempts"]
    ]


def _refunds(row: dict[str, Any]) -> Iterable[Ours]:
    return [
        Ours(
            refund["id"],
            refund["provider"],
            BillKind.REFUND,
            row["_id"],
            refund["agency_id"],
            refund["amount_fen"],
            refund["state"],
            refund.get("refunded_at") or refund.get("sent_at"),
        )
        for refund in row.get("refunds", ())
    ]
