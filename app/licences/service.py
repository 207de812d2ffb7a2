"""The wallet: licences that finished cases issued, and what they may stand in for."""

from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.kernel.clock import shanghai_day, utc_now
from app.kernel.errors import Conflict, NotFound
from app.kernel.events import Event
from app.kernel.ids import new_id, random_digits
from app.licences import terms
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
    A licence: {id, type, name, number, holder_id, issuer_id, issuer, issued_on, valid_from, valid_to, basis, years,
    state: valid | annulled, case_id, renewed_by}. Days are Shanghai days, both ends included; `basis` says what no `valid_to` means (terms.py).
    """

    def __init__(
        self, database: Database, licence_type: Callable[[str], Mapping[str, Any]], clock: Callable[[], datetime] = utc_now
    ) -> None:
        """`licence_type` gives the catalogue's row of a licence type by its code."""
        self._licences = database["licences"]
        self._type_of = licence_type
        self._clock = clock

    async def issue(
        self,
        event: Event,
        licence_type: str,
        *,
        own: Mapping[str, Any] | None = None,
        born_on: date | None = None,
        renews: str | None = None,
        in_time: bool = False,
    ) -> Mapping[str, Any]:
        """Put the licence of a completed case into its owner's wallet, and return it. One per event, however often it is handed over.

        Args:
            own: the item's own rule of the term (`result.terms`), when it has one that fits.
            born_on: the day of birth of whom it is about, where the term goes by age.
            renews, in_time: the licence that the case has renewed, and whether it was applied for in time (terms.term_of).
        """
        kind = self._type_of(licence_type)
        issued_on = shanghai_day(event.at)
        is_beside = bool(own and own.get("beside"))  # an endorsement, say: the document itself goes on
        before = None if is_beside else await self._earlier(event, licence_type, renews)
        earlier = _term(before) if before else None
        term = terms.term_of(
            kind["validity"], issued_on, own=own, born_on=born_on, earlier=earlier, is_renewal=renews is not None, in_time=in_time
        )
        licence = {
            "_id": new_id("lic"),
            "event_id": event.id,
            "holder_id": event.owner_id,
            "type": licence_type,
            "name": own["name"] if own and "name" in own else kind["name"],
            "number": f"{licence_type.removeprefix('LIC-')}{issued_on:%Y%m%d}{random_digits(6)}",
            "issuer_id": event.data["agency_id"],
            "issuer": event.data["agency_name"],
            "issued_on": issued_on.isoformat(),
            "valid_from": term.valid_from.isoformat(),
            "valid_to": term.valid_to.isoformat() if term.valid_to else None,
            "basis": term.basis,
            "years": term.years,
            "state": "valid",
            "case_id": event.subject_id,
        }
        try:
            await self._licences.insert_one(licence)
        except DuplicateKeyError:
            licence = await self._licences.find_one({"event_id": event.id}) or licence
        # After the insert, so that who dies between them does it when the event comes again.
        if not is_beside and (renews is not None or kind.get("one_per_holder")):
            older = {"holder_id": event.owner_id, "type": licence_type, "_id": {"$lt": licence["_id"]}, "renewed_by": None}
            await self._licences.update_many(older | ({"_id": renews} if renews else {}), {"$set": {"renewed_by": licence["_id"]}})
        return licence

    async def _earlier(self, event: Event, licence_type: str, renews: str | None) -> Mapping[str, Any] | None:
        """Return the licence that a new one takes the place of: the one that is renewed, else the newest of its kind."""
        query: dict[str, Any] = {"holder_id": event.owner_id, "type": licence_type, "event_id": {"$ne": event.id}}
        return await self._licences.find_one(query | ({"_id": renews} if renews else {}), sort=[("_id", -1)])

    async def renewable(self, holder_id: str, licence_type: str, on: date, preferred: Collection[str] = ()) -> Mapping[str, Any] | None:
        """Return the holder's licence of this type that can be renewed on that day: dated, valid then, not renewed yet.

        Args:
            preferred: ids that go first, such as those handed in with the application; otherwise the one that ends first.
        """
        query = {"holder_id": holder_id, "type": licence_type, "state": "valid", "renewed_by": None, "valid_to": {"$gte": on.isoformat()}}
        found = await self._licences.find(query).sort([("valid_to", 1), ("_id", 1)]).limit(100).to_list()
        return min(found, key=lambda licence: licence["_id"] not in preferred, default=None)

    async def replaced(self, licence: Mapping[str, Any]) -> list[str]:
        """Return the ids of the licences that this one took the place of."""
        older = {"holder_id": licence["holder_id"], "renewed_by": licence["_id"]}
        return [row["_id"] async for row in self._licences.find(older, {"_id": 1})]

    async def wallet(self, resident_id: str) -> list[dict[str, Any]]:
        """Return a resident's licences, newest first."""
        documents = await self._licences.find({"holder_id": resident_id}).sort("_id", -1).limit(100).to_list()
        today = shanghai_day(self._clock())
        return [view(document, today) for document in documents]

    async def usable(self, licence_id: str, resident_id: str, licence_type: str) -> Mapping[str, Any]:
        """Return a licence that may stand in for a material of this type.

        Raises:
            LicenceNotFound: no such licence, or somebody else's.
            LicenceNotUsable: another type, expired or annulled.
        """
        document = await self._licences.find_one({"_id": licence_id, "holder_id": resident_id})
        if document is None:
            raise LicenceNotFound("卡包里没有这张证照。", en="No such licence in your wallet.")
        today = shanghai_day(self._clock())
        if document["type"] != licence_type or document["state"] != "valid" or is_expired(document, today):
            raise LicenceNotUsable("这张证照不能代替这项材料：类型不符、已过期或已作废。", en="The licence cannot stand in.")
        return view(document, today)

    async def valid(
        self, licence_ids: Collection[str], session: AsyncClientSession | None = None
    ) -> dict[tuple[str, str], str]:
        """Return those of these licences that can stand in for a material of their holder today: (holder, id) -> type."""
        today = shanghai_day(self._clock()).isoformat()
        query = {"_id": {"$in": list(licence_ids)}, "state": "valid", "$or": [{"valid_to": None}, {"valid_to": {"$gte": today}}]}
        documents = await self._licences.find(query, {"type": 1, "holder_id": 1}, session=session).to_list()
        return {(document["holder_id"], document["_id"]): document["type"] for document in documents}

    async def prefill_sources(self, resident_id: str) -> Mapping[str, str]:
        """Return `licence:<type>.<field>` -> value for forms. The wallet's licences carry numbers only so far."""
        documents = await self._licences.find({"holder_id": resident_id, "state": "valid"}).sort("_id", 1).limit(100).to_list()
        today = shanghai_day(self._clock())
        return {f"licence:{document['type']}.number": document["number"] for document in documents if not is_expired(document, today)}

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Give the licences of a joined resident to the one that stays. Harmless when repeated."""
        await self._licences.update_many({"holder_id": from_id}, {"$set": {"holder_id": into_id}})


def is_expired(document: Mapping[str, Any], today: date) -> bool:
    """Say whether a licence has run out: its last day is still good."""
    return bool(document["valid_to"]) and date.fromisoformat(document["valid_to"]) < today


def view(document: Mapping[str, Any], today: date) -> dict[str, Any]:
    """Return a licence as the API shows it to its holder.

    `state`: valid, expired, annulled. `days_left`: to the last valid day, 0 on it, None when there is no day (`basis` says why).
    """
    valid_to = document["valid_to"]
    expired = document["state"] == "valid" and is_expired(document, today)
    return {
        "id": document["_id"],
        "type": document["type"],
        "name": document["name"],
        "number": document["number"],
        "issuer": document["issuer"],
        "issued_on": document["issued_on"],
        "valid_from": document.get("valid_from", document["issued_on"]),
        "valid_to": valid_to,
        "basis": document.get("basis", terms.DATED if valid_to else terms.ON_DOCUMENT),
        "days_left": (date.fromisoformat(valid_to) - today).days if valid_to and not expired else None,
        "is_renewed": document.get("renewed_by") is not None,
        "state": "expired" if expired else document["state"],
        "case_id": document["case_id"],
    }


def _term(document: Mapping[str, Any]) -> terms.Term:
    def day(text: str | None) -> date | None:
        return date.fromisoformat(text) if text else None

    begun = day(document.get("valid_from")) or date.fromisoformat(document["issued_on"])
    basis = document.get("basis", terms.DATED if document["valid_to"] else terms.ON_DOCUMENT)
    return terms.Term(begun, day(document["valid_to"]), basis, document.get("years"))
