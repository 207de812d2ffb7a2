"""Receipt numbers without gaps per agency and year, without a document that every payment would have to wait for.

A receipt is made, with its check code, in the transaction that settles its order, and has no number yet. Numbers are given out
afterwards, in the order in which the receipts came, many in one transaction: by the worker each second, or by whoever opens a receipt
sooner. Two who do it at once meet at the counter of the series; one of them starts again on what the other has left.
"""

import re
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.kernel.clock import SHANGHAI
from app.storage.mongo import Database

INDEXES = [
    IndexModel([("number", ASCENDING)], name="number", unique=True, partialFilterExpression={"number": {"$gt": ""}}),
    # Only what waits for its number is in this index, so it stays small.
    IndexModel([("number", ASCENDING), ("_id", ASCENDING)], name="waiting", partialFilterExpression={"number": ""}),
]
AT_ONCE = 200


def series_of(agency_id: str, issued_at: datetime) -> str:
    """Return what a receipt's number counts within: the agency and the Shanghai year, `SGGAJ2026`."""
    agency = re.sub(r"[^0-9A-Z]", "", agency_id.upper())[:12] or "HALL"
    return f"{agency}{issued_at.astimezone(SHANGHAI):%Y}"


def number_of(series: str, serial: int) -> str:
    """Return a receipt number: `R`, agency, year, eight digits."""
    return f"R{series}{serial:08d}"


async def assign(database: Database) -> int:
    """Give every receipt that waits its number; return how many. Any number of processes may do so at once."""
    done = 0
    while True:
        # The usual case, nothing waits, is answered without a transaction.
        if await database["receipts"].find_one({"number": ""}, {"_id": 1}) is None:
            return done
        try:
            count = await database.transaction(lambda session: _assign_some(database, session))
        except DuplicateKeyError:  # the first of a series, begun twice at once: the other one has it
            continue
        done += count


async def _assign_some(database: Database, session: AsyncClientSession) -> int:
    cursor = database["receipts"].find({"number": ""}, session=session).sort("_id", ASCENDING)
    rows = await cursor.limit(AT_ONCE).to_list()
    by_series: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_series.setdefault(row["series"], []).append(row)
    receipts: list[UpdateOne] = []
    orders: list[UpdateOne] = []
    for series, members in by_series.items():
        # In this transaction: when it does not commit, the counter has not moved, and there is no gap.
        counter = await database["receipt_series"].find_one_and_update(
            {"_id": series},
            {"$inc": {"last": len(members)}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        for serial, row in enumerate(members, start=counter["last"] - len(members) + 1):
            number = number_of(series, serial)
            receipts.append(UpdateOne({"_id": row["_id"]}, {"$set": {"number": number}}))
            # The version too, so that whoever changes the order at this moment decides again instead of writing the old one back.
            orders.append(
                UpdateOne(
                    {"_id": row["order_id"], "receipts.id": row["_id"]},
                    {"$set": {"receipts.$.number": number}, "$inc": {"version": 1}},
                )
            )
    if rows:
        await database["receipts"].bulk_write(receipts, session=session)
        await database["orders"].bulk_write(orders, session=session)
    return len(rows)
