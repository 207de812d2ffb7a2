"""Idempotency keys: the same key with the same body gives the first answer again.

The record is reserved before the work starts and carries a `seed` from which the work makes the ids of what it creates. When
the process dies in between, the next try with the same key gets the same seed, so it finds what was made instead of making it twice.
While the work lasts its lease is renewed, so who dies holds up the next try for a few seconds, however long other work takes.
Only successes are kept: a refusal changed nothing, so the next try is judged anew.
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pymongo import ASCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError

from app.kernel.clock import utc_now
from app.kernel.errors import Conflict, ValidationFailed, error_row
from app.kernel.ids import ulid
from app.storage.mongo import Database

KEPT_FOR = timedelta(hours=48)
LEASE = timedelta(seconds=6)
RENEWED_S = 2
_DUPLICATE_KEY = 11000

INDEXES = {"idempotency": [IndexModel([("expires_at", ASCENDING)], name="expires", expireAfterSeconds=0)]}


class StillRunning(Conflict):
    """The first request with this key has not ended: ask again shortly."""

    code = "idempotency.in_progress"
    retry_after_s = 1


class KeyReused(ValidationFailed):
    """This key came with another body before."""

    code = "idempotency.key_reused"


@dataclass(frozen=True)
class Reservation:
    """What a request got for its key: a seed to work with and a `claim` that says whose turn it is, or the first answer."""

    id: str
    seed: str
    status: int | None = None
    body: bytes | None = None
    claim: str = ""


async def reserve(database: Database, *, owner_id: str, route: str, key: str, body: bytes) -> Reservation:
    """Reserve a key for one request.

    Raises:
        StillRunning: the first request still runs (or did until LEASE ago, when its process died).
        KeyReused: same key, other body.
    """
    records = database["idempotency"]
    record_id = hashlib.sha256(f"{owner_id}\n{route}\n{key}".encode()).hexdigest()
    fingerprint = hashlib.sha256(body).hexdigest()
    now = utc_now()
    record = {
        "_id": record_id,
        "fingerprint": fingerprint,
        "seed": ulid(),
        "claim": ulid(),
        "lease_until": now + LEASE,
        "expires_at": now + KEPT_FOR,
    }
    if await database.together(_insert, record):
        return Reservation(record_id, record["seed"], claim=record["claim"])
    known = await records.find_one({"_id": record_id})
    if known is None:  # ended without success just now: start over
        return await reserve(database, owner_id=owner_id, route=route, key=key, body=body)
    if known["fingerprint"] != fingerprint:
        raise KeyReused(
            [error_row("/headers/Idempotency-Key", "reused", "这个 Idempotency-Key 已用于另一个请求，请换一个新的")]
        )
    if "status" in known:
        return Reservation(record_id, known["seed"], known["status"], bytes(known["body"]))
    # The lease is the compare-and-set: of two retries after a crash only one goes on.
    taken = await records.find_one_and_update(
        {"_id": record_id, "lease_until": {"$lte": now}, "status": {"$exists": False}},
        {"$set": {"lease_until": now + LEASE, "claim": ulid()}},
        return_document=ReturnDocument.AFTER,
    )
    if taken is None:
        raise StillRunning("上一次相同的请求还在处理，请稍等几秒再看结果。", en="The first request is still running.")
    return Reservation(record_id, taken["seed"], claim=taken["claim"])


async def renew(database: Database, reservation: Reservation) -> None:
    """Say that the work goes on. Called every RENEWED_S while it does."""
    await database["idempotency"].update_one(_mine(reservation), {"$set": {"lease_until": utc_now() + LEASE}})


async def keep(database: Database, reservation: Reservation, status: int, body: bytes) -> None:
    """Keep the first answer."""
    await database.together(_keep, UpdateOne({"_id": reservation.id}, {"$set": {"status": status, "body": body}}))


async def release(database: Database, reservation: Reservation, *, nothing_done: bool) -> None:
    """End a request that did not succeed.

    After a refusal (`nothing_done`) the key is free again, for any body. After a failure in the middle the seed stays, so that
    the next try with this key finds what may have been made already.
    """
    if nothing_done:
        await database["idempotency"].delete_one(_mine(reservation))
    else:
        await database["idempotency"].update_one(_mine(reservation), {"$set": {"lease_until": utc_now()}})


def _mine(reservation: Reservation) -> dict[str, Any]:
    """Find a record whose work is still ours and has not ended."""
    return {"_id": reservation.id, "status": {"$exists": False}, "claim": reservation.claim}


# --- what comes at once is written at once; each record is somebody's own, so none depends on another ---


async def _insert(database: Database, records: list[dict[str, Any]]) -> list[bool]:
    """Insert records; say of each whether it is there by this. Of two with one key one is."""
    try:
        await database["idempotency"].insert_many(records, ordered=False)
    except BulkWriteError as error:
        failed = {row["index"]: row["code"] for row in error.details["writeErrors"]}
        if set(failed.values()) - {_DUPLICATE_KEY} or error.details["writeConcernErrors"]:
            raise
        return [index not in failed for index in range(len(records))]
    return [True] * len(records)


async def _keep(database: Database, updates: list[UpdateOne]) -> list[None]:
    await database["idempotency"].bulk_write(updates, ordered=False)
    return [None] * len(updates)
