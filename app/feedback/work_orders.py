"""Work orders in MongoDB (work_order.py): opened, moved, listed, watched. One document each, changed only by compare-and-set on its version.

Guarantees: a step is written with its event, its audit row and its counts in one transaction, so it is there whole or not at all; of two who
take a step at once one does; a limit that has passed is told of once per clock, by whichever worker sees it first. What people said is
sealed. Nobody deals with what is about themselves, however they came to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, datetime
from typing import Any

import structlog
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession

from app.feedback import machine, people, statistics
from app.feedback.model import DeskNeeded, PersonConcerned, Rules, StepNotAllowed
from app.feedback.work_order import LAMPS, NEVER, PERSON, SOON, WorkOrder, entry, told, with_due_day
from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import shanghai_day, utc_now
from app.kernel.crypto import KeyRing
from app.kernel.errors import NotFound, ValidationFailed, error_row
from app.storage import outbox
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

INDEXES = {
    "work_orders": [
        IndexModel([("desk_agency", ASCENDING), ("is_open", ASCENDING), ("due_on", ASCENDING), ("_id", ASCENDING)], name="of_desk"),
        IndexModel([("kind", ASCENDING), ("is_open", ASCENDING), ("due_on", ASCENDING), ("_id", ASCENDING)], name="of_kind"),
        IndexModel([("owner_id", ASCENDING), ("kind", ASCENDING), ("_id", DESCENDING)], name="of_owner"),
        IndexModel([("number", ASCENDING)], name="number", unique=True),
        IndexModel([("look_on", ASCENDING), ("_id", ASCENDING)], name="look_on", partialFilterExpression={"look_on": {"$type": "string"}}),
    ]
}
AT_MOST = 99  # counts stop there: "99+"
_BATCH = 100


class WorkOrderNotFound(NotFound):
    code = "work_order.not_found"


class WorkOrders:
    def __init__(
        self,
        database: Database,
        keys: KeyRing,
        calendar: WorkingCalendar,
        rules: Rules,
        superior: str,
        superior_name: Callable[[], str],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._orders = database["work_orders"]
        self._keys = keys
        self._calendar = calendar
        self._rules = rules
        self._superior = superior
        self._superior_name = superior_name
        self._clock = clock

    async def next_number(self, kind: str, now: datetime) -> str:
        """Return a new number, TS (complaint) or HF (call-back), day, serial. One may be skipped, none is given twice."""
        letters, day = "TS" if kind == machine.COMPLAINT else "HF", shanghai_day(now).strftime("%Y%m%d")
        counter = await self._database["counters"].find_one_and_update(
            {"_id": f"{letters}:{day}"}, {"$inc": {"value": 1}}, upsert=True, return_document=True
        )
        return f"{letters}{day}{counter['value']:04d}"

    async def insert(self, order: WorkOrder, session: AsyncClientSession) -> WorkOrder:
        """Insert a new work order and its event, in the transaction of `session`."""
        order = with_due_day(order, self._calendar, self._rules)
        await self._orders.insert_one(order.to_document(self._keys), session=session)
        name = "call_back.opened" if order.kind == machine.CALL_BACK else "complaint.submitted"
        await outbox.append(self._database, session, [told(order, name, order.created_at)])
        return order

    # --- steps ---

    async def by_resident(self, order_id: str, kind: str, resident_id: str, name: str, text: str) -> WorkOrder:
        """Let the resident take a step on their own work order.

        Raises:
            WorkOrderNotFound, StepNotAllowed, ValidationFailed (nothing was said where something must be).
        """
        query = {"_id": order_id, "kind": kind, "owner_id": resident_id}
        return await self._move(query, name, machine.RESIDENT, "", {"text": text}, None)

    async def by_staff(self, order_id: str, staff: StaffSession, name: str, body: Mapping[str, str]) -> WorkOrder:
        """Let somebody of the desk take a step. Audited.

        Raises:
            DeskNeeded, WorkOrderNotFound, PersonConcerned, StepNotAllowed, ValidationFailed.
        """
        query = {"_id": order_id, **self._seen_by(staff)}
        return await self._move(query, name, machine.HEAD if staff.role == "head" else machine.DESK, staff.account, body, staff)

    async def _move(
        self, query: Mapping[str, Any], name: str, actor: str, by: str, body: Mapping[str, str], staff: StaffSession | None
    ) -> WorkOrder:
        text = body.get("text", "").strip()

        async def work(session: AsyncClientSession) -> WorkOrder:
            order, now = await self._load(query, session), self._clock()
            if staff is not None:
                await self._require_not_concerned(order, staff, session)
            step = machine.find(order.facts, name, actor)
            if step is None:
                allowed = machine.allowed(order.facts, actor)
                raise StepNotAllowed(_refusal(order), en="This step is not allowed now.", state=order.state, allowed_actions=allowed)
            if "text" in step.needs and not text:
                raise ValidationFailed([error_row("/text", "required", "请写明情况")], "请写明情况，再提交。")
            if "reason" in step.needs and body.get("reason") not in machine.SET_ASIDE_FOR:
                raise ValidationFailed([error_row("/reason", "required", "请选择误评还是恶意评价")], "请选择误评还是恶意评价，再提交。")
            said = f"{machine.SET_ASIDE_FOR[body['reason']]}：{text}" if "reason" in step.needs else text
            moved = self._stepped(order, step, now, said, by)
            await self._save(order, moved, step, now, session)
            if by:
                await record(
                    self._database["audit"], actor=by, action=f"{order.kind}.{name}", subject=order.id, owner_id=order.owner_id, session=session
                )
            return moved

        return await self._database.transaction(work)

    def _stepped(self, order: WorkOrder, step: machine.Step, now: datetime, text: str, by: str) -> WorkOrder:
        role = {machine.RESIDENT: PERSON, machine.SYSTEM: "掌上办事大厅"}.get(step.actor, order.agency_name)
        if by and order.is_with_superior:
            role = self._superior_name()
        changes: dict[str, Any] = {"state": step.target or order.state}
        if step.restarts:
            changes["began_on"] = shanghai_day(now)
        if step.name in ("appeal", "refer"):
            changes |= {"desk_agency": self._superior, "is_with_superior": True, "extended": False}
        if step.name in ("settle", "reopen"):
            changes["is_settled"] = step.name == "settle"
        if step.name == "reopen":
            changes |= {"reopened": True, "is_settled": None}
        if step.name == "extend":
            changes["extended"] = True
        if step.actor == machine.SYSTEM:
            told_of = "told_late" if step.name == "warn" else "told_near"
            changes[told_of] = (*getattr(order, told_of), order.limit_key)
        moved = replace(
            order, **changes, version=order.version + 1, updated_at=now, log=(*order.log, entry(now, step.name, role, text, by))
        )
        # The limit of a call-back counts from the rating, whatever state it is in.
        return moved if step.actor == machine.SYSTEM else with_due_day(moved, self._calendar, self._rules)

    async def _save(
        self, before: WorkOrder, after: WorkOrder, step: machine.Step, now: datetime, session: AsyncClientSession
    ) -> None:
        result = await self._orders.replace_one(
            {"_id": before.id, "version": before.version}, after.to_document(self._keys), session=session
        )
        if not result.matched_count:
            raise StepNotAllowed("刚刚有人处理了这件，请刷新后再看。", en="It was changed meanwhile: reload.")
        if step.event:
            data = {"rule_clock": before.clock, "clock": before.clock, "due_on": before.due_on.isoformat() if before.due_on else None}
            await outbox.append(self._database, session, [told(after, step.event, now, data | {"assignee": None})])
        counts = self._counts(before, step, now)
        if counts:
            await statistics.count(
                self._database, session, agency_id=before.agency_id, item_code=before.item_code,
                on=shanghai_day(before.created_at).isoformat(), channel=statistics.ALL, measures=counts,
            )  # fmt: skip

    def _counts(self, before: WorkOrder, step: machine.Step, now: datetime) -> dict[str, int]:
        """Return what a step adds to the day of the bad rating: each of its kind once, also when it was sent back."""
        names = {"contact": "contacted", "answer": "answered", "correct": "corrected", "set_aside": "set_aside"}
        taken = {row["step"] for row in before.log}
        if before.kind != machine.CALL_BACK or step.name not in names or step.name in taken:
            return {}
        late = step.name == "contact" and before.due_on is not None and shanghai_day(now) > before.due_on
        already = step.name == "set_aside" and "contact" in taken  # called back already
        return {names[step.name]: 1} | ({"contacted_late": 1} if late else {}) | ({"contacted": -1} if already else {})

    # --- reading ---

    async def of_resident(self, order_id: str, kind: str, resident_id: str) -> WorkOrder:
        """Return a resident's own. Raises WorkOrderNotFound."""
        return await self._load({"_id": order_id, "kind": kind, "owner_id": resident_id})

    async def list_of_resident(
        self, kind: str, resident_id: str, *, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[WorkOrder], str | None]:
        """Return a resident's own, newest first, and the cursor of the next page."""
        query: dict[str, Any] = {"owner_id": resident_id, "kind": kind} | ({"_id": {"$lt": cursor}} if cursor else {})
        rows = await self._orders.find(query).sort("_id", -1).limit(limit + 1).to_list()
        return [WorkOrder.from_document(row, self._keys) for row in rows[:limit]], rows[limit - 1]["_id"] if len(rows) > limit else None

    async def read(self, order_id: str, staff: StaffSession) -> WorkOrder:
        """Return one that this person deals with. Audited. Raises DeskNeeded, WorkOrderNotFound, PersonConcerned."""
        order = await self._load({"_id": order_id, **self._seen_by(staff)})
        await self._require_not_concerned(order, staff)
        await record(self._database["audit"], actor=staff.account, action=f"{order.kind}.read", subject=order.id, owner_id=order.owner_id)
        return order

    async def page(
        self, staff: StaffSession, *, kind: str = "", state: str = "", lamp: str = "", limit: int = 20, cursor: str | None = None
    ) -> dict[str, Any]:
        """Return {orders, next_cursor, counts}: what this person deals with, the most urgent first.

        Args:
            state: one state, or `closed` for all that are over; empty: the open ones.
            lamp: of LAMPS; `counts` says of each how many the list holds, up to AT_MOST + 1.
            cursor: `<due day>~<id>`.
        """
        today = shanghai_day(self._clock())
        wanted = self._seen_by(staff)
        if kind:
            wanted = {"$and": [wanted, {"kind": kind}]}
        wanted = {"$and": [wanted, {"is_open": False} if state == "closed" else {"state": state} if state else {"is_open": True}]}
        query: dict[str, Any] = {"$and": [wanted, _of_lamp(lamp, today)]} if lamp else wanted
        counts = {
            name: await self._orders.count_documents({"$and": [wanted, _of_lamp(name, today)]}, limit=AT_MOST + 1) for name in LAMPS
        }
        counts["all"] = await self._orders.count_documents(wanted, limit=AT_MOST + 1)
        if cursor:
            due, _, last = cursor.partition("~")
            query = {"$and": [query, {"$or": [{"due_on": {"$gt": due}}, {"due_on": due, "_id": {"$gt": last}}]}]}
        rows = await self._orders.find(query).sort([("due_on", 1), ("_id", 1)]).limit(limit + 1).to_list()
        more = len(rows) > limit
        orders = [WorkOrder.from_document(row, self._keys) for row in rows[:limit]]
        return {
            "orders": orders,
            "next_cursor": f"{rows[limit - 1]['due_on']}~{rows[limit - 1]['_id']}" if more else None,
            "counts": counts,
        }

    def may_deal(self, staff: StaffSession) -> bool:
        """Say whether this person deals with work orders at all: heads, and the call-back desk."""
        return staff.role == "head" or staff.agency_id == self._superior

    def rank(self, staff: StaffSession) -> str:
        return machine.HEAD if staff.role == "head" else machine.DESK

    def today(self) -> date:
        return shanghai_day(self._clock())

    def _seen_by(self, staff: StaffSession) -> dict[str, Any]:
        mine: dict[str, Any] = {"concerned": {"$ne": staff.account}}
        if staff.agency_id == self._superior:
            if staff.role == "head":
                return mine | {"$or": [{"desk_agency": self._superior}, {"kind": machine.CALL_BACK}]}
            return mine | {"kind": machine.CALL_BACK}
        if staff.role != "head":
            raise DeskNeeded("回访和投诉由单位负责人或回访专员处理。", en="For the head of the agency or the call-back desk.")
        return mine | {"desk_agency": staff.agency_id}

    async def _require_not_concerned(self, order: WorkOrder, staff: StaffSession, session: AsyncClientSession | None = None) -> None:
        is_concerned = staff.account in order.concerned
        if order.case_id and not is_concerned:
            is_concerned = bool(await people.took_part(self._database, [order.case_id], staff.account, session))
        if is_concerned:
            raise PersonConcerned("您经办过这个办件，要由其他人处理。", en="You took part in this case: somebody else must do it.")

    async def _load(self, query: Mapping[str, Any], session: AsyncClientSession | None = None) -> WorkOrder:
        document = await self._orders.find_one(query, session=session)
        if document is None:
            raise WorkOrderNotFound("没有找到这件，请回到列表看看。", en="No such work order.")
        return WorkOrder.from_document(document, self._keys)

    # --- the hall itself ---

    async def sweep(self) -> int:
        """Tell of every limit that is near or has passed; return how many. Any number of workers may call this; each is told of once."""
        today, passed, after = shanghai_day(self._clock()), 0, ("", "")
        due = {"$type": "string", "$lte": today.isoformat()}
        while True:
            behind = {"$or": [{"look_on": {"$gt": after[0]}}, {"look_on": after[0], "_id": {"$gt": after[1]}}]}
            rows = await self._orders.find({"look_on": due, **behind}, {"look_on": 1}).sort([("look_on", 1), ("_id", 1)]).limit(_BATCH).to_list()
            if not rows:
                return passed
            for row in rows:
                after = (row["look_on"], row["_id"])
                try:
                    passed += await self._database.transaction(lambda session, row=row: self._warn(row["_id"], today, session))
                except StepNotAllowed:  # somebody was faster
                    continue
                except Exception as error:  # a sweep must outlive whatever one of them meets
                    log.warning("work_order.sweep_failed", work_order=row["_id"], exc_info=error)

    async def _warn(self, order_id: str, today: date, session: AsyncClientSession) -> bool:
        stored = await self._load({"_id": order_id}, session)
        # A day guessed before the notice of its year must not make anybody late.
        order = with_due_day(stored, self._calendar, self._rules) if stored.is_estimated else stored
        now = self._clock()
        if order.look_on is not None and order.look_on <= today:
            # Who was away for days is told that it is late, and no more that it is near.
            is_late = order.due_on is not None and order.due_on < today
            step = machine.find(order.facts, "warn" if is_late else "warn_near", machine.SYSTEM)
            assert step is not None
            await self._save(order, self._stepped(order, step, now, "", ""), step, now, session)
            return True
        if order != stored:
            counted = replace(order, version=order.version + 1)
            await self._orders.replace_one({"_id": order.id, "version": order.version}, counted.to_document(self._keys), session=session)
        return False

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Give everything of a joined resident to the one that stays. Harmless when repeated."""
        await self._orders.update_many({"owner_id": from_id}, {"$set": {"owner_id": into_id}, "$inc": {"version": 1}})


def _refusal(order: WorkOrder) -> str:
    return f"现在是“{machine.STATE_NAMES[order.kind][order.state]}”，不能这样操作，请刷新后查看可以做什么。"


def _of_lamp(lamp: str, today: date) -> dict[str, Any]:
    day, soon = today.isoformat(), (today + SOON).isoformat()
    return {
        "red": {"due_on": {"$lt": day}},
        "yellow": {"due_on": {"$gte": day, "$lte": soon}},
        "green": {"due_on": {"$gt": soon, "$lt": NEVER}},
        "none": {"due_on": NEVER},
    }[lamp]
