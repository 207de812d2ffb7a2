"""Inbox, preferences and devices in MongoDB.

Each person's messages carry a sequence number, taken from that person's head document inside the transaction that writes the message.
Two writers for one person conflict on the head, so the order of numbers is the order of commits: a reader that has seen number n will
never see a smaller one appear later. That is what lets the stream's cursor have neither gap nor repeat.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.kernel.events import Event
from app.kernel.ids import new_id
from app.storage.mongo import Database
from push.model import Preferences, joined
from push.templates import Rendered

Document = dict[str, Any]

INDEXES = {
    "messages": [
        IndexModel([("owner_id", ASCENDING), ("seq", ASCENDING)], name="stream", unique=True),
        IndexModel([("event_id", ASCENDING), ("owner_id", ASCENDING)], name="once", unique=True),
        IndexModel([("owner_id", ASCENDING), ("_id", DESCENDING)], name="inbox"),
        # Only what is unread, so it stays small and the count is bounded.
        IndexModel(
            [("owner_id", ASCENDING), ("_id", DESCENDING)], name="inbox_unread", partialFilterExpression={"unread": True}
        ),
    ],
    "push_heads": [IndexModel([("moved_to", ASCENDING)], name="moved", sparse=True)],
    # What WeChat has pushed already; it repeats at most three times within minutes.
    "wechat_pushes": [IndexModel([("at", ASCENDING)], name="expires", expireAfterSeconds=86400)],
    # Of the gateway's reports: each counts once while its signature is young enough (push/gateway_reports.py).
    "gateway_nonces": [IndexModel([("at", ASCENDING)], name="expires", expireAfterSeconds=1800)],
    # Pushes of JPush that are still asked about; by delivery id.
    "push_receipts": [
        IndexModel([("next_at", ASCENDING)], name="due"),
        IndexModel([("until", ASCENDING)], name="expires", expireAfterSeconds=14 * 86400),
    ],
    "push_devices": [IndexModel([("owner_id", ASCENDING), ("at", DESCENDING)], name="of_owner")],
    "push_preferences": [],  # by _id, the resident
    "push_pauses": [],  # by _id, the channel (pauses.py)
}

MAX_DEVICES = 10
APNS = "apns"  # the vendor of a device that is reached through Apple directly; its id is Apple's device token
_FIRST_LOOK = timedelta(seconds=10)


def new_message(owner_id: str, seq: int, event: Event, rendered: Rendered) -> Document:
    """Return the message of an event for one person's inbox, not read yet."""
    return {
        "_id": new_id("msg"),
        "owner_id": owner_id,
        "seq": seq,
        "event_id": event.id,
        "event": event.name,
        "kind": rendered.kind,
        "at": event.at,
        "title": rendered.title,
        "body": rendered.body,
        "link": rendered.link,
        "subject": {"kind": event.subject_kind, "id": event.subject_id},
        "order_id": event.data.get("order_id"),
        "state": event.data.get("state"),
        "unread": True,
        "read_at": None,
    }


