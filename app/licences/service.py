"""The wallet: licences that finished cases issued, and what they may stand in for."""

from collections.abc import Callable, Collection, Mapping
from datetime import date
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.kernel.clock import shanghai_day, utc_now
from app.kernel.errors import Conflict, NotFound
from app.kernel.events import Event
from app.kernel.ids import new_id, random_digits
from app.storage.mongo import Database

INDEXES = {
    "licences": [
        IndexModel([("holder_id", ASCENDING), ("_id", ASCENDING)], name="of_holder"),
        IndexModel([("event_id", ASCENDING)], name="one_per_event", unique=True),
    ]
}


class LicenceNotFound(NotFound):
    code = "licence.not_found"


class LicenceNotUsable(Conflict):
    """Expired, annulled, or of another type than the material asks for."""

    code = "licence.not_usable"


class Licences:
    """
    A licence: {id, type, name, number, holder_id, issuer_id, issuer, issued_on, valid_to (None = long), state: valid | annulled}.
    """

    def __init__(self, database: Database, licence_type: Callable[[str], Mapping[str, Any]]) -> None:
        """`licence_type` gives the catalogue's row of a licence type by its code."""
        self._licences = database["licences"]
        self._type_of = licence_type

    async def issue(self, event: Event, licence_type: str) -> None:
        """Put the licence of a completed case into its owner's wallet. One per event, however often it is handed over."""
        kind = self._type_of(licence_type)
        now = utc_now()
        try:
            await self._licences.insert_one(
                {
                    "_id": new_id("lic"),
                    "event_id": event.id,
                    "holder_id": event.owner_id,
                    "type": licence_type,
                    "name": kind["name"],
                    "number": f"{licence_type.removeprefix('LIC-')}{shanghai_day(now):%Y%m%d}{random_digits(6)}",
                    "issuer_id": event.data["agency_id"],
                    "issuer": event.data["agency_name"],
                    "issued_on": shanghai_day(now).isoformat(),
                    "valid_to": None,
                    "state": "valid",
                    "case_id": event.subject_id,
                }
            )
        except DuplicateKeyError:
            pass

    async def wallet(self, resident_id: str) -> list[dict[str, Any]]:
        """Return a resident's licences, newest first."""
        documents = await self._licences.find({"holder_id": resident_id}).sort("_id", -1).limit(100).to_list()
        return [view(document) for document in documents]

    async def usable(self, licence_id: str, resident_id: str, licence_type: str) -> Mapping[str, Any]:
        """Return a licence that may stand in for a material of this type.

        Raises:
            LicenceNotFound: no such licence, or somebody else's.
            LicenceNotUsable: another type, expired or annulled.
        """
        document = await self._licences.find_one({"_id": licence_id, "holder_id": resident_id})
        if document is None:
            raise LicenceNotFound("卡包里没有这张证照。", en="No such licence in your wallet.")
        expired = document["valid_to"] and date.fromisoformat(document["valid_to"]) < shanghai_day(utc_now())
        if document["type"] != licence_type or document["state"] != "valid" or expired:
            raise LicenceNotUsable("这张证照不能代替这项材料：类型不符、已过期或已作废。", en="The licence cannot stand in.")
        return view(document)

    async def valid(
        self, licence_ids: Collection[str], session: AsyncClientSession | None = None
    ) -> dict[tuple[str, str], str]:
        """Return those of these licences that can stand in for a material of their holder today: (holder, id) -> type."""
        today = shanghai_day(utc_now()).isoformat()
        query = {"_id": {"$in": list(licence_ids)}, "state": "valid", "$or": [{"valid_to": None}, {"valid_to": {"$gte": today}}]}
        documents = await self._licences.find(query, {"type": 1, "holder_id": 1}, session=session).to_list()
        return {(document["holder_id"], document["_id"]): document["type"] for document in documents}

    async def prefill_sources(self, resident_id: str) -> Mapping[str, str]:
        """Return `licence:<type>.<field>` -> value for forms. The wallet's licences carry numbers only so far."""
        documents = await self._licences.find({"holder_id": resident_id, "state": "valid"}).limit(100).to_list()
        return {f"licence:{document['type']}.number": document["number"] for document in documents}

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Give the licences of a joined resident to the one that stays. Harmless when repeated."""
        await self._licences.update_many({"holder_id": from_id}, {"$set": {"holder_id": into_id}})


def view(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a licence as the API shows it to its holder."""
    return {
        "id": document["_id"],
        "type": document["type"],
        "name": document["name"],
        "number": document["number"],
        "issuer": document["issuer"],
        "issued_on": document["issued_on"],
        "valid_to": document["valid_to"],
        "state": document["state"],
        "case_id": document["case_id"],
    }
