"""The ledger in MongoDB: appending entries, sealing them into blocks, balances.

`ledger_entries` are inserted in the transaction of what they book and never changed; only `sealed` and `block`, which are not part of
the entry, are set when it is sealed. `ledger_blocks` is the chain: each block names its entries, carries the running balances, and its
hash covers both and the block before. Nobody who books touches a common document, so nothing is hot: only the sealer adds blocks.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.storage.mongo import Database
from payments.ledger.entries import GENESIS, Entry, added, block_hash, hash_of_entries, pairs_of

log = structlog.get_logger(__name__)

INDEXES: dict[str, list[IndexModel]] = {
    "ledger_entries": [
        IndexModel([("fact", ASCENDING)], name="fact", unique=True),
        IndexModel([("order_id", ASCENDING)], name="of_order"),
        # Only what waits for the sealer is in this index, so it stays small.
        IndexModel([("sealed", ASCENDING), ("_id", ASCENDING)], name="unsealed", partialFilterExpression={"sealed": False}),
        IndexModel([("block", ASCENDING)], name="of_block"),
    ],
    "ledger_blocks": [IndexModel([("sealed_at", ASCENDING)], name="by_time")],
    "ledger_locks": [],  # by _id, what is done by one at a time (by_hand.py)
}

BLOCK_ENTRIES = 500


class FactBookedDifferently(Exception):
    """A bug or a meddler: this fact is booked already, with other lines."""


async def append(database: Database, session: AsyncClientSession, entries: Sequence[Entry]) -> None:
    """Write entries in the transaction of `session`. A fact that is booked already fails the transaction (DuplicateKeyError)."""
    if entries:
        await database["ledger_entries"].insert_many(
            [entry.to_document() | {"sealed": False} for entry in entries], session=session
        )


async def post(database: Database, entry: Entry) -> bool:
    """Book one fact by itself (a fee, a payout, a difference); False when it is booked already.

    Raises:
        FactBookedDifferently.
    """
    try:
        await database["ledger_entries"].insert_one(entry.to_document() | {"sealed": False})
    except DuplicateKeyError as error:
        known = await database["ledger_entries"].find_one({"fact": entry.fact})
        if known is None or not Entry.from_document(known).says_the_same(entry):
            raise FactBookedDifferently(entry.fact) from error
        return False
    return True


async def balances(database: Database) -> dict[str, int]:
    """Return the balance of every account now: the last block's and what is not sealed yet. Accounts at zero are left out."""

    # One view of both, or an entry sealed in between would count twice.
    return await database.transaction(lambda session: balances_in(database, session))


async def balances_in(database: Database, session: AsyncClientSession) -> dict[str, int]:
    """Return the balances as the transaction of `session` sees them."""
    last = await _last_block(database, session)
    total: dict[str, int] = dict(last["balances"]) if last else {}
    async for row in database["ledger_entries"].find({"sealed": False}, session=session):
        total = added(total, pairs_of([Entry.from_document(row)]))
    return total


async def seal(database: Database, now: datetime) -> int:
    """Take what is not sealed into the next block; return how many entries that were. Any number of workers may run this.

    One writer at a time without a lease: the number of a block is its `_id`, so of two that make the same one fails and starts again
    on what the other has left.
    """

    async def work(session: AsyncClientSession) -> dict[str, Any] | None:
        cursor = database["ledger_entries"].find({"sealed": False}, session=session).sort("_id", ASCENDING)
        rows = await cursor.limit(BLOCK_ENTRIES).to_list()
        if not rows:
            return None
        last = await _last_block(database, session)
        block = next_block(last, [Entry.from_document(row) for row in rows], now)
        await database["ledger_blocks"].insert_one(block, session=session)
        await database["ledger_entries"].update_many(
            {"_id": {"$in": block["entries"]}}, {"$set": {"sealed": True, "block": block["_id"]}}, session=session
        )
        return block

    sealed = 0
    while True:
        # The usual case, nothing to seal, is answered without a transaction.
        if await database["ledger_entries"].find_one({"sealed": False}, {"_id": 1}) is None:
            return sealed
        try:
            block = await database.transaction(work)
        except DuplicateKeyError:  # another worker has sealed just now
            return sealed
        if block is None:
            return sealed
        sealed += len(block["entries"])
        # In the log too, which is kept elsewhere: a chain that is rewritten whole would no longer fit it.
        log.info("ledger.sealed", block=block["_id"], entries=len(block["entries"]), hash=block["hash"])


def next_block(last: dict[str, Any] | None, entries: Sequence[Entry], now: datetime) -> dict[str, Any]:
    """Return the document of the block that follows `last` (None: the first). Pure."""
    seq, prev_hash = (last["_id"] + 1, last["hash"]) if last else (1, GENESIS)
    totals = added(last["balances"] if last else {}, pairs_of(entries))
    entries_hash = hash_of_entries(entries)
    return {
        "_id": seq,
        "entries": [entry.id for entry in entries],
        "entries_hash": entries_hash,
        "prev_hash": prev_hash,
        "hash": block_hash(seq, prev_hash, entries_hash, totals),
        "balances": totals,
        "sealed_at": now,
    }


async def _last_block(database: Database, session: AsyncClientSession) -> dict[str, Any] | None:
    return await database["ledger_blocks"].find_one({}, sort=[("_id", DESCENDING)], session=session)
