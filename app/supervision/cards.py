"""Yellow and red cards (监察记录): what the supervision of time has found, told to whoever must act, and to the superior when nobody does.

The hall's own steps find that a day is near or past (app/cases/sweeps.py), once per clock; a card is made of the event that tells so. An
event may come twice, late, or after the one that ended its clock: all that is written of a case goes through one document of that case,
which holds the events that were counted and the version at which each clock ended. So a card is made once, counted once
(app/supervision/measures.py), and is not left open when its clock has ended, whatever came first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import shanghai_day, utc_now
from app.kernel.events import Event, new_event
from app.storage import outbox
from app.storage.mongo import Database
from app.supervision import measures

ESCALATE_WORKING_DAYS = 3  # local rule: a red card nobody has handled for so long is the superior's

INDEXES = {
    "cards": [
        IndexModel([("agency_id", ASCENDING), ("is_open", ASCENDING), ("_id", DESCENDING)], name="of_agency"),
        IndexModel([("case_id", ASCENDING)], name="of_case"),
        IndexModel([("escalate_on", ASCENDING), ("_id", ASCENDING)], name="to_escalate", partialFilterExpression={"is_waiting": True}),
        IndexModel([("is_open", ASCENDING), ("_id", DESCENDING)], name="escalated", partialFilterExpression={"is_escalated": True}),
    ],
    "supervised_cases": [],  # by _id, the case
}


@dataclass(frozen=True)
class Rule:
    """When a card is made.

    Attributes:
        key: 规则编号.
        card: yellow or red.
        event: what it is made of; `when` names what the event's data must say.
        clock: with whose end it is settled by itself.
        to: clerk (the assignee, or all while nobody has the case) or head.
        name: what it says.
    """

    key: str
    card: str
    event: str
    when: Mapping[str, Any]
    clock: str
    to: str
    name: str


RULES: tuple[Rule, ...] = (
    Rule("acceptance_near", "yellow", "case.warned", {"card": "yellow", "clock": "acceptance"}, "acceptance", "clerk", "受理期限快到"),
    Rule("decision_near", "yellow", "case.warned", {"card": "yellow", "clock": "decision"}, "decision", "clerk", "决定期限快到"),
    Rule("delivery_near", "yellow", "case.warned", {"card": "yellow", "clock": "delivery"}, "delivery", "clerk", "送达期限快到"),
    Rule("procedure_over", "yellow", "case.suspension_overdue", {}, "procedure", "clerk", "特别程序超过告知的时间"),
    Rule("noticed_again", "yellow", "case.supplement_requested", {"by_superior": True}, "decision", "head", "不止一次告知补正"),
    Rule("department_silent", "yellow", "case.department_silent", {}, "decision", "head", "有部门逾期没有反馈"),
    Rule("contact_near", "yellow", "call_back.near", {"clock": "contact"}, "contact", "head", "差评回访期限快到"),
    Rule("call_back_near", "yellow", "call_back.near", {"clock": "answer"}, "answer", "head", "差评答复期限快到"),
    Rule("correction_near", "yellow", "call_back.near", {"clock": "correction"}, "correction", "head", "差评整改期限快到"),
    Rule("complaint_acceptance_near", "yellow", "complaint.near", {"clock": "acceptance"}, "acceptance", "head", "投诉受理期限快到"),
    Rule("complaint_answer_near", "yellow", "complaint.near", {"clock": "answer"}, "answer", "head", "投诉答复期限快到"),
    Rule("acceptance_silent", "red", "case.deemed_accepted", {"card": "red"}, "decision", "head", "逾期没有告知，依法视为受理"),
    Rule("decision_over", "red", "case.warned", {"card": "red", "clock": "decision"}, "decision", "head", "逾期没有作出决定"),
    Rule("renewal_silent", "red", "case.deemed_renewed", {"card": "red"}, "delivery", "head", "有效期届满前没有决定，依法视为准予延续"),
    Rule("delivery_over", "red", "case.warned", {"card": "red", "clock": "delivery"}, "delivery", "head", "逾期没有送达"),
    Rule("contact_over", "red", "call_back.overdue", {"clock": "contact"}, "contact", "head", "差评没有按时回访"),
    Rule("call_back_over", "red", "call_back.overdue", {"clock": "answer"}, "answer", "head", "差评没有按时答复"),
    Rule("correction_over", "red", "call_back.overdue", {"clock": "correction"}, "correction", "head", "差评没有按时整改"),
    Rule("complaint_silent", "red", "complaint.overdue", {"clock": "acceptance"}, "acceptance", "head", "投诉没有按时受理"),
    Rule("complaint_over", "red", "complaint.overdue", {"clock": "answer"}, "answer", "head", "投诉没有按时答复"),
)

# The clocks that an event ends.
_ALL = ("acceptance", "decision", "delivery", "procedure")
ENDS: Mapping[str, tuple[str, ...]] = {
    "case.supplement_requested": ("acceptance",),
    "case.accepted": ("acceptance",),
    "case.deemed_accepted": ("acceptance",),
    "case.resumed": ("procedure",),
    "case.approved": ("acceptance", "decision", "procedure"),
    "case.deemed_renewed": ("acceptance", "decision", "procedure"),
    "case.denied": _ALL,
    "case.not_accepted": _ALL,
    "case.supplement_expired": _ALL,
    "case.withdrawn": _ALL,
    "case.completed": _ALL,
    "call_back.contacted": ("contact",),
    "call_back.answered": ("answer",),
    "call_back.corrected": ("correction",),
    "call_back.closed": ("correction",),
    "call_back.set_aside": ("contact", "answer"),
    "complaint.accepted": ("acceptance",),
    "complaint.extended": ("answer",),
    "complaint.answered": ("answer",),
    "complaint.refused": ("acceptance",),
    "complaint.withdrawn": ("acceptance", "answer"),
    "complaint.referred": ("acceptance", "answer"),
    "call_back.referred": ("contact", "answer"),
}
EVENTS = tuple(sorted({rule.event for rule in RULES} | set(ENDS)))


def rule_for(event: Event) -> Rule | None:
    """Return the rule by which an event is a card, or None."""
    for rule in RULES:
        if rule.event == event.name and all(event.data.get(name) == value for name, value in rule.when.items()):
            return rule
    return None


class Cards:
    def __init__(self, database: Database, calendar: WorkingCalendar, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._calendar = calendar
        self._clock = clock

    async def note(self, event: Event) -> None:
        """Take an event of a case in: make its card, settle what it ends, count it. Once, however often it comes, in any order."""

        async def work(session: AsyncClientSession) -> None:
            version = event.data["version"]
            ends = ENDS.get(event.name, ())
            before = await self._database["supervised_cases"].find_one_and_update(
                {"_id": event.subject_id},
                {"$addToSet": {"counted": event.id}, "$max": {f"ended.{clock}": version for clock in ends} or {"seen": version}},
                upsert=True,
                session=session,
            )
            if before is not None and event.id in before.get("counted", ()):
                return
            rule = rule_for(event)
            if ends:
                await self._settle(event, ends, session)
            if rule is not None:
                ended_at_version = (before or {}).get("ended", {}).get(rule.clock, 0)
                await self._database["cards"].insert_one(self._card(event, rule, is_open=ended_at_version <= version), session=session)
            await measures.count(self._database, event.data["agency_id"], shanghai_day(event.at), _counts(event, rule), session)

        await self._database.transaction(work)

    async def _settle(self, event: Event, clocks: tuple[str, ...], session: AsyncClientSession) -> None:
        mine = {"case_id": event.subject_id, "clock": {"$in": list(clocks)}, "version": {"$lt": event.data["version"]}, "is_open": True}
        done = {"is_open": False, "is_waiting": False, "handled_at": event.at, "handled_by": event.name}
        await self._database["cards"].update_many(mine, {"$set": done}, session=session)

    def _card(self, event: Event, rule: Rule, *, is_open: bool) -> dict[str, Any]:
        data = event.data
        escalate_on = self._calendar.add_working_days(shanghai_day(event.at), ESCALATE_WORKING_DAYS).on
        is_red = rule.card == "red"
        return {
            "_id": f"card_{event.id.rpartition('_')[2]}",
            "case_id": event.subject_id,  # of whatever kind the subject is
            "kind": event.subject_kind,
            "owner_id": event.owner_id,
            "number": data["number"],
            "item_code": data["item_code"],
            "item_name": data["item_name"],
            "agency_id": data["agency_id"],
            "agency_name": data["agency_name"],
            "version": data["version"],
            "rule": rule.key,
            "card": rule.card,
            "clock": rule.clock,
            "to": rule.to,
            "assignee": data.get("assignee"),
            "at": event.at,
            "due_on": data.get("due_on") or data.get("silent_until_on") or data.get("expected_on"),
            "is_open": is_open,
            "escalate_on": escalate_on.isoformat() if is_red else None,
            "is_waiting": is_red and is_open,
            "is_escalated": False,
        }

    async def escalate_due(self) -> int:
        """Pass on every red card that nobody has handled in time; return how many. Any number of workers may call this."""
        now, passed = self._clock(), 0
        today = shanghai_day(now)
        while (card := await self._next(today)) is not None:

            async def work(session: AsyncClientSession, card: Mapping[str, Any] = card) -> bool:
                mine = {"_id": card["_id"], "is_waiting": True}
                step = {"is_waiting": False, "is_escalated": True, "escalated_at": now}
                done = await self._database["cards"].update_one(mine, {"$set": step}, session=session)
                if not done.modified_count:  # settled, or passed on by another worker
                    return False
                await measures.count(self._database, card["agency_id"], today, {"escalated": 1}, session)
                await outbox.append(self._database, session, [_escalated(card, now)])
                return True

            passed += await self._database.transaction(work)
        return passed

    async def _next(self, today: date) -> dict[str, Any] | None:
        query = {"is_waiting": True, "escalate_on": {"$lte": today.isoformat()}}
        return await self._database["cards"].find_one(query, sort=[("escalate_on", 1), ("_id", 1)])


def _escalated(card: Mapping[str, Any], now: datetime) -> Event:
    kept = ("number", "item_code", "item_name", "agency_id", "agency_name", "card", "rule", "clock", "due_on")
    data = {name: card[name] for name in kept} | {"card_id": card["_id"], "deadline_on": card["due_on"]}
    kind = card.get("kind", "case")  # cards of older versions are all of cases
    return new_event(f"{kind}.escalated", subject=(kind, card["case_id"]), owner_id=card["owner_id"], data=data, at=now)


def _counts(event: Event, rule: Rule | None) -> dict[str, int]:
    """Return what an event adds to its agency's day."""
    counts = {rule.card: 1} if rule is not None else {}
    if event.name == "case.deemed_accepted":
        counts["deemed_accepted"] = 1
    if event.name == "case.deemed_renewed":  # the law has decided what the office had not
        counts["late"] = 1
    if event.name == "case.supplement_requested":
        counts["noticed_again" if event.data.get("by_superior") else "noticed"] = 1
    deadline = event.data.get("deadline_on")
    if event.name in ("case.approved", "case.denied") and deadline:
        decided = shanghai_day(event.at).isoformat()
        counts["early" if decided < deadline else "on_time" if decided == deadline else "late"] = 1
    return counts
