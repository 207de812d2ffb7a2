"""Residents, channel identities and sessions in MongoDB. Names, numbers and phones are sealed; equal ones are found by blind index."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession

from app.identity.model import Resident
from app.kernel.crypto import KeyRing
from app.kernel.errors import NotFound
from app.storage.mongo import Database

INDEXES = {
    "residents": [
        IndexModel(
            [("phone_index", ASCENDING)], name="phone", unique=True, partialFilterExpression={"phone_index": {"$type": "string"}}
        ),
        IndexModel(
            [("id_index", ASCENDING)], name="id_number", unique=True, partialFilterExpression={"id_index": {"$type": "string"}}
        ),
    ],
    "channel_identities": [
        IndexModel([("resident_id", ASCENDING), ("provider", ASCENDING)], name="of_resident"),
        IndexModel([("provider", ASCENDING), ("user_id", ASCENDING)], name="user_id", sparse=True),
        IndexModel([("provider", ASCENDING), ("open_id", ASCENDING)], name="open_id", sparse=True),
    ],
    "sessions": [
        IndexModel([("resident_id", ASCENDING), ("_id", ASCENDING)], name="of_resident"),
        IndexModel([("expires_at", ASCENDING)], name="expires", expireAfterSeconds=0),
    ],
    "staff": [],  # by _id, the account
    "staff_sessions": [IndexModel([("expires_at", ASCENDING)], name="expires", expireAfterSeconds=0)],
    "sms_codes": [IndexModel([("expires_at", ASCENDING)], name="expires", expireAfterSeconds=0)],
    "sms_sends": [
        IndexModel([("phone_index", ASCENDING), ("at", ASCENDING)], name="of_phone"),
        IndexModel([("address", ASCENDING), ("at", ASCENDING)], name="of_address"),
        IndexModel([("at", ASCENDING)], name="kept_a_day", expireAfterSeconds=24 * 3600),
    ],
    "face_checks": [IndexModel([("expires_at", ASCENDING)], name="expires", expireAfterSeconds=3600)],
}

# Field -> purpose of its blind index.
_INDEXED = {"phone": "phone", "id_number": "id"}
_SEALED = ("name", "id_number", "phone", "address")


def sealed_fields(keys: KeyRing, resident_id: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the document fields that hold `values` (name, id_number, phone, address), sealed and indexed."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        fields[name] = keys.seal(value, context=f"{resident_id}.{name}")
        if name in _INDEXED:
            fields[f"{_INDEXED[name]}_index"] = keys.blind_index(value, purpose=_INDEXED[name])
    return fields


def opened(keys: KeyRing, document: Mapping[str, Any]) -> Resident:
    """Return a resident document with its sealed fields opened."""
    values = {
        name: keys.open_sealed(document[name], context=f"{document['_id']}.{name}") if document.get(name) else ""
        for name in _SEALED
    }
    return Resident(
        id=document["_id"],
        level=document["level"],
        created_at=document["created_at"],
        version=document["version"],
        waits_to_join="id_claim_index" in document,
        **values,
    )


def new_resident(resident_id: str, now: datetime) -> dict[str, Any]:
    return {"_id": resident_id, "level": 1, "created_at": now, "version": 1}


async def load_resident(
    collection: Any, resident_id: str, session: AsyncClientSession | None = None
) -> dict[str, Any]:
    """Return a resident's document; one that was joined into another leads there. Raises NotFound."""
    document: dict[str, Any] | None = await collection.find_one({"_id": resident_id}, session=session)
    while document is not None and "merged_into" in document:
        document = await collection.find_one({"_id": document["merged_into"]}, session=session)
    if document is None:
        raise NotFound("没有找到这个账号。", en="No such resident.")
    return document


async def resident_of(database: Database, resident_id: str) -> dict[str, Any]:
    """Return what `load_resident` does, outside any transaction: read together with whoever else is asked for."""
    document = await database.document("residents", resident_id)
    while document is not None and "merged_into" in document:
        document = await database.document("residents", document["merged_into"])
    if document is None:
        raise NotFound("没有找到这个账号。", en="No such resident.")
    return document
