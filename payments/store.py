"""Orders in MongoDB: every change is one transaction of compare-and-set, locks, receipt, ledger entries and events."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.kernel.audit import record
from app.kernel.errors import Conflict
from app.kernel.events import Event
from app.storage import outbox
from app.storage.mongo import Database
from payments import receipt_numbers
from payments.ledger import store as ledger
from payments.ledger.entries import Entry
from payments.model import Order

log = structlog.get_logger(__name__)

INDEXES: dict[str, list[IndexModel]] = {
    "orders": [
        IndexModel([("owner_id", ASCENDING), ("_id", DESCENDING)], name="of_owner"),
        IndexModel([("attempts.id", ASCENDING)], name="of_attempt"),
        # Only orders somebody must look at again are in this index, so it stays small.
        IndexModel([("next_ask_at", ASCENDING)], name="due", partialFilterExpression={"next_ask_at": {"$type": "date"}}),
        IndexModel(
            [("refund_due_at", ASCENDING)], name="refund_due", partialFilterExpression={"refund_due_at": {"$type": "date"}}
        ),
        IndexModel([("refunds.id", ASCENDING)], name="of_refund", partialFilterExpression={"refunds.id": {"$type": "string"}}),
        # What staff look at: refunds, and money that does not fit, of their agency; newest first.
        IndexModel(
            [("payables.agency_id", ASCENDING), ("_id", DESCENDING)],
            name="refunds_of_agency",
            partialFilterExpression={"refunds.id": {"$type": "string"}},
        ),
        IndexModel(
            [("payables.agency_id", ASCENDING), ("_id", DESCENDING)],
            name="held_of_agency",
            partialFilterExpression={"attempts.state": "held"},
        ),
        IndexModel(
            [("payables.agency_id", ASCENDING), ("_id", DESCENDING)],
            name="overpaid_of_agency",
            partialFilterExpression={"attempts.is_overpaid": True},
        ),
    ],
    "payable_locks": [IndexModel([("order_id", ASCENDING)], name="of_order")],
    "payment_notifications": [
        IndexModel([("out_trade_no", ASCENDING)], name="of_attempt"),
        IndexModel([("received_at", ASCENDING)], name="not_applied", partialFilterExpression={"state": "stored"}),
    ],
    "receipts": [IndexModel([("order_id", ASCENDING)], name="of_order"), *receipt_numbers.INDEXES],
    "receipt_series": [],  # by _id, the agency's series of a year (receipt_numbers.py)
    **ledger.INDEXES,
}


class OrderChanged(Conflict):
    """Somebody else changed the order first: load it again, then decide again."""

    code = "order.conflict"


class PayableTaken(Exception):
    """Another order holds one of the payables; nothing was written."""


@dataclass(frozen=True)
class Change:
    """What a decision leads to, written in one transaction.

    Attributes:
        take_locks: reserve the payables (create, late settlement). free_locks: give them back (close, refunded in full).
        free_keys: give these alone back.
        receipts: the documents of the receipts issued with it.
        entries: what it means in the ledger.
    """

    order: Order
    events: tuple[Event, ...] = ()
    take_locks: bool = False
    free_locks: bool = False
    free_keys: tuple[str, ...] = ()
    receipts: tuple[Mapping[str, Any], ...] = ()
    entries: tuple[Entry, ...] = ()


class OrderStore:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._orders = database["orders"]
        self._locks = database["payable_locks"]

    # --- reading ---

    async def load(self, order_id: str) -> Order | None:
        return _order(await self._orders.find_one({"_id": order_id}))

    async def load_of_attempt(self, out_trade_no: str) -> Order | None:
        return _order(await self._orders.find_one({"attempts.id": out_trade_no}))

    async def load_of_refund(self, refund_id: str) -> Order | None:
        return _order(await self._orders.find_one({"refunds.id": refund_id}))

    async def record_reading(self, account: str, action: str, subject: str, owner_id: str) -> None:
        """Note in the audit that a member of staff has looked at something of a resident."""
        await record(self._database["audit"], actor=account, action=action, subject=subject, owner_id=owner_id)

    async def page_of_refunds(self, agency_id: str, *, state: str | None, before: str, limit: int) -> list[Order]:
        """Return the newest orders with refunds of an agency that are older than the order `before` (empty: from the newest)."""
        match: dict[str, Any] = {"agency_id": agency_id} | ({"state": state} if state else {})
        query: dict[str, Any] = {
            "payables.agency_id": agency_id,
            "refunds.id": {"$type": "string"},  # named, so that the partial index serves
            "refunds": {"$elemMatch": match},
        }
        return await self._newest(query, before, limit)

    async def page_of_held(self, agency_id: str, *, before: str, limit: int) -> list[Order]:
        """Return the newest orders of an agency with a payment that is held, or was too much, older than `before`."""
        found: dict[str, Order] = {}
        for odd in ({"attempts.state": "held"}, {"attempts.is_overpaid": True}):  # one partial index each
            rows = await self._newest({"payables.agency_id": agency_id, **odd}, before, limit)
            found |= {order.id: order for order in rows}
        return [found[order_id] for order_id in sorted(found, reverse=True)][:limit]

    async def _newest(self, query: dict[str, Any], before: str, limit: int) -> list[Order]:
        if before:
            query = query | {"_id": {"$lt": before}}
        rows = await self._orders.find(query).sort("_id", DESCENDING).limit(limit).to_list()
        return [Order.from_document(row) for row in rows]

    async def page(self, owner_id: str, *, states: Sequence[str], before: str, limit: int) -> list[Order]:
        """Return the newest orders of a resident that are older than the order `before` (empty: from the newest)."""
        query: dict[str, Any] = {"owner_id": owner_id}
        if states:
            query["state"] = {"$in": list(states)}
        return await self._newest(query, before, limit)

    async def holders(self, keys: Sequence[str]) -> dict[str, Order]:
        """Return which orders hold these payables now: payable key -> order."""
        locks = await self._locks.find({"_id": {"$in": list(keys)}}).to_list()
        rows = await self._orders.find({"_id": {"$in": [lock["order_id"] for lock in locks]}}).to_list()
        orders = {row["_id"]: Order.from_document(row) for row in rows}
        return {lock["_id"]: orders[lock["order_id"]] for lock in locks if lock["order_id"] in orders}

    async def receipt(self, number: str) -> dict[str, Any] | None:
        found = await self._database["receipts"].find_one({"number": number}) if number else None
        # Before numbers were without gaps the number was the id.
        return found or await self._database["receipts"].find_one({"_id": number})

    # --- changing ---

    async def create(self, change: Change) -> Order:
        """Write a new order with its locks and events. Raises PayableTaken; OrderChanged when the id exists already."""

        async def work(session: AsyncClientSession) -> Order:
            order = change.order
            await self._take_locks(order, session)
            try:
                await self._orders.insert_one(order.to_document(), session=session)
            except DuplicateKeyError as error:
                raise OrderChanged("订单已经存在。", order_id=order.id) from error
            await outbox.append(self._database, session, change.events)
            return order

        return await self._database.transaction(work)

    async def change(self, order_id: str, decide: Callable[[Order], Change | None]) -> Order:
        """Load an order, let `decide` judge it, and write what it decides; decided anew when somebody else was faster.

        Args:
            decide: pure; None for "nothing to change". Whatever it raises ends the change, with nothing written.

        Raises:
            LookupError: no such order. PayableTaken: a lock that was to be taken is held by another order.
        """

        async def work(session: AsyncClientSession) -> Order:
            order = _order(await self._orders.find_one({"_id": order_id}, session=session))
            if order is None:
                raise LookupError(order_id)
            change = decide(order)
            return order if change is None else (await self._write([change], session))[0]

        return await self._database.transaction(work)

    async def change_together(
        self, out_trade_nos: Sequence[str], decide: Callable[[Mapping[str, Order]], tuple[Sequence[Change], Sequence[str]]]
    ) -> None:
        """Load the orders of many attempts, let `decide` judge them, and write what it decides in one transaction: all of it or nothing.

        Args:
            decide: pure, may run twice. Gets attempt number -> order, without those that are not there or cannot be read. Returns changes,
                of different orders and without locks, and the ids of the stored notices that these changes (or none) have applied.

        Raises:
            OrderChanged: others are changing one of these orders, twice in a row; nothing was written. Each alone is the way on, since
                what holds one of them up (until a dead process's transaction is given up) must not hold up all.
        """
        runs = 0

        async def work(session: AsyncClientSession) -> None:
            nonlocal runs
            runs += 1
            if runs > 2:
                raise OrderChanged("订单刚刚有变化，请刷新后重试。")
            orders: dict[str, Order] = {}
            for row in await self._orders.find({"attempts.id": {"$in": list(out_trade_nos)}}, session=session).to_list():
                try:
                    order = Order.from_document(row)
                except Exception as error:  # whoever loads it alone meets it
                    log.error("order.unreadable", order_id=row["_id"], error=type(error).__name__)
                    continue
                for attempt in order.attempts:
                    orders.setdefault(attempt.id, order)
            changes, notices = decide(orders)
            if changes:
                await self._write(changes, session)
            if notices:
                await self._database["payment_notifications"].update_many(
                    {"_id": {"$in": list(notices)}}, {"$set": {"state": "applied"}}, session=session
                )

        await self._database.transaction(work)

    async def _write(self, changes: Sequence[Change], session: AsyncClientSession) -> list[Order]:
        newer = [replace(change.order, version=change.order.version + 1) for change in changes]
        # $set instead of replacing: asked_at and whatever else is bookkeeping stays. The version sits in the filter, so of two
        # writers one loses, and with_transaction lets it decide again on what the other one wrote.
        result = await self._orders.bulk_write(
            [UpdateOne({"_id": order.id, "version": order.version - 1}, {"$set": _without_id(order)}) for order in newer],
            session=session,
        )
        if result.matched_count != len(newer):
            raise OrderChanged("订单刚刚有变化，请刷新后重试。", order_id=newer[0].id)
        for change in changes:
            if change.take_locks:
                await self._take_locks(change.order, session)
            if change.free_locks:
                await self._locks.delete_many({"order_id": change.order.id}, session=session)
            if change.free_keys:
                await self._locks.delete_many(
                    {"_id": {"$in": list(change.free_keys)}, "order_id": change.order.id}, session=session
                )
        receipts = [dict(row) for change in changes for row in change.receipts]
        if receipts:
            await self._database["receipts"].insert_many(receipts, session=session)
        await ledger.append(self._database, session, [entry for change in changes for entry in change.entries])
        await outbox.append(self._database, session, [event for change in changes for event in change.events])
        return newer

    async def _take_locks(self, order: Order, session: AsyncClientSession) -> None:
        # The unique _id is the lock: of two orders for one payable, in whatever process, one transaction fails.
        rows = [
            {"_id": payable.key, "order_id": order.id, "owner_id": order.owner_id, "at": order.created_at}
            for payable in order.payables
        ]
        try:
            await self._locks.insert_many(rows, session=session)
        except Exception as error:
            if isinstance(error, DuplicateKeyError) or _is_duplicate(error):
                raise PayableTaken from error
            raise

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Give everything of one resident to another (two residents turned out to be one person)."""
        for name in ("orders", "payable_locks", "receipts"):
            await self._database[name].update_many({"owner_id": from_id}, {"$set": {"owner_id": into_id}})

    # --- bookkeeping of questions: no change of state, no version ---

    async def may_ask(self, order_id: str, now: datetime, pause: timedelta) -> bool:
        """Say whether the provider may be asked on a resident's word; yes at most once per `pause`, whoever asks."""
        result = await self._orders.update_one(
            {"_id": order_id, "$or": [{"asked_at": {"$exists": False}}, {"asked_at": {"$lte": now - pause}}]},
            {"$set": {"asked_at": now}},
        )
        return result.modified_count == 1

    async def claim_due(self, now: datetime, lease: timedelta) -> tuple[Order, datetime] | None:
        """Take one order that is due, for the length of `lease`; two workers never take the same one."""
        until = now + lease
        row = await self._orders.find_one_and_update(
            {"next_ask_at": {"$lte": now}},
            {"$set": {"next_ask_at": until}},
            sort=[("next_ask_at", ASCENDING)],
            return_document=ReturnDocument.AFTER,
        )
        return None if row is None else (Order.from_document(row), until)

    async def claim_refund_due(self, now: datetime, lease: timedelta) -> Order | None:
        """Take one order with a refund that is due, for the length of `lease`; each change of a refund sets the time anew."""
        row = await self._orders.find_one_and_update(
            {"refund_due_at": {"$lte": now}},
            {"$set": {"refund_due_at": now + lease}},
            sort=[("refund_due_at", ASCENDING)],
            return_document=ReturnDocument.AFTER,
        )
        return _order(row)

    async def schedule(self, order_id: str, lease_until: datetime, next_at: datetime | None) -> None:
        """End a lease. When something else has set a new time meanwhile, that one stays."""
        await self._orders.update_one(
            {"_id": order_id, "next_ask_at": lease_until}, {"$set": {"next_ask_at": next_at}, "$inc": {"asks": 1}}
        )


def _order(document: Mapping[str, Any] | None) -> Order | None:
    return None if document is None else Order.from_document(document)


def _without_id(order: Order) -> dict[str, Any]:
    document = order.to_document()
    del document["_id"]
    return document


def _is_duplicate(error: Exception) -> bool:
    """A bulk insert wraps the duplicate key into its own error."""
    details = getattr(error, "details", None) or {}
    return any(row.get("code") == 11000 for row in details.get("writeErrors", []))
