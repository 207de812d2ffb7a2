"""Proving the ledger: the chain unbroken, every entry balanced, every payment and refund booked, and nothing booked that is not there.

Reads in batches, so memory stays flat however long the books are. May run while the hall works: what looks wrong is looked at again in
one view of order and entries before it is called wrong.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pymongo import ASCENDING
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.storage.mongo import Database
from payments.ledger.booking import OF_ORDERS, expected_entries
from payments.ledger.entries import GENESIS, Entry, Unbalanced, added, block_hash, hash_of_entries, pairs_of
from payments.ledger.store import append
from payments.model import Order

BATCH = 500
_MOST_PROBLEMS = 200  # enough for a person; a broken book does not fill the screen


@dataclass
class Report:
    """What verification found. `problems` is empty when the books are in order."""

    blocks: int = 0
    entries: int = 0
    unsealed: int = 0
    orders: int = 0
    head: str = GENESIS
    balances: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.problems

    def add(self, problem: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)


async def verify(
    database: Database, progress: Callable[[int], None] = lambda _done: None, noted: Mapping[int, str] | None = None
) -> Report:
    """Prove the whole ledger.

    Args:
        progress: told of how many entries and orders were looked at since the last call.
        noted: block -> its hash (or the beginning of it) as it was noted elsewhere, in the log `ledger.sealed`: what the chain alone
            cannot prove is that it has not been rewritten from end to end.
    """
    report = Report()
    await _verify_chain(database, report, progress, dict(noted or {}))
    await _verify_unsealed(database, report)
    await _verify_orders(database, report, progress)
    if sum(report.balances.values()) != 0:
        report.add(f"the balances sum to {sum(report.balances.values())} fen instead of 0")
    return report


async def adopt(database: Database) -> int:
    """Book what was paid before there was a ledger; return how many entries that were. Books nothing twice."""
    booked = 0
    async for orders in _batches(_paid_orders(database)):
        missing = await _missing(database, orders, None)
        for entry in missing:
            try:
                await database.transaction(lambda session, entry=entry: append(database, session, [entry]))
            except Exception as error:
                if not (isinstance(error, DuplicateKeyError) or "E11000" in str(error)):
                    raise
                continue  # booked just now by the hall itself
            booked += 1
    return booked


# --- the chain ---


async def _verify_chain(
    database: Database, report: Report, progress: Callable[[int], None], noted: dict[int, str]
) -> None:
    prev_hash, totals = GENESIS, dict[str, int]()
    async for block in database["ledger_blocks"].find({}).sort("_id", ASCENDING):
        seq = report.blocks = report.blocks + 1
        if block["_id"] != seq:
            report.add(f"block {seq} is missing (found {block['_id']})")
            report.blocks = block["_id"]
        if block["prev_hash"] != prev_hash:
            report.add(f"block {block['_id']} does not follow the one before: its prev_hash is another")
        rows = {row["_id"]: row async for row in database["ledger_entries"].find({"_id": {"$in": block["entries"]}})}
        entries = _read(report, (rows[entry_id] for entry_id in block["entries"] if entry_id in rows))
        for entry_id in block["entries"]:
            if entry_id not in rows:
                report.add(f"entry {entry_id} of block {block['_id']} is gone")
            elif rows[entry_id].get("block") != block["_id"] or rows[entry_id].get("sealed") is not True:
                report.add(f"entry {entry_id} of block {block['_id']} does not call itself sealed there")
        if len(rows) < len(set(block["entries"])) or len(set(block["entries"])) < len(block["entries"]):
            report.add(f"block {block['_id']} does not name each of its entries once")
        if await database["ledger_entries"].count_documents({"block": block["_id"]}) > len(rows):
            report.add(f"block {block['_id']}: entries were put in after it was sealed")
        entries_hash = hash_of_entries(entries)
        if entries_hash != block["entries_hash"]:
            report.add(f"block {block['_id']}: its entries are not those that were sealed")
        totals = added(totals, pairs_of(entries))
        if totals != block["balances"]:
            report.add(f"block {block['_id']}: its balances are not the sums of the entries")
        expected = block_hash(block["_id"], block["prev_hash"], block["entries_hash"], block["balances"])
        if block["hash"] != expected:
            report.add(f"block {block['_id']}: its hash does not fit it")
        prev_hash = report.head = block["hash"]
        if not expected.startswith(noted.pop(block["_id"], "")):
            report.add(f"block {block['_id']} is not the one that was noted elsewhere")
        report.entries += len(entries)
        await _check_orders_exist(database, report, entries)
        progress(len(entries))
    report.balances = totals
    for seq in sorted(noted):
        report.add(f"block {seq} was noted elsewhere and is not there")


async def _verify_unsealed(database: Database, report: Report) -> None:
    async for rows in _batches(database["ledger_entries"].find({"sealed": False}).sort("_id", ASCENDING)):
        entries = _read(report, rows)
        report.unsealed += len(entries)
        report.entries += len(entries)
        report.balances = added(report.balances, pairs_of(entries))
        await _check_orders_exist(database, report, entries)
    # Sealed by their own word, in no block: a made-up entry that hides from the sealer, or a block that was taken away.
    # `block: None` (none at all) goes by the index, as `$exists` does not.
    orphans = {"$or": [{"block": None, "sealed": {"$ne": False}}, {"block": {"$gt": report.blocks}}]}
    async for row in database["ledger_entries"].find(orphans):
        # Looked up now: the block may have been sealed since we walked the chain.
        if row.get("block") is None or await database["ledger_blocks"].find_one({"_id": row["block"]}, {"_id": 1}) is None:
            report.add(f"entry {row['_id']} ({row['fact']}) calls itself sealed and is in no block")


def _read(report: Report, rows: Iterable[Any]) -> list[Entry]:
    entries = []
    for row in rows:
        try:
            entries.append(Entry.from_document(row))
        except (Unbalanced, KeyError, TypeError):
            report.add(f"entry {row['_id']} ({row.get('fact')}) does not balance")
    return entries


async def _check_orders_exist(database: Database, report: Report, entries: Sequence[Entry]) -> None:
    """An entry of a payment or refund must have its order, with a payment; whether they agree is seen from the order's side."""
    wanted = {entry.order_id: entry.fact for entry in entries if entry.fact.split(":")[0] in OF_ORDERS}
    found = database["orders"].find({"_id": {"$in": list(wanted)}}, {"attempts.state": 1, "refunds.id": 1}, batch_size=BATCH)
    orders = {row["_id"]: row async for row in found}
    for order_id, fact in wanted.items():
        order = orders.get(order_id)
        if order is None:
            report.add(f"{fact} is booked for an order that is not there ({order_id or 'none'})")
        elif not order.get("refunds") and not any(attempt["state"] in _BOOKED for attempt in order["attempts"]):
            report.add(f"{fact} is booked, and order {order_id} knows nothing of it")


