"""What checks keep: who looked up which bill (for a day), and the audit of every question."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import ASCENDING, IndexModel, UpdateOne

from app.checks.bill_rules import rule_of
from app.exchange.departments import Bill, Office
from app.kernel.audit import record
from app.storage.mongo import Database

REMEMBERED = timedelta(hours=24)

INDEXES = {
    "bills": [
        IndexModel([("expires_at", ASCENDING)], name="expires", expireAfterSeconds=0),
        IndexModel([("owner_id", ASCENDING)], name="of_owner"),
        IndexModel([("bill_id", ASCENDING)], name="bill"),
    ],
    "audit": [
        IndexModel([("actor", ASCENDING), ("_id", ASCENDING)], name="of_actor"),
        IndexModel([("owner_id", ASCENDING), ("_id", ASCENDING)], name="of_owner"),
    ],
}


def _key(owner_id: str, bill_id: str) -> str:
    return f"{owner_id}:{bill_id}"


async def remember_bills(
    database: Database, owner_id: str, office: Office, bills: Sequence[Bill], now: datetime, *, paid_for: str = ""
) -> None:
    """Note that a resident was shown these bills: only so can he order one.

    Args:
        paid_for: the masked name of somebody else whose bills they are.
    """
    owed = sorted((bill.due_on, bill.id) for bill in bills if bill.state == "unpaid")
    writes = []
    for bill in bills:
        older = [other for due_on, other in owed if due_on < bill.due_on] if rule_of(bill.kind).oldest_first else []
        note = {
            "owner_id": owner_id,
            "bill_id": bill.id,
            "kind": bill.kind,
            "office": office.__dict__,
            "paid_for": paid_for and (bill.payer_masked or paid_for),
            "older": older,
            "expires_at": now + REMEMBERED,
        }
        writes.append(UpdateOne({"_id": _key(owner_id, bill.id)}, {"$set": note}, upsert=True))
    if writes:
        await database["bills"].bulk_write(writes, ordered=False)


async def remembered(database: Database, owner_id: str, bill_id: str) -> dict[str, Any] | None:
    """Return the note of a bill that this resident looked up, or None."""
    return await database["bills"].find_one({"_id": _key(owner_id, bill_id)})


async def any_note(database: Database, bill_id: str) -> dict[str, Any] | None:
    """Return anybody's note of a bill, or None."""
    return await database["bills"].find_one({"bill_id": bill_id})


async def note_quote(
    database: Database, owner_id: str, bill_id: str, *, amount_fen: int, late_fee_fen: int, now: datetime
) -> None:
    """Keep the price that was quoted last; the note then lives as long as an order on it can."""
    await database["bills"].update_one(
        {"_id": _key(owner_id, bill_id)},
        {
            "$set": {
                "quoted": {"amount_fen": amount_fen, "late_fee_fen": late_fee_fen, "at": now},
                "expires_at": now + 7 * REMEMBERED,
            }
        },
    )


async def move_bills(database: Database, from_id: str, into_id: str) -> None:
    """Give the notes of one resident to another (two accounts of one person were joined)."""
    async for note in database["bills"].find({"owner_id": from_id}):
        moved = note | {"_id": _key(into_id, note["bill_id"]), "owner_id": into_id}
        await database["bills"].replace_one({"_id": moved["_id"]}, moved, upsert=True)
        await database["bills"].delete_one({"_id": note["_id"]})


async def audit(database: Database, *, actor_id: str, action: str, kind: str, office_id: str, purpose: str) -> None:
    """Record a question about a person's data: who, what kind, why. Never what was typed or answered."""
    await record(
        database["audit"], actor=actor_id, action=action, subject=f"{office_id}.{kind}", owner_id=actor_id, purpose=purpose
    )
