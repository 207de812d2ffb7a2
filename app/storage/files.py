"""Stored files (materials): sealed in GridFS, the same file of one person once, deleted when nothing points to it any more.

What points to a file is kept by the areas that own it, so nothing is counted here: a counter could only disagree. A record remembers which
cases were ever given the file, before they are, and a sweep asks them. Guarantees, whatever dies between two writes:

- A record comes before its first byte and goes after its last one: no bytes without a record, none for ever without a look.
- Whoever gives a file to a case touches its record first (`hold`, `put`). The sweep takes only files untouched for `GRACE`, and only by a
  compare-and-set on that touch: a file that is being given is never deleted, and one that is being deleted is never given.

Sameness is a keyed hash of the owner and the content: of two people with the same paper neither learns of the other.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId
from gridfs.asynchronous import AsyncGridFSBucket
from gridfs.errors import NoFile
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.kernel.clock import utc_now
from app.kernel.crypto import KeyRing
from app.storage.gather import Gather
from app.storage.mongo import Database

_BUCKET = "materials"
GRACE = timedelta(hours=1)

INDEXES = {
    "stored_files": [
        IndexModel([("tag", ASCENDING)], name="one_per_content", unique=True, partialFilterExpression={"tag": {"$exists": True}}),
        IndexModel([("look_at", ASCENDING)], name="look_at", partialFilterExpression={"look_at": {"$exists": True}}),
        IndexModel([("unchecked_at", ASCENDING)], name="unchecked", partialFilterExpression={"unchecked_at": {"$exists": True}}),
    ]
}

# scan: `clean`, `unchecked` (the scanner was away: the worker asks again), `infected` (its bytes are gone), `off` (no scanner is set).
CLEAN, UNCHECKED, INFECTED, OFF = "clean", "unchecked", "infected", "off"


@dataclass(frozen=True)
class StoredFile:
    """A file and what the scanner said of it."""

    id: str
    content: bytes
    scan: str


class Files:
    """Files of at most some megabytes each, read and written whole. Times are those of the passed clock."""

    def __init__(self, database: Database, keys: KeyRing, clock: Callable[[], datetime] = utc_now) -> None:
        self._bucket = AsyncGridFSBucket(database.db, bucket_name=_BUCKET)
        self._records = database["stored_files"]
        self._keys = keys
        self._clock = clock
        self._scans: Gather[set[ObjectId], dict[str, str]] = Gather(self._scans_together, in_flight=2)

    async def put(self, content: bytes, *, owner_id: str, case_id: str, scan: str) -> str:
        """Store a file for a case and return its id; content that its owner has stored before keeps the id it has."""
        digest = f"{owner_id}.{hashlib.sha256(content).hexdigest()}"
        tags = self._keys.blind_indexes(digest, purpose="file")
        known = await self._known(tags, case_id, scan)
        if known is not None:
            return known
        now = self._clock()
        record: dict[str, Any] = {
            "_id": ObjectId(), "state": "writing", "case_ids": [case_id], "size": len(content), "scan": scan,
            "created_at": now, "look_at": now + GRACE,
        }  # fmt: skip
        if scan == UNCHECKED:
            record["unchecked_at"] = now
        await self._records.insert_one(record)
        file_id = record["_id"]
        sealed = await asyncio.to_thread(self._keys.seal_bytes, content, context=str(file_id))
        # No name: it can tell whose papers these are, so it stays with the case.
        await self._bucket.upload_from_stream_with_id(file_id, "material", sealed, metadata={"sealed": True})
        try:
            await self._records.update_one({"_id": file_id}, {"$set": {"state": "kept", "tag": tags[0]}})
        except DuplicateKeyError:
            # The other device was faster with the same file; ours has no tag and is swept.
            return await self._known(tags, case_id, scan) or await self._keep_untagged(file_id)
        return str(file_id)

    async def _known(self, tags: list[str], case_id: str, scan: str) -> str | None:
        change: dict[str, Any] = {"$set": {"look_at": self._clock() + GRACE}, "$addToSet": {"case_ids": case_id}}
        if scan == CLEAN:  # also for the cases that hold it since the scanner was away
            change["$set"]["scan"] = CLEAN
            change["$unset"] = {"unchecked_at": ""}
        query = {"tag": {"$in": tags}, "state": "kept", "scan": {"$ne": INFECTED}}
        record = await self._records.find_one_and_update(query, change, projection=["_id"])
        return None if record is None else str(record["_id"])

    async def _keep_untagged(self, file_id: ObjectId) -> str:
        await self._records.update_one({"_id": file_id}, {"$set": {"state": "kept"}})
        return str(file_id)

    async def get(self, file_id: str) -> StoredFile | None:
        """Return a file, or None when it is not there, is being deleted, or was found infected."""
        try:
            key = ObjectId(file_id)
            record = await self._records.find_one({"_id": key}, ["state", "scan"])
            if record is not None and record["state"] != "kept":
                return None
            stream = await self._bucket.open_download_stream(key)
        except (NoFile, InvalidId):
            return None
        content = await stream.read()
        if (stream.metadata or {}).get("sealed"):
            content = await asyncio.to_thread(self._keys.open_bytes, content, context=file_id)
        return StoredFile(file_id, content, record["scan"] if record else OFF)  # without a record: from before there was one

    async def hold(self, file_ids: Iterable[str], case_id: str) -> set[str]:
        """Say, before it is done, that a case is about to be given these files; return those that it may be given."""
        kept: set[str] = set()
        for file_id in file_ids:
            key = ObjectId(file_id)
            change = {"$set": {"look_at": self._clock() + GRACE}, "$addToSet": {"case_ids": case_id}}
            query = {"_id": key, "state": "kept", "scan": {"$ne": INFECTED}}
            record = await self._records.find_one_and_update(query, change, projection=["_id"])
            # Without a record: from before there was one, and never deleted.
            if record is not None or await self._records.find_one({"_id": key}, ["_id"]) is None:
                kept.add(file_id)
        return kept

    async def look_again(self, file_ids: Collection[str]) -> None:
        """Say, before it is done, that something may cease to point to these files."""
        if file_ids:
            keys = [ObjectId(file_id) for file_id in file_ids]
            await self._records.update_many({"_id": {"$in": keys}, "state": "kept"}, {"$set": {"look_at": self._clock() + GRACE}})

    async def scans(self, file_ids: Collection[str], session: AsyncClientSession | None = None) -> dict[str, str]:
        """Return what the scanner said of these files by now; one without a record is left out.

        In the transaction of `session` what it says there; without one it is read together with what else is asked for.
        """
        keys = {ObjectId(file_id) for file_id in file_ids}
        if session is None:
            return await self._scans.add(keys)
        return {str(row["_id"]): row["scan"] for row in await self._records.find({"_id": {"$in": list(keys)}}, ["scan"], session=session).to_list()}

    async def _scans_together(self, asked: list[set[ObjectId]]) -> list[dict[str, str]]:
        rows = await self._records.find({"_id": {"$in": list(set().union(*asked))}}, ["scan"]).to_list()
        said = {row["_id"]: row["scan"] for row in rows}
        return [{str(key): said[key] for key in keys if key in said} for keys in asked]

    async def unchecked(self, limit: int = 100) -> AsyncIterator[str]:
        """Yield the ids of files that no scanner has seen, those asked about longest ago first."""
        rows = self._records.find({"unchecked_at": {"$exists": True}, "state": "kept"}, ["_id"]).sort("unchecked_at", 1)
        for row in await rows.limit(limit).to_list():
            yield str(row["_id"])

    async def tell_scan(self, file_id: str, scan: str) -> list[str]:
        """Keep what the scanner said; return the cases that were given the file. An infected file loses its bytes at once."""
        key = ObjectId(file_id)
        if scan == UNCHECKED:  # to the end of the queue
            await self._records.update_one({"_id": key, "unchecked_at": {"$exists": True}}, {"$set": {"unchecked_at": self._clock()}})
            return []
        change: dict[str, Any] = {"$set": {"scan": scan}, "$unset": {"unchecked_at": ""}}
        if scan == INFECTED:
            # The record stays while a case names the file, so that the case can say what became of it.
            change["$set"] |= {"state": INFECTED, "look_at": self._clock()}
            change["$unset"]["tag"] = ""
        record = await self._records.find_one_and_update({"_id": key}, change, projection=["case_ids"])
        if scan == INFECTED:
            await self._delete_bytes(key)
        return record["case_ids"] if record else []

    async def sweep(self, pointed_to: Callable[[str, list[str]], Awaitable[bool]], limit: int = 500) -> int:
        """Delete what nothing points to and what was never finished; return how many files went.

        Args:
            pointed_to: says of a file id and the cases that were ever given it whether one of them still names it.
        """
        deleted = 0
        now = self._clock()
        for record in await self._records.find({"look_at": {"$lte": now}}).sort("look_at", 1).limit(limit).to_list():
            seen = {"_id": record["_id"], "look_at": record["look_at"]}
            if record["state"] == INFECTED:
                await self._delete_bytes(record["_id"])  # once more: whoever found it may have died before
            if record["state"] in ("kept", INFECTED) and await pointed_to(str(record["_id"]), record["case_ids"]):
                await self._records.update_one(seen, {"$unset": {"look_at": ""}})
                continue
            change = {"$set": {"state": "deleting", "look_at": now + GRACE}, "$unset": {"tag": "", "unchecked_at": ""}}
            if await self._records.find_one_and_update(seen, change, projection=["_id"]) is None:
                continue  # touched meanwhile: somebody is giving it to a case
            await self._delete_bytes(record["_id"])
            await self._records.delete_one({"_id": record["_id"], "state": "deleting"})
            deleted += 1
        return deleted

    async def _delete_bytes(self, key: ObjectId) -> None:
        try:
            await self._bucket.delete(key)
        except NoFile:
            pass  # its chunks, if a writer left any, are gone all the same
