"""Publish a judged catalogue as a version in MongoDB. Old versions stay readable: cases keep the item version they started with.

Collection `catalogue_versions`:
    {_id: <content hash>, kind: "catalogue", content, published_at}
    {_id: "<item code>@<version>", kind: "item", code, version, hash, item}
    {_id: "current", kind: "current", version_id, number, at}
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from pymongo import ASCENDING, IndexModel
from redis.asyncio import Redis

from app.catalogue.changes import changes
from app.catalogue.load import Catalogue
from app.kernel.clock import utc_now
from app.kernel.events import Event, new_event
from app.storage import outbox
from app.storage.mongo import Database
from app.storage.redis import publish as tell

COLLECTION = "catalogue_versions"
CHANNEL = "catalogue"  # Redis; the message is the number of the publication

INDEXES = {COLLECTION: [IndexModel([("kind", ASCENDING), ("code", ASCENDING)], name="items")]}


@dataclass(frozen=True)
class Published:
    """What is published now. `number` rises with every publication; `changed` False = these files were current already."""

    version_id: str
    number: int
    changed: bool

    def __str__(self) -> str:
        return f"catalogue: publication {self.number} ({self.version_id[:12]}), {'new' if self.changed else 'unchanged'}"


def content_hash(value: Any) -> str:
    """Return a hash that is the same for the same content, however its keys are ordered."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


async def publish(
    database: Database, catalogue: Catalogue, *, redis: Redis | None = None, now: datetime | None = None
) -> Published:
    """Make a catalogue the published one; the same content twice changes nothing, an earlier content comes back as it was.

    What followers of an item want to hear (changes.py) is an event in the same transaction. An item whose content changed gets the next version number by itself (at least the one its file says), so no case can
    meet another text under its version.
    """
    now = now or utc_now()
    content = catalogue.to_document()
    version_id = content_hash(content)
    versions = database[COLLECTION]

    async def work(session: Any) -> Published:
        current = await versions.find_one({"_id": "current"}, session=session)
        if current and current["version_id"] == version_id:
            return Published(version_id, current["number"], changed=False)
        if not await versions.find_one({"_id": version_id}, {"_id": 1}, session=session):
            known = versions.find(
                {"kind": "item"}, {"code": 1, "version": 1, "hash": 1}, session=session
            )
            items, fresh = _numbered(content["items"], [row async for row in known])
            if fresh:
                await versions.insert_many(fresh, session=session)
            stored = {"_id": version_id, "kind": "catalogue", "published_at": now, "content": content | {"items": items}}
            await versions.insert_one(stored, session=session)
        number = (current["number"] if current else 0) + 1
        if current:
            before = await versions.find_one({"_id": current["version_id"]}, {"content.items": 1}, session=session)
            rows = changes(before["content"]["items"], content["items"]) if before else []
            await outbox.append(database, session, [_told(row, number, now) for row in rows])
        pointer = {"_id": "current", "kind": "current", "version_id": version_id, "number": number, "at": now}
        await versions.replace_one({"_id": "current"}, pointer, upsert=True, session=session)
        return Published(version_id, number, changed=True)

    published = await database.transaction(work)
    if published.changed and redis is not None:
        await tell(redis, CHANNEL, str(published.number))
    return published


def _told(row: Mapping[str, Any], number: int, now: datetime) -> Event:
    """Return the event of one changed item. It concerns nobody by itself: push/news.py finds who follows the item."""
    return new_event(row["event"], subject=("item", row["code"]), owner_id="", data={**row, "publication": number}, at=now)


def _numbered(
    items: list[Mapping[str, Any]], known: list[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the items with the version each is published under, and documents for the versions not stored yet."""
    by_code: dict[str, dict[str, int]] = defaultdict(dict)
    for row in known:
        by_code[row["code"]][row["hash"]] = row["version"]
    numbered, fresh = [], []
    for item in items:
        digest = content_hash({key: value for key, value in item.items() if key != "version"})
        versions = by_code[item["code"]]
        version = versions.get(digest) or max([item["version"] - 1, *versions.values()]) + 1
        published = {**item, "version": version}
        numbered.append(published)
        if digest not in versions:
            fresh.append(
                {
                    "_id": f"{item['code']}@{version}",
                    "kind": "item",
                    "code": item["code"],
                    "version": version,
                    "hash": digest,
                    "item": published,
                }
            )
    return numbered, fresh


async def published_now(database: Database) -> Published | None:
    """Return what is published, or None when nothing is yet."""
    current = await database[COLLECTION].find_one({"_id": "current"})
    return Published(current["version_id"], current["number"], changed=False) if current else None


async def read_version(database: Database, version_id: str) -> Catalogue | None:
    """Return a published catalogue, also an old one."""
    document = await database[COLLECTION].find_one({"_id": version_id, "kind": "catalogue"})
    return Catalogue.from_document(document["content"]) if document else None


async def read_item(database: Database, code: str, version: int) -> dict[str, Any] | None:
    """Return one item as it was published under a version."""
    document = await database[COLLECTION].find_one({"_id": f"{code}@{version}", "kind": "item"})
    return document["item"] if document else None