class Store:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._messages = database["messages"]
        self._heads = database["push_heads"]
        self._preferences = database["push_preferences"]
        self._devices = database["push_devices"]
        self._receipts = database["push_receipts"]

    # --- writing, inside a transaction ---

    async def present_owner(self, owner_id: str, session: AsyncClientSession | None = None) -> str:
        """Return whose inbox it is now: a resident who was joined to another has moved there."""
        if session is None:
            head = await self._database.document("push_heads", owner_id)
        else:
            head = await self._heads.find_one({"_id": owner_id}, session=session)
        return str(head["moved_to"]) if head and head.get("moved_to") else owner_id

    async def next_seq(self, owner_id: str, session: AsyncClientSession) -> int:
        head = await self._heads.find_one_and_update(
            {"_id": owner_id}, {"$inc": {"seq": 1}}, upsert=True, return_document=ReturnDocument.AFTER, session=session
        )
        return int(head["seq"])

    async def has_message(self, event_id: str, owner_id: str, session: AsyncClientSession) -> bool:
        return await self._messages.find_one({"event_id": event_id, "owner_id": owner_id}, {"_id": 1}, session=session) is not None

    async def add_message(self, message: Document, session: AsyncClientSession) -> None:
        await self._messages.insert_one(message, session=session)

    # The same for many persons at once, each command for all of them.

    async def owners_now(self, owner_ids: Collection[str], session: AsyncClientSession) -> dict[str, str]:
        """Return whose inbox each of these is now."""
        moved = self._heads.find({"_id": {"$in": list(owner_ids)}, "moved_to": {"$exists": True}}, {"moved_to": 1}, session=session)
        into = {head["_id"]: head["moved_to"] async for head in moved if head["moved_to"]}
        return {owner_id: into.get(owner_id, owner_id) for owner_id in owner_ids}

    async def known_messages(self, keys: Sequence[tuple[str, str]], session: AsyncClientSession) -> set[tuple[str, str]]:
        """Return which of these (event id, owner id) have a message already."""
        query = {"event_id": {"$in": [event for event, _ in keys]}, "owner_id": {"$in": [owner for _, owner in keys]}}
        found = self._messages.find(query, {"event_id": 1, "owner_id": 1, "_id": 0}, session=session)
        return {(message["event_id"], message["owner_id"]) async for message in found}

    async def advance(self, counts: Mapping[str, int], session: AsyncClientSession) -> dict[str, int]:
        """Take so many numbers for each of these persons; return the last one of each."""
        updates = [UpdateOne({"_id": owner}, {"$inc": {"seq": count}}, upsert=True) for owner, count in counts.items()]
        await self._heads.bulk_write(updates, session=session)
        found = self._heads.find({"_id": {"$in": list(counts)}}, {"seq": 1}, session=session)
        return {head["_id"]: int(head["seq"]) async for head in found}

    async def present_owners(self, owner_ids: Sequence[str], session: AsyncClientSession) -> list[str]:
        """Return whose inboxes they are now, in order, each once."""
        moved = self._heads.find({"_id": {"$in": list(owner_ids)}, "moved_to": {"$exists": True}}, {"moved_to": 1}, session=session)
        into = {head["_id"]: head["moved_to"] async for head in moved if head["moved_to"]}
        return list(dict.fromkeys(into.get(owner_id, owner_id) for owner_id in owner_ids))

    async def next_seqs(self, owner_ids: Sequence[str], session: AsyncClientSession) -> dict[str, int]:
        await self._heads.bulk_write([UpdateOne({"_id": each}, {"$inc": {"seq": 1}}, upsert=True) for each in owner_ids], session=session)
        found = self._heads.find({"_id": {"$in": list(owner_ids)}}, {"seq": 1}, session=session)
        return {head["_id"]: int(head["seq"]) async for head in found}

    async def having_message(self, event_id: str, owner_ids: Sequence[str], session: AsyncClientSession) -> set[str]:
        """Return which of these persons have a message of this event already."""
        query = {"event_id": event_id, "owner_id": {"$in": list(owner_ids)}}
        return {message["owner_id"] async for message in self._messages.find(query, {"owner_id": 1, "_id": 0}, session=session)}

    async def add_messages(self, messages: Sequence[Document], session: AsyncClientSession) -> None:
        await self._messages.insert_many(messages, session=session)

    async def preferences_of(self, owner_ids: Sequence[str], session: AsyncClientSession) -> dict[str, Preferences]:
        found = self._preferences.find({"_id": {"$in": list(owner_ids)}}, session=session)
        known = {document["_id"]: Preferences.from_document(document) async for document in found}
        return {owner_id: known.get(owner_id, Preferences()) for owner_id in owner_ids}

    # --- the inbox ---

    async def page(self, owner_id: str, *, unread: bool, before: str | None, limit: int) -> list[Document]:
        """Return messages, newest first, older than the message `before`."""
        query: Document = {"owner_id": owner_id}
        if unread:
            query["unread"] = True
        if before:
            query["_id"] = {"$lt": before}
        return await self._messages.find(query).sort("_id", DESCENDING).limit(limit).to_list()

    async def unread_count(self, owner_id: str, most: int) -> int:
        """Return how many messages are unread, counting no further than `most`."""
        return await self._messages.count_documents({"owner_id": owner_id, "unread": True}, limit=most)

    async def mark_read(self, owner_id: str, message_id: str, now: datetime) -> Document | None:
        """Mark one message read (the first time counts) and return it; None when this person has no such message."""
        await self._messages.update_one(
            {"_id": message_id, "owner_id": owner_id, "unread": True}, {"$set": {"unread": False, "read_at": now}}
        )
        return await self._messages.find_one({"_id": message_id, "owner_id": owner_id})

    async def mark_all_read(self, owner_id: str, now: datetime) -> int:
        result = await self._messages.update_many(
            {"owner_id": owner_id, "unread": True}, {"$set": {"unread": False, "read_at": now}}
        )
        return int(result.modified_count)

    # --- the stream ---

    async def head(self, owner_id: str) -> int:
        """Return the highest sequence number of a person, 0 when there is none."""
        head = await self._heads.find_one({"_id": owner_id})
        return int(head.get("seq", 0)) if head else 0

    async def heads(self, owner_ids: Sequence[str]) -> dict[str, int]:
        """Return the highest sequence numbers of many persons in one query."""
        return {
            head["_id"]: int(head.get("seq", 0))
            async for head in self._heads.find({"_id": {"$in": list(owner_ids)}}, {"seq": 1})
        }

    async def after(self, owner_id: str, seq: int, limit: int) -> list[Document]:
        """Return messages with a number above `seq`, in order."""
        query = {"owner_id": owner_id, "seq": {"$gt": seq}}
        return await self._messages.find(query).sort("seq", ASCENDING).limit(limit).to_list()

    async def seq_of(self, owner_id: str, message_id: str) -> int | None:
        message = await self._messages.find_one({"_id": message_id, "owner_id": owner_id}, {"seq": 1})
        return int(message["seq"]) if message else None

    # --- preferences and devices ---

    async def preferences(self, owner_id: str) -> Preferences:
        return Preferences.from_document(await self._database.document("push_preferences", owner_id))

    async def change_preferences(self, owner_id: str, change: Callable[[Preferences], Preferences]) -> Preferences:
        """Change preferences and return them. Of many changes at once none is lost: `change` is pure and may run again on what another left."""
        while True:
            known = await self._preferences.find_one({"_id": owner_id}) or {}
            version = known.get("version")
            changed = change(Preferences.from_document(known or None))
            try:
                written = await self._preferences.replace_one(
                    {"_id": owner_id, "version": version}, changed.to_document() | {"version": (version or 0) + 1}, upsert=not known
                )
            except DuplicateKeyError:  # somebody else has just written the first one
                continue
            if written.matched_count or written.upserted_id is not None:
                return changed

    async def put_device(self, owner_id: str, registration_id: str, details: Mapping[str, str], now: datetime) -> None:
        """Register a device. A phone that changes hands belongs to whoever registered it last; of a person's the MAX_DEVICES last are kept."""
        await self._devices.replace_one(
            {"_id": registration_id}, {"owner_id": owner_id, **details, "at": now}, upsert=True
        )
        older = self._devices.find({"owner_id": owner_id}, {"_id": 1}).sort([("at", DESCENDING), ("_id", DESCENDING)]).skip(MAX_DEVICES)
        if forgotten := [device["_id"] async for device in older]:
            await self._devices.delete_many({"_id": {"$in": forgotten}, "owner_id": owner_id})

    async def drop_device(self, registration_id: str, owner_id: str | None = None) -> bool:
        query = {"_id": registration_id} | ({"owner_id": owner_id} if owner_id else {})
        return bool((await self._devices.delete_one(query)).deleted_count)

    async def drop_dead(self, registration_id: str, as_of: datetime) -> None:
        """Forget a device of which its vendor says that it is gone, unless it was registered again after `as_of`."""
        await self._devices.delete_one({"_id": registration_id, "at": {"$lte": as_of}})

    async def drop_devices_of_session(self, owner_id: str, session_id: str) -> int:
        """Forget the devices that were registered in a session which has ended: the next user of the phone gets none of these messages."""
        return int((await self._devices.delete_many({"owner_id": owner_id, "session_id": session_id})).deleted_count)

    async def expect_receipt(self, delivery_id: str, now: datetime, until: datetime, session: AsyncClientSession) -> None:
        """Have a push asked about from soon after now until `until`, in the transaction that notes that it was sent."""
        row = {"at": now, "next_at": now + _FIRST_LOOK, "until": until}
        await self._receipts.replace_one({"_id": delivery_id}, row, upsert=True, session=session)

    async def devices(self, owner_id: str) -> list[Document]:
        return await self._database.together(_devices, owner_id)

    # --- joining two residents ---

    async def move(self, from_id: str, into_id: str, session: AsyncClientSession) -> None:
        """Move everything of one person to another. Run again it finds nothing left to move.

        Moved messages get numbers above both heads, in their old order. A client that followed the old inbox therefore sees nothing
        newer swallowed; what it had seen before the join can come once more, with the same message id.
        """
        moved = await self._messages.find({"owner_id": from_id}, {"event_id": 1}, session=session).sort("seq", 1).to_list()
        # What went to many (a campaign) may have reached both accounts before it was known that they are one person: one stays.
        both = {"owner_id": into_id, "event_id": {"$in": [message["event_id"] for message in moved]}}
        twice = set(await self._messages.distinct("event_id", both, session=session))
        if twice:
            await self._messages.delete_many({"owner_id": from_id, "event_id": {"$in": list(twice)}}, session=session)
            moved = [message for message in moved if message["event_id"] not in twice]
        old = await self._heads.find_one({"_id": from_id}, session=session)
        new = await self._heads.find_one({"_id": into_id}, session=session)
        seq = max(int((old or {}).get("seq", 0)), int((new or {}).get("seq", 0)))
        for message in moved:
            seq += 1
            await self._messages.update_one(
                {"_id": message["_id"]}, {"$set": {"owner_id": into_id, "seq": seq}}, session=session
            )
        await self._heads.update_one({"_id": into_id}, {"$set": {"seq": seq}}, upsert=True, session=session)
        await self._heads.update_one({"_id": from_id}, {"$set": {"moved_to": into_id}}, upsert=True, session=session)
        await self._heads.update_many({"moved_to": from_id}, {"$set": {"moved_to": into_id}}, session=session)
        await self._devices.update_many({"owner_id": from_id}, {"$set": {"owner_id": into_id}}, session=session)
        kept = await self._preferences.find_one_and_delete({"_id": from_id}, session=session)
        if kept is None:
            return
        own = await self._preferences.find_one({"_id": into_id}, session=session)
        wishes = kept if own is None else own | joined(Preferences.from_document(own), Preferences.from_document(kept)).to_document()
        # Another version: a change of preferences that is under way meets it, and begins again.
        version = max(kept.get("version") or 0, (own or {}).get("version") or 0) + 1
        await self._preferences.replace_one({"_id": into_id}, wishes | {"_id": into_id, "version": version}, upsert=True, session=session)


async def _devices(database: Database, owner_ids: list[str]) -> list[list[Document]]:
    """Return the devices of many persons in one read, of each those registered last."""
    found: dict[str, list[Document]] = {}
    rows = database["push_devices"].find({"owner_id": {"$in": list(set(owner_ids))}})
    async for row in rows.sort([("owner_id", ASCENDING), ("at", DESCENDING)]):
        found.setdefault(row["owner_id"], []).append(row)
    return [found.get(owner_id, [])[:MAX_DEVICES] for owner_id in owner_ids]