# --- orders against entries ---


# A held payment is in suspense; one that was returned has been.
_BOOKED = ["paid", "held", "returned"]


def _paid_orders(database: Database) -> Any:
    return database["orders"].find({"$or": [{"attempts.state": {"$in": _BOOKED}}, {"refunds.0": {"$exists": True}}]})


async def _verify_orders(database: Database, report: Report, progress: Callable[[int], None]) -> None:
    async for rows in _batches(_paid_orders(database)):
        report.orders += len(rows)
        for order_id, _problem in await _differences(database, rows, None):
            # Looked at again in one view: an order that changed between our two reads is no difference.
            for _, problem in await database.transaction(lambda session, i=order_id: _again(database, i, session)):
                report.add(problem)
        progress(len(rows))


async def _again(database: Database, order_id: str, session: AsyncClientSession) -> list[tuple[str, str]]:
    row = await database["orders"].find_one({"_id": order_id}, session=session)
    return await _differences(database, [row], session) if row else []


async def _differences(
    database: Database, rows: Sequence[Any], session: AsyncClientSession | None
) -> list[tuple[str, str]]:
    """Return (order id, what is wrong) for every order whose entries are not the ones it must have."""
    booked = await _booked(database, [row["_id"] for row in rows], session)
    found: list[tuple[str, str]] = []
    for row in rows:
        try:
            order = Order.from_document(row)
            expected = {entry.fact: entry for entry in expected_entries(order)}
        except (Unbalanced, KeyError, TypeError, ValueError):
            found.append((row["_id"], f"order {row['_id']} contradicts itself: its amounts or states were changed"))
            continue
        actual = booked.get(order.id, {})
        for fact, entry in expected.items():
            if fact not in actual:
                found.append((order.id, f"{fact} of order {order.id} is not booked"))
            elif actual[fact] is None or sorted_lines(actual[fact]) != sorted_lines(entry):
                found.append((order.id, f"{fact} of order {order.id} is booked with other amounts"))
        for fact in actual.keys() - expected.keys():
            found.append((order.id, f"{fact} is booked, and order {order.id} knows nothing of it"))
    return found


def sorted_lines(entry: Any) -> list[tuple[str, int]]:
    return sorted((line.account, line.amount_fen) for line in entry.lines)


async def _booked(
    database: Database, order_ids: Sequence[str], session: AsyncClientSession | None
) -> dict[str, dict[str, Entry | None]]:
    """Return what is booked for orders: order id -> fact -> entry (None: unreadable)."""
    result: dict[str, dict[str, Entry | None]] = {}
    async for row in database["ledger_entries"].find({"order_id": {"$in": list(order_ids)}}, session=session):
        if row["fact"].split(":")[0] not in OF_ORDERS:
            continue
        try:
            entry: Entry | None = Entry.from_document(row)
        except (Unbalanced, KeyError, TypeError):
            entry = None
        result.setdefault(row["order_id"], {})[row["fact"]] = entry
    return result


async def _missing(database: Database, rows: Sequence[Any], session: AsyncClientSession | None) -> list[Entry]:
    orders = [Order.from_document(row) for row in rows]
    booked = await _booked(database, [order.id for order in orders], session)
    return [entry for order in orders for entry in expected_entries(order) if entry.fact not in booked.get(order.id, {})]


async def _batches(cursor: Any) -> AsyncIterator[list[Any]]:
    batch: list[Any] = []
    async for row in await cursor if hasattr(cursor, "__await__") else cursor:
        batch.append(row)
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
