"""好差评: one effective rating per service contact or consultation (一次一评) and one per finished matter (一事一评); voluntary.

Guarantees: the contact's document is the lock, so of any number who rate at once one does; the rating, its count, the mark on its case and,
for a bad one, its call-back are one transaction. A contact's id is that of the event that made it, so an event that comes twice makes one.
Text is sealed; whoever took part in the case does not get to read it.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.cases import forms, machine, steps
from app.cases.model import Case
from app.cases.service import Cases
from app.feedback import call_backs, contacts, people, statistics
from app.feedback.model import (
    BAD_FROM,
    BY_HAND,
    CHANNELS,
    CONTACTS,
    MATTERS,
    UNRATED,
    AlreadyRated,
    DeskNeeded,
    FollowedUp,
    PersonConcerned,
    RatingExpired,
    Rules,
)  # fmt: skip
from app.feedback.sealing import opened, sealed
from app.feedback.work_orders import WorkOrders
from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import utc_now
from app.kernel.crypto import KeyRing
from app.kernel.errors import NotFound, ValidationFailed, error_row
from app.kernel.events import Event
from app.storage.mongo import Database

INDEXES = {
    "contacts": [
        IndexModel([("owner_id", ASCENDING), ("_id", DESCENDING)], name="of_owner"),
        IndexModel([("case_id", ASCENDING), ("_id", ASCENDING)], name="of_case"),
    ],
    "evaluations": [
        # The name is older than ratings of contacts: then there was one per case in all.
        IndexModel([("case_id", ASCENDING)], name="one_per_case", unique=True, partialFilterExpression={"kind": "matter"}),
        IndexModel([("agency_id", ASCENDING), ("_id", DESCENDING)], name="of_agency"),
        IndexModel([("owner_id", ASCENDING), ("_id", DESCENDING)], name="of_owner"),
    ],
}
_CLOCKS_APART = timedelta(minutes=5)


class ContactNotFound(NotFound):
    code = "evaluation.contact_not_found"


class Evaluations:
    def __init__(
        self,
        database: Database,
        cases: Cases,
        keys: KeyRing,
        work_orders: WorkOrders,
        rules: Rules,
        superior: str,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._cases = cases
        self._keys = keys
        self._work_orders = work_orders
        self.rules = rules
        self._superior = superior
        self._clock = clock

    # --- contacts ---

    async def note(self, event: Event) -> None:
        """Make the contacts of an event of a case: what may be rated from now on. Once, however often the event comes."""
        kind = CONTACTS.get(event.name)
        document = await self._database["cases"].find_one({"_id": event.subject_id}, {"owner_id": 1, "channel": 1})
        if document is None:
            return
        by_hand = event.name == "case.completed" and event.data.get("method") in BY_HAND
        at_window = document.get("channel") == "window"
        wanted = []
        if kind is not None and (event.name != "case.completed" or by_hand):
            is_intake = kind == "submission" and at_window
            wanted.append(contacts.of_event(event, document["owner_id"], "window" if is_intake else kind, is_online=not (is_intake or by_hand)))
        if event.name in MATTERS:
            wanted.append(contacts.of_event(event, document["owner_id"], "matter", is_online=not at_window))

        async def work(session: AsyncClientSession) -> None:
            for contact in wanted:
                await self._offer(contact, session)

        await self._once(work)

    async def _once(self, work: Callable[[AsyncClientSession], Any]) -> Any:
        # Two that make one contact, or a day's first count, at one moment: the loser of the unique index runs again and finds it.
        for _ in range(3):
            try:
                return await self._database.transaction(work)
            except DuplicateKeyError:
                continue
        return await self._database.transaction(work)

    async def _offer(self, contact: Mapping[str, Any], session: AsyncClientSession) -> bool:
        """Insert a contact and count it, or find that it is there; say whether it is new."""
        made = await self._database["contacts"].update_one({"_id": contact["_id"]}, {"$setOnInsert": dict(contact)}, upsert=True, session=session)
        if made.upserted_id is not None:
            await self._count(contact, statistics.ALL, "offered", session)
        return made.upserted_id is not None

    async def contacts(self, resident_id: str, *, limit: int = 20, cursor: str | None = None) -> tuple[list[dict[str, Any]], str | None]:
        """Return what a resident may rate or has rated, newest first, and the cursor of the next page."""
        query: dict[str, Any] = {"owner_id": resident_id} | ({"_id": {"$lt": cursor}} if cursor else {})
        rows = await self._database["contacts"].find(query).sort("_id", -1).limit(limit + 1).to_list()
        return [contacts.view(row, self.rules) for row in rows[:limit]], rows[limit - 1]["_id"] if len(rows) > limit else None

    async def contact(self, contact_id: str, resident_id: str) -> dict[str, Any]:
        """Return one contact of a resident with its rating. Raises ContactNotFound."""
        row = await self._database["contacts"].find_one({"_id": contact_id, "owner_id": resident_id})
        if row is None:
            raise ContactNotFound("没有找到这次服务，请从“我的评价”里打开。", en="No such contact.")
        rating = await self._database["evaluations"].find_one({"_id": _rating_id(contact_id)})
        return contacts.view(row, self.rules) | {"evaluation": None if rating is None else opened(rating, self._keys)}

    # --- rating ---

    async def evaluate(
        self, case_id: str, resident_id: str, level: int, tags: Sequence[str], text: str, channel: str = "h5"
    ) -> Case:
        """Rate a finished matter, once. The rating and the case's mark are written in one transaction.

        Raises:
            CaseNotFound, ActionNotAllowed (not finished, or rated already), ValidationFailed (an unknown channel).
        """

        async def work(session: AsyncClientSession) -> Case:
            case = await self._cases.store.load({"_id": case_id, "owner_id": resident_id}, session)
            return await self._rate_matter(case, level, tags, text, channel, session)

        case: Case = await self._once(work)
        return case

    async def rate(self, contact_id: str, resident_id: str, level: int, tags: Sequence[str], text: str, channel: str = "h5") -> dict[str, Any]:
        """Rate a contact, once. Raises ContactNotFound, AlreadyRated, ValidationFailed (an unknown channel)."""
        query = {"_id": contact_id, "owner_id": resident_id}
        return await self._rate(query, level, tags, text, channel)

    async def _rate(
        self, query: Mapping[str, Any], level: int, tags: Sequence[str], text: str, channel: str, begun: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """`begun`: a contact that may not be stored yet."""

        async def work(session: AsyncClientSession) -> None:
            if begun is not None and begun["kind"] == contacts.CONSULTATION and begun["state"] == UNRATED:
                await self._offer(begun, session)
            contact = await self._database["contacts"].find_one(query, session=session)
            if contact is None:
                raise ContactNotFound("没有找到这次服务，请从“我的评价”里打开。", en="No such contact.")
            if contact["state"] != UNRATED:
                raise _already_rated()
            if contact["kind"] == "matter":
                case = await self._cases.store.load({"_id": contact["case_id"]}, session)
                await self._rate_matter(case, level, tags, text, channel, session)
            else:
                await self._keep(contact, level, tags, text, channel, session)

        await self._once(work)
        contact = await self._database["contacts"].find_one({"_id": query["_id"]})
        assert contact is not None
        return contacts.view(contact, self.rules)

    async def _rate_matter(
        self, case: Case, level: int, tags: Sequence[str], text: str, channel: str, session: AsyncClientSession
    ) -> Case:
        item = await self._cases.catalogue.item_at(case.item_code, case.item_version)
        now = self._clock()
        moved = steps.advance(
            case,
            "evaluate",
            machine.RESIDENT,
            now,
            by=steps.APPLICANT,
            title="已评价",
            data={"level": level},
            evaluation_level=level,
        )
        contact = contacts.of_event(moved.events[0], case.owner_id, "matter", is_online=case.channel != "window")
        await self._offer(contact, session)  # rated before its event was handled, or while the result is on its way
        stored = await self._database["contacts"].find_one({"_id": contact["_id"]}, session=session)
        assert stored is not None
        await self._keep(stored, level, tags, text, channel, session)
        return await self._cases.store.save(moved.case, moved.events, forms.personal_keys(item), session)

    async def _keep(
        self, contact: Mapping[str, Any], level: int, tags: Sequence[str], text: str, channel: str, session: AsyncClientSession
    ) -> None:
        """Write a rating, its count and, for a bad one, its call-back."""
        known = self.rules.tags["online" if contact["is_online"] else "offline"][level]
        # Words of another channel's own list are the resident's words: kept, and sealed like all free text.
        text = "\n".join(filter(None, ["、".join(tag for tag in dict.fromkeys(tags) if tag not in known), text]))
        if channel not in CHANNELS:
            raise ValidationFailed([error_row("/channel", "unknown", "没有这种评价渠道")])
        now, rating_id = self._clock(), _rating_id(contact["_id"])
        mine = {"_id": contact["_id"], "state": UNRATED}
        marked = await self._database["contacts"].update_one(mine, {"$set": {"state": "rated", "level": level, "rated_at": now}}, session=session)
        if not marked.modified_count:
            raise _already_rated()
        kept = ("kind", "case_id", "owner_id", "agency_id", "agency_name", "item_code", "item_name", "number", "is_online", "on")
        rating = {name: contact[name] for name in kept} | {
            "_id": rating_id,
            "contact_id": contact["_id"],
            "level": level,
            "tags": [tag for tag in dict.fromkeys(tags) if tag in known],
            "text_sealed": sealed(text, rating_id, self._keys),
            "channel": channel,
            "at": now,
        }
        await self._database["evaluations"].insert_one(rating, session=session)
        await self._count(contact, channel, f"level_{level}", session)
        if level >= BAD_FROM:
            concerned = await people.participants(self._database, contacts.subject_of(contact), session)
            desk = await people.desk_for(self._database, contact["agency_id"], concerned, self._superior, session)
            number = await self._work_orders.next_number("call_back", now)
            opened = call_backs.opened_by(rating, text, number, concerned, desk, is_with_superior=desk == self._superior, now=now)
            await self._work_orders.insert(opened, session)

    async def follow_up(self, contact_id: str, resident_id: str, text: str) -> dict[str, Any]:
        """追评: add a text once; the first rating stays as it is. Raises ContactNotFound, FollowedUp (or not rated yet)."""

        async def work(session: AsyncClientSession) -> None:
            query = {"_id": contact_id, "owner_id": resident_id}
            contact = await self._database["contacts"].find_one(query, session=session)
            if contact is None:
                raise ContactNotFound("没有找到这次服务，请从“我的评价”里打开。", en="No such contact.")
            mine = query | {"state": "rated", "followed_up": {"$ne": True}}
            marked = await self._database["contacts"].update_one(mine, {"$set": {"followed_up": True}}, session=session)
            if not marked.modified_count:
                said = "这次服务已经追评过了。" if contact["state"] == "rated" else "请先评价，再追评。"
                raise FollowedUp(said, en="Rate first; a follow-up can be added once.")
            rating_id = _rating_id(contact_id)
            added = self._keys.seal(text, context=f"{rating_id}.follow_up")
            change = {"$set": {"follow_up_sealed": added, "followed_up_at": self._clock()}}
            await self._database["evaluations"].update_one({"_id": rating_id}, change, session=session)
            await self._count(contact, statistics.ALL, "followed_up", session)

        await self._database.transaction(work)
        return await self.contact(contact_id, resident_id)

    async def _count(self, contact: Mapping[str, Any], channel: str, measure: str, session: AsyncClientSession) -> None:
        await statistics.count(
            self._database, session, agency_id=contact["agency_id"], item_code=contact["item_code"], on=contact["on"],
            channel=channel, measures={measure: 1},
        )  # fmt: skip

    # --- consultations ---

    async def consulted(self, staff: StaffSession, contact_id: str, item_code: str = "") -> dict[str, Any]:
        """Make the contact of a consultation at a window: whoever asked may rate it once, by its code. The same `contact_id` again is the same one.

        Audited, so that whoever was asked is known, and does not read what is written of it. Raises ItemNotFound.
        """
        catalogue = self._cases.catalogue
        item = catalogue.item(item_code) if item_code else None
        contact = contacts.of_consultation(contact_id, self._clock(), catalogue.agency(staff.agency_id), is_online=False, item=item)

        async def work(session: AsyncClientSession) -> None:
            if await self._offer(contact, session):
                await record(
                    self._database["audit"], actor=staff.account, action="consultation.open", subject=contact_id, owner_id="", session=session
                )

        await self._once(work)
        stored = await self._database["contacts"].find_one({"_id": contact_id})
        assert stored is not None
        return contacts.view(stored, self.rules) | {"code": self.code(contact_id)}

    def code_of_conversation(self, conversation_id: str) -> str | None:
        """Return the code to rate a conversation with the assistant, or None for an id that the hall did not give. Nothing is stored until it is used."""
        try:
            began = contacts.began_at(conversation_id)
        except ValueError:
            return None
        is_known = self._clock() - timedelta(days=self.rules.link_days) < began < self._clock() + _CLOCKS_APART
        return contacts.code(self._keys, conversation_id, contacts.CONVERSATION) if is_known else None

    def is_conversation(self, code: str) -> bool:
        """Say whether a code is a conversation's: made by whoever asks for one, so that how many are rated must be limited."""
        read = contacts.read_code(self._keys, code)
        return read is not None and read[1] == contacts.CONVERSATION

    # --- by a one-time code, without sign-in ---

    def code(self, contact_id: str) -> str:
        """Return the signed one-time code of a contact, for a link or a QR code."""
        return contacts.code(self._keys, contact_id)

    async def code_of_intake(self, case_id: str) -> str | None:
        """Return the code for the receipt of an intake, or None while it was not handed in."""
        event = await self._database["events"].find_one({"subject_id": case_id, "name": "case.submitted"}, {"_id": 1})
        return None if event is None else self.code(event["_id"])

    async def by_code(self, code: str) -> dict[str, Any]:
        """Return the contact of a code, without anything personal. Raises ContactNotFound, RatingExpired."""
        return contacts.view(await self._of_code(code), self.rules)

    async def rate_by_code(self, code: str, level: int, tags: Sequence[str], text: str, channel: str = "qr") -> dict[str, Any]:
        """Rate by a code: one code, one rating. Raises ContactNotFound, RatingExpired, AlreadyRated, ValidationFailed."""
        contact = await self._of_code(code)
        return await self._rate({"_id": contact["_id"]}, level, tags, text, channel, contact)

    async def rate_for(self, code: str, staff: StaffSession, level: int, tags: Sequence[str], text: str, channel: str) -> dict[str, Any]:
        """Write down what somebody says by phone or message, by the code of their receipt: the call-back desk alone. Audited.

        Raises:
            DeskNeeded, PersonConcerned, and what rate_by_code raises.
        """
        if staff.agency_id != self._superior:
            raise DeskNeeded("电话评价由回访专员登记。", en="For the call-back desk.")
        contact = await self._of_code(code)
        if await people.took_part(self._database, [contacts.subject_of(contact)], staff.account):
            raise PersonConcerned("您经办过这个办件，要由其他人登记。", en="You took part in this case.")
        await record(
            self._database["audit"], actor=staff.account, action="evaluation.recorded", subject=contact["_id"], owner_id=contact["owner_id"]
        )
        return await self._rate({"_id": contact["_id"]}, level, tags, text, channel, contact)

    async def _of_code(self, code: str) -> dict[str, Any]:
        """Return the contact of a code; that of a conversation may not be stored yet."""
        read = contacts.read_code(self._keys, code)
        if read is None:
            raise ContactNotFound("这个评价链接不对，请核对回执上的二维码。", en="This link is not valid.")
        ulid, purpose = read
        begun = None
        if purpose == contacts.CONVERSATION:
            begun = contacts.of_conversation(f"conv_{ulid}", self._keys, self._cases.catalogue.agency(self._superior))
        contact = await self._database["contacts"].find_one({"_id": begun["_id"] if begun else f"con_{ulid}"}) or begun
        if contact is None:
            raise ContactNotFound("刚办的事还没有登记好，请过一分钟再打开。", en="Not registered yet: try again in a minute.")
        if self._clock() > contact["at"] + timedelta(days=self.rules.link_days):
            more = "登录以后仍可以在“我的评价”里评。" if contact["owner_id"] else ""
            raise RatingExpired("这个评价链接过期了。" + more, en="This link has expired.")
        return contact

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Give everything of a joined resident to the one that stays. Harmless when repeated."""
        for name in ("contacts", "evaluations"):
            await self._database[name].update_many({"owner_id": from_id}, {"$set": {"owner_id": into_id}})


def _rating_id(contact_id: str) -> str:
    return f"evl_{contact_id.rpartition('_')[2]}"


def _already_rated() -> AlreadyRated:
    return AlreadyRated("这次服务已经评价过了，一次服务只评一次。", en="Rated already: one rating per contact.")
