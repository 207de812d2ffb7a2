"""Cases in MongoDB: one document per case, changed only by compare-and-set on its version."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pymongo import ASCENDING, IndexModel, ReplaceOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.cases import applicants, listed
from app.cases.documents import from_document, to_document
from app.cases.errors import CaseConflict, CaseNotFound
from app.cases.model import Case
from app.kernel.clock import SHANGHAI, utc_now
from app.kernel.crypto import KeyRing
from app.kernel.events import Event
from app.kernel.ids import ulid
from app.kernel.records import replace
from app.storage import outbox
from app.storage.mongo import Database

INDEXES = {
    "cases": [
        IndexModel([("owner_id", ASCENDING), ("_id", ASCENDING)], name="of_owner"),
        IndexModel([("owner_id", ASCENDING), ("state", ASCENDING), ("_id", ASCENDING)], name="of_owner_by_state"),
        IndexModel([("number", ASCENDING)], name="number", unique=True),
        # One draft for all pages that were opened on the same cases (drafts.beginning).
        IndexModel(
            [("owner_id", ASCENDING), ("begun_as", ASCENDING)],
            name="begun_as",
            unique=True,
            partialFilterExpression={"begun_as": {"$type": "string"}},
        ),
        *listed.INDEXES,
        *applicants.INDEXES,
        IndexModel(
            [("agency_id", ASCENDING), ("sample.state", ASCENDING), ("_id", ASCENDING)],
            name="samples",
            partialFilterExpression={"sample.state": {"$exists": True}},
        ),
        # What the sweep looks for: the days on which the hall itself must look at a case.
        IndexModel(
            [("look_on", ASCENDING), ("_id", ASCENDING)], name="look_on", partialFilterExpression={"look_on": {"$type": "string"}}
        ),
        IndexModel([("is_estimated", ASCENDING), ("_id", ASCENDING)], name="estimated", partialFilterExpression={"is_estimated": True}),
    ],
    "counters": [],  # by _id, what is counted
    "renewals": [],  # by _id, the licence (renewals.py)
}


@dataclass(frozen=True)
class Change:
    """A changed case that is to be written, what happened to it, and the keys of its personal answers."""

    case: Case
    events: Sequence[Event]
    personal: frozenset[str]


class CaseStore:
    def __init__(self, database: Database, keys: KeyRing) -> None:
        self._database = database
        self._cases = database["cases"]
        self._keys = keys

    @property
    def collection(self) -> Any:
        """The documents, for the lists of queue.py and search.py."""
        return self._cases

    def opened(self, documents: Sequence[Mapping[str, Any]]) -> list[Case]:
        return [from_document(document, self._keys) for document in documents]

    def _document(self, case: Case, personal: frozenset[str]) -> dict[str, Any]:
        return to_document(case, self._keys, personal) | listed.listed(case, self._keys)

    async def next_number(self, item_code: str) -> str:
        """Return a new case number: item code 31 + day 8 + serial of at least 4 (the layout observed in the province).

        The serial is one counter per item and day, outside any transaction: a number may be skipped, never given twice.
        """
        day = utc_now().astimezone(SHANGHAI).strftime("%Y%m%d")
        counter = await self._database["counters"].find_one_and_update(
            {"_id": f"case:{item_code}:{day}"}, {"$inc": {"value": 1}}, upsert=True, return_document=True
        )
        return f"{item_code}{day}{counter['value']:04d}"

    async def insert(self, case: Case, events: Sequence[Event], personal: frozenset[str]) -> Case:
        """Insert a new case and its events; when its id or its `begun_as` exists already (a retry, another tab), return that case."""

        async def work(session: AsyncClientSession) -> None:
            await self._cases.insert_one(self._document(case, personal), session=session)
            await outbox.append(self._database, session, events)

        try:
            await self._database.transaction(work)
        except DuplicateKeyError:
            same: list[dict[str, Any]] = [{"_id": case.id}]
            if case.begun_as is not None:
                same.append({"begun_as": case.begun_as})
            document = await self._cases.find_one({"owner_id": case.owner_id, "$or": same})
            if document is None:  # the id is taken by somebody else's case
                raise CaseConflict("请返回上一页，刷新后再试一次。", en="This id is taken: start again.") from None
            return from_document(document, self._keys)
        return case

    async def load(self, query: Mapping[str, Any], session: AsyncClientSession | None = None) -> Case:
        """Return the one case that fits. Raises CaseNotFound."""
        document = await self._cases.find_one(query, session=session)
        if document is None:
            raise CaseNotFound
        return from_document(document, self._keys)

    async def agencies_of(self, case_id: str) -> set[str]:
        """Return the agencies that have to do with a case now: whose it is, and the departments that were asked."""
        row = await self._cases.find_one({"_id": case_id}, {"agency_id": 1, "departments.agency_id": 1})
        return {row["agency_id"], *(one["agency_id"] for one in row.get("departments", ()))} if row else set()

    async def load_all(self, case_ids: Sequence[str], session: AsyncClientSession) -> dict[str, Case | Exception]:
        """Return cases by id; one that is not there is left out, of one that cannot be read what is wrong with it."""
        found: dict[str, Case | Exception] = {}
        for document in await self._cases.find({"_id": {"$in": list(case_ids)}}, session=session).to_list():
            try:
                found[document["_id"]] = from_document(document, self._keys)
            except Exception as error:
                found[document["_id"]] = error
        return found

    async def hold(self, case_ids: Collection[str], owner_ids: Collection[str], session: AsyncClientSession) -> None:
        """Let nobody else write these cases of these owners until the transaction of `session` has ended: other writers wait.

        It takes a write that changes something; `held_by` means nothing to anybody, and whatever replaces the document next leaves it out.
        """
        same = {"_id": {"$in": list(case_ids)}, "owner_id": {"$in": list(owner_ids)}}
        await self._cases.update_many(same, {"$set": {"held_by": ulid()}}, session=session)

    async def save(
        self, case: Case, events: Sequence[Event], personal: frozenset[str], session: AsyncClientSession | None = None
    ) -> Case:
        """Write a changed case and its events, both in the transaction of `session`; without events none is needed.

        Raises:
            CaseConflict: the stored version is no longer `case.version`; nothing was written.
        """
        if session is not None:
            return (await self.save_all([Change(case, events, personal)], session))[0]
        newer, same, document = self._newer(case, personal)
        if (await self._cases.replace_one(same, document)).matched_count == 0:
            raise _conflict(case.id)
        return newer

    async def save_all(self, changes: Sequence[Change], session: AsyncClientSession) -> list[Case]:
        """Write changed cases, each another one, and all their events in the transaction of `session`.

        Raises:
            CaseConflict: the stored version of one is not the one that was changed; nothing was written.
        """
        if not changes:
            return []
        written = [self._newer(change.case, change.personal) for change in changes]
        result = await self._cases.bulk_write([ReplaceOne(same, document) for _newer, same, document in written], session=session)
        if result.matched_count != len(written):
            raise _conflict(*(change.case.id for change in changes))
        await outbox.append(self._database, session, [event for change in changes for event in change.events])
        return [newer for newer, _same, _document in written]

    def _newer(self, case: Case, personal: frozenset[str]) -> tuple[Case, dict[str, Any], dict[str, Any]]:
        """Return a changed case as it is written, the filter that finds what it was changed from, and its document.

        The version sits in the filter: a check after reading would let two clerks through.
        """
        newer = replace(case, version=case.version + 1, updated_at=utc_now())
        return newer, {"_id": case.id, "version": case.version}, self._document(newer, personal)

    async def page(
        self, query: Mapping[str, Any], sort: list[tuple[str, int]], limit: int
    ) -> tuple[list[Case], bool]:
        """Return up to `limit` cases in order, and whether there are more."""
        documents = await self._cases.find(query).sort(sort).limit(limit + 1).to_list()
        return self.opened(documents[:limit]), len(documents) > limit

    async def to_look_at(self, on: date, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
        """Return (day, case id) of up to `limit` cases whose day has come, in order, after the one given."""
        day, case_id = after
        query = {
            "look_on": {"$type": "string", "$lte": on.isoformat()},
            "$or": [{"look_on": {"$gt": day}}, {"look_on": day, "_id": {"$gt": case_id}}],
        }
        cursor = self._cases.find(query, {"look_on": 1}).sort([("look_on", 1), ("_id", 1)]).limit(limit)
        return [(document["look_on"], document["_id"]) async for document in cursor]

    async def estimated(self, after: str, limit: int) -> list[str]:
        """Return the ids of up to `limit` open cases with an estimated day, in order, after the one given."""
        cursor = self._cases.find({"is_estimated": True, "_id": {"$gt": after}}, {"_id": 1}).sort("_id", 1).limit(limit)
        return [document["_id"] async for document in cursor]

    async def due_since(self, day: date, after: str, limit: int) -> tuple[list[str], str]:
        """Read `limit` cases in order after the one given; return the ids of the open ones that are due on `day` or later, and the last id read.

        Bounded by what is read and not by what is found, so that each call is short however many cases are closed. At the end the last
        id is empty.
        """
        shown = {"is_open": 1, "accept_by_on": 1, "deadline_on": 1, "deliver_by_on": 1}
        read = await self._cases.find({"_id": {"$gt": after}}, shown).sort("_id", 1).limit(limit).to_list()
        since = day.isoformat()
        found = [
            row["_id"]
            for row in read
            if row.get("is_open") and any((row.get(name) or "") >= since for name in ("accept_by_on", "deadline_on", "deliver_by_on"))
        ]
        return found, read[-1]["_id"] if len(read) == limit else ""

    async def list_anew(self) -> int:
        """Write what lists and searches go by beside every case of older rules; return how many were. Streamed, and may be repeated.

        A case that changes meanwhile was written by its change: the filter holds the version that was read.
        """
        count = 0
        async for document in self._cases.find({"listed_version": {"$ne": listed.VERSION}}).batch_size(500):
            fields = listed.listed(from_document(document, self._keys), self._keys)
            same = {"_id": document["_id"], "version": document["version"], "listed_version": document.get("listed_version")}
            count += (await self._cases.update_one(same, {"$set": fields})).modified_count
        return count

    async def accepted_of(self, owner_id: str, limit: int) -> list[dict[str, Any]]:
        """Return what was handed in with a resident's accepted cases, newest first: {id, number, item_code, item_version, accepted_at, materials}."""
        wanted = ["number", "item_code", "item_version", "accepted_at", "materials"]
        query = {"owner_id": owner_id, "accepted_at": {"$ne": None}, "state": {"$ne": "denied"}}
        documents = await self._cases.find(query, wanted).sort("_id", -1).limit(limit).to_list()
        return [{**document, "id": document["_id"]} for document in documents]

    async def reassign_owner(self, from_id: str, into_id: str) -> None:
        """Give all cases of a joined resident to the one that stays. Harmless when repeated.

        The version moves too, so that a writer who loaded the case before cannot put the old owner back.
        """
        await self._cases.update_many({"owner_id": from_id}, {"$set": {"owner_id": into_id}, "$inc": {"version": 1}})


def _conflict(*case_ids: str) -> CaseConflict:
    return CaseConflict("办件刚刚被更新，请刷新后再操作。", en="The case was changed meanwhile.", case_id=",".join(case_ids))
