"""好差评: one effective rating per service contact (一次一评) and one per finished matter (一事一评); voluntary.

Guarantees: the contact's document is the lock, so of any number who rate at once one does; the rating, its count, the mark on its case and,
for a bad one, its call-back are one transaction. A contact's id is that of the event that made it, so an event that comes twice makes one.
Text is sealed; whoever took part in the case does not get to read it.
"""

import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.cases import forms, machine, steps
from app.cases.model import Case
from app.cases.service import Cases
from app.feedback import call_backs, people, statistics
from app.feedback.model import (
    BAD_FROM, BY_HAND, CHANNELS, CONTACTS, KIND_NAMES, MATTERS, UNRATED, AlreadyRated, DeskNeeded, FollowedUp, PersonConcerned,
    RatingExpired, Rules,
)  # fmt: skip
from app.feedback.work_orders import WorkOrders
from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import format_utc, shanghai_day, utc_now
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
_SIGNATURE = 20  # hex characters: 80 bits, and the id before it is unguessable too


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
            wanted.append(_contact(event, document["owner_id"], "window" if is_intake else kind, is_online=not (is_intake or by_hand)))
        if event.name in MATTERS:
            wanted.append(_contact(event, document["owner_id"], "matter", is_online=not at_window))

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

    async def _offer(self, contact: Mapping[str, Any], session: AsyncClientSession) -> None:
        made = await self._database["contacts"].update_one({"_id": contact["_id"]}, {"$setOnInsert": dict(contact)}, upsert=True, session=session)
        if made.upserted_id is not None:
            await self._count(contact, statistics.ALL, "offered", session)

    async def contacts(self, resident_id: str, *, limit: int = 20, cursor: str | None = None) -> tuple[list[dict[str, Any]], str | None]:
        """Return what a resident may rate or has rated, newest first, and the cursor of the next page."""
        query: dict[str, Any] = {"owner_id": resident_id} | ({"_id": {"$lt": cursor}} if cursor else {})
        rows = await self._database["contacts"].find(query).sort("_id", -1).limit(limit + 1).to_list()
        return [self.view(row) for row in rows[:limit]], rows[limit - 1]["_id"] if len(rows) > limit else None

    async def contact(self, contact_id: str, resident_id: str) -> dict[str, Any]:
        """Return one contact of a resident with its rating. Raises ContactNotFound."""
        row = await self._database["contacts"].find_one({"_id": contact_id, "owner_id": resident_id})
        if row is None:
            raise ContactNotFound("没有找到这次服务，请从“我的评价”里打开。", en="No such contact.")
        rating = await self._database["evaluations"].find_one({"_id": _rating_id(contact_id)})
        return self.view(row) | {"evaluation": None if rating is None else self._rating(rating)}

    def view(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a contact as the API gives it: what it was, what can be ticked, and whether it is rated."""
        mode = "online" if row["is_online"] else "offline"
        return {
            "id": row["_id"],
            "kind": row["kind"],
            "kind_name": KIND_NAMES[row["kind"]],
            "at": format_utc(row["at"]),
            "item": {"code": row["item_code"], "name": row["item_name"]},
            "agency": {"id": row["agency_id"], "name": row["agency_name"]},
            "state": row["state"],
            "level": row.get("level"),
            "followed_up": bool(row.get("followed_up")),
            "tags": {str(level): list(tags) for level, tags in self.rules.tags[mode].items()},
        }

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

    async def _rate(self, query: Mapping[str, Any], level: int, tags: Sequence[str], text: str, channel: str) -> dict[str, Any]:
        async def work(session: AsyncClientSession) -> None:
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
        return self.view(contact)

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
        contact = _contact(moved.events[0], case.owner_id, "matter", is_online=case.channel != "window")
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
            "text_sealed": self._keys.seal(text, context=f"{rating_id}.text"),
            "channel": channel,
            "at": now,
        }
        await self._database["evaluations"].insert_one(rating, session=session)
        await self._count(contact, channel, f"level_{level}", session)
        if level >= BAD_FROM:
            concerned = await people.participants(self._database, contact["case_id"], session)
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
            sealed = self._keys.seal(text, context=f"{rating_id}.follow_up")
            change = {"$set": {"follow_up_sealed": sealed, "followed_up_at": self._clock()}}
            await self._database["evaluations"].update_one({"_id": rating_id}, change, session=session)
            await self._count(contact, statistics.ALL, "followed_up", session)

        await self._database.transaction(work)
        return await self.contact(contact_id, resident_id)

    async def _count(self, contact: Mapping[str, Any], channel: str, measure: str, session: AsyncClientSession) -> None:
        await statistics.count(
            self._database, session, agency_id=contact["agency_id"], item_code=contact["item_code"], on=contact["on"],
            channel=channel, measures={measure: 1},
        )  # fmt: skip

    # --- by a one-time code, without sign-in ---

    def code(self, contact_id: str) -> str:
        """Return the signed one-time code of a contact, for a link or a QR code: its ULID and a signature."""
        ulid = contact_id.rpartition("_")[2]
        return ulid + self._keys.blind_index(ulid, purpose="rating")[:_SIGNATURE]

    async def code_of_intake(self, case_id: str) -> str | None:
        """Return the code for the receipt of an intake, or None while it was not handed in."""
        event = await self._database["events"].find_one({"subject_id": case_id, "name": "case.submitted"}, {"_id": 1})
        return None if event is None else self.code(event["_id"])

    async def by_code(self, code: str) -> dict[str, Any]:
        """Return the contact of a code, without anything personal. Raises ContactNotFound, RatingExpired."""
        return self.view(await self._of_code(code))

    async def rate_by_code(self, code: str, level: int, tags: Sequence[str], text: str, channel: str = "qr") -> dict[str, Any]:
        """Rate by a code: one code, one rating. Raises ContactNotFound, RatingExpired, AlreadyRated, ValidationFailed."""
        contact = await self._of_code(code)
        return await self._rate({"_id": contact["_id"]}, level, tags, text, channel)

    async def rate_for(self, code: str, staff: StaffSession, level: int, tags: Sequence[str], text: str, channel: str) -> dict[str, Any]:
        """Write down what somebody says by phone or message, by the code of their receipt: the call-back desk alone. Audited.

        Raises:
            DeskNeeded, PersonConcerned, and what rate_by_code raises.
        """
        if staff.agency_id != self._superior:
            raise DeskNeeded("电话评价由回访专员登记。", en="For the call-back desk.")
        contact = await self._of_code(code)
        if await people.took_part(self._database, [contact["case_id"]], staff.account):
            raise PersonConcerned("您经办过这个办件，要由其他人登记。", en="You took part in this case.")
        await record(
            self._database["audit"], actor=staff.account, action="evaluation.recorded", subject=contact["_id"], owner_id=contact["owner_id"]
        )
        return await self._rate({"_id": contact["_id"]}, level, tags, text, channel)

    async def _of_code(self, code: str) -> dict[str, Any]:
        ulid, signature = code[:26], code[26:]
        right = [index[:_SIGNATURE] for index in self._keys.blind_indexes(ulid, purpose="rating")]
        if not code.isascii() or not any(hmac.compare_digest(signature, each) for each in right):
            raise ContactNotFound("这个评价链接不对，请核对回执上的二维码。", en="This link is not valid.")
        contact = await self._database["contacts"].find_one({"_id": f"con_{ulid}"})
        if contact is None:
            raise ContactNotFound("刚办的事还没有登记好，请过一分钟再打开。", en="Not registered yet: try again in a minute.")
        if self._clock() > contact["at"] + timedelta(days=self.rules.link_days):
            raise RatingExpired("这个评价链接过期了。登录以后仍可以在“我的评价”里评。", en="This link has expired.")
        return contact

    # --- for the head and the call-back desk ---

    async def page(
        self, staff: StaffSession, *, level: int | None = None, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return ratings, newest first, with text and tags except of cases in which this person took part. Audited.

        Raises:
            DeskNeeded: a clerk of another agency than the one that runs the hall.
        """
        query: dict[str, Any] = {} if staff.agency_id == self._superior else {"agency_id": staff.agency_id}
        if staff.role != "head" and staff.agency_id != self._superior:
            raise DeskNeeded("评价内容只对单位负责人和回访专员开放。", en="For the head of the agency and the call-back desk.")
        if level is not None:
            query["level"] = level
        if cursor:
            query["_id"] = {"$lt": cursor}
        rows = await self._database["evaluations"].find(query).sort("_id", -1).limit(limit + 1).to_list()
        shown = rows[:limit]
        hidden = await people.took_part(self._database, [row["case_id"] for row in shown], staff.account)
        await record(
            self._database["audit"], actor=staff.account, action="evaluation.list", subject=staff.agency_id, owner_id="",
            subjects=[row["_id"] for row in shown if row["case_id"] not in hidden],
        )  # fmt: skip
        return [self._staff_row(row, is_hidden=row["case_id"] in hidden) for row in shown], rows[limit - 1]["_id"] if len(rows) > limit else None

    def _staff_row(self, row: Mapping[str, Any], *, is_hidden: bool) -> dict[str, Any]:
        what = {"tags": [], "text": "", "follow_up": None} if is_hidden else self._rating(row)
        return {
            "id": row["_id"],
            "kind": row.get("kind", "matter"),
            "agency_id": row["agency_id"],
            "item": {"code": row["item_code"], "name": row.get("item_name", "")},
            "number": row.get("number", ""),
            "level": row["level"],
            "channel": row.get("channel", "h5"),
            "at": format_utc(row["at"]),
            "is_hidden": is_hidden,
            "tags": what["tags"],
            "text": what["text"],
            "follow_up": what["follow_up"],
        }

    def _rating(self, row: Mapping[str, Any]) -> dict[str, Any]:
        follow_up = row.get("follow_up_sealed")
        return {
            "level": row["level"],
            "tags": list(row["tags"]),
            # Ratings of older versions hold their text in clear.
            "text": self._keys.open_sealed(row["text_sealed"], context=f"{row['_id']}.text") if "text_sealed" in row else row.get("text", ""),
            "at": format_utc(row["at"]),
            "follow_up": self._keys.open_sealed(follow_up, context=f"{row['_id']}.follow_up") if follow_up else None,
        }

    async def statistics(self, staff: StaffSession, begin: date | None, end: date | None, agency: str | None) -> dict[str, Any]:
        """Return the statistics of an agency over a period, in all and by day, item and channel. The last 30 days by default.

        Raises:
            DeskNeeded: a clerk, or another agency than the own. ValidationFailed: a period that ends before it begins, or is too long.
        """
        if staff.role != "head" or (agency not in (None, staff.agency_id) and staff.agency_id != self._superior):
            raise DeskNeeded("评价统计只对单位负责人开放。", en="For the head of the agency.")
        today = shanghai_day(self._clock())
        end = end or today
        begin = begin or end - timedelta(days=29)
        if not timedelta(0) <= end - begin < timedelta(days=statistics.MAX_DAYS):
            raise ValidationFailed([error_row("/query/from", "period", f"起止日期要依次，最长{statistics.MAX_DAYS}天")])
        rows = await statistics.read(self._database, agency or staff.agency_id, begin, end)
        counted = self.rules.unrated_counts_after_days
        return {
            "agency": agency or staff.agency_id,
            "from": begin.isoformat(),
            "to": end.isoformat(),
            "rule_version": statistics.RULE_VERSION,
            "unrated_counts_after_days": counted,
            "totals": statistics.totals(rows, today, counted),
            "days": statistics.grouped(rows, "on"),
            "items": statistics.grouped(rows, "item_code"),
            "channels": [row for row in statistics.grouped(rows, "channel") if row["channel"] != statistics.ALL],
        }

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Give everything of a joined resident to the one that stays. Harmless when repeated."""
        for name in ("contacts", "evaluations"):
            await self._database[name].update_many({"owner_id": from_id}, {"$set": {"owner_id": into_id}})


def _contact(event: Event, owner_id: str, kind: str, *, is_online: bool) -> dict[str, Any]:
    """Return the document of a contact; that of a matter has its case's id, any other its event's."""
    source = event.subject_id if kind == "matter" else event.id
    return {
        "_id": f"con_{source.rpartition('_')[2]}",
        "kind": kind,
        "case_id": event.subject_id,
        "owner_id": owner_id,
        "number": event.data["number"],
        "item_code": event.data["item_code"],
        "item_name": event.data["item_name"],
        "agency_id": event.data["agency_id"],
        "agency_name": event.data["agency_name"],
        "is_online": is_online,
        "at": event.at,
        "on": shanghai_day(event.at).isoformat(),
        "state": UNRATED,
    }


def _rating_id(contact_id: str) -> str:
    return f"evl_{contact_id.rpartition('_')[2]}"


def _already_rated() -> AlreadyRated:
    return AlreadyRated("这次服务已经评价过了，一次服务只评一次。", en="Rated already: one rating per contact.")
