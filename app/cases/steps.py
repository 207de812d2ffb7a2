"""Steps of a case as pure functions: a case in, the changed case and its events out. No clock, no storage, no people's names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from app.cases import deadlines, machine
from app.cases.errors import ActionNotAllowed
from app.cases.model import Case, Fee, State, Suspension, TimelineEntry
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import chinese_day, shanghai_day
from app.kernel.events import Event, new_event
from app.kernel.money import yuan_text

SPECIAL_PROCEDURES = {
    "hearing": "听证",
    "tender": "招标",
    "auction": "拍卖",
    "inspection": "检验",
    "testing": "检测",
    "quarantine": "检疫",
    "identification": "鉴定",
    "expert_review": "专家评审",
    "publicity": "公示",
    "extension": "延长审批",
}

APPLICANT, HALL = "申请人", "掌上办事大厅"

_ESTIMATED = "（国务院办公厅还没有公布次年放假安排，这个日期是估算的，公布后会重新计算并告诉您）"


@dataclass(frozen=True)
class Moved:
    """A changed case and what happened to it."""

    case: Case
    events: tuple[Event, ...] = ()

    def then(self, other: "Moved") -> "Moved":
        return Moved(other.case, self.events + other.events)


def advance(
    case: Case,
    name: str,
    actor: str,
    now: datetime,
    *,
    to: State | None = None,
    event: str | None = None,
    by: str,
    title: str = "",
    detail: str = "",
    data: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Moved:
    """Take the named transition.

    Args:
        to: the target state when the table offers several or none of its own.
        event: the event's name when the table's is not the one (decide, deliver).
        by, title, detail: the line in the timeline; no title, no line.
        data: what the event says beyond the case's own facts.

    Raises:
        ActionNotAllowed: the table has no such step from this state, or a guard says no.
    """
    step = machine.transition(name, case.state)
    if step is None or step.actor != actor or not machine.possible(case, step):
        raise ActionNotAllowed(
            "办件现在的状态不能这样操作，请刷新后查看可以做什么。",
            en="This action is not allowed in the case's present state.",
            state=case.state.value,
            allowed_actions=machine.allowed_actions(case, actor),
        )
    target = to or next(iter(step.targets), case.state)
    if step.targets and target not in step.targets:
        raise ValueError(f"transition {name} does not lead to {target}")
    event_name = event or step.event
    timeline = case.timeline
    if title:
        timeline += (TimelineEntry(now, event_name or f"case.{name}", by, title, detail),)
    moved = replace(case, state=target, timeline=timeline, **changes)
    return Moved(moved, (told(moved, event_name, now, data),) if event_name else ())


def told(case: Case, name: str, now: datetime, data: Mapping[str, Any] | None = None) -> Event:
    """Return the event of a case with the facts every message needs; nothing personal in clear."""
    facts = {
        "number": case.number,
        "query_code": case.query_code,
        "item_code": case.item_code,
        "item_name": case.item_name,
        "agency_id": case.agency_id,
        "agency_name": case.agency_name,
        "state": case.state.value,
        "version": case.version + 1,
        "accept_by_on": case.accept_by_on.isoformat() if case.accept_by_on else None,
        "deadline_on": case.deadline_on.isoformat() if case.deadline_on else None,
        "deadline_estimated": case.deadline_estimated if case.deadline_on else case.accept_by_estimated,
    }
    return new_event(name, subject=("case", case.id), owner_id=case.owner_id, data={**facts, **(data or {})}, at=now)


def submit(case: Case, fees: Sequence[Fee], form: Mapping[str, Any], calendar: WorkingCalendar, now: datetime) -> Moved:
    """收件: the application is complete in form. The five days for acceptance run from here."""
    due = deadlines.accept_by(calendar, shanghai_day(now))
    moved = advance(
        replace(case, form=form, fees=tuple(fees), accept_by_on=due.on, accept_by_estimated=due.estimated),
        "submit",
        machine.RESIDENT,
        now,
        by=APPLICANT,
        title="已提交申请",
        detail=f"{case.agency_name}将在{chinese_day(due.on)}前告诉您是否受理。",
        submitted_at=now,
    )
    return moved.then(require_fee(moved.case, "on_application", now))


def supplement(case: Case, form: Mapping[str, Any], calendar: WorkingCalendar, now: datetime) -> Moved:
    """补正: what was missing has come; the five days run anew from its receipt (行政许可法 art. 32)."""
    due = deadlines.accept_by(calendar, shanghai_day(now))
    return advance(
        replace(case, form=form, accept_by_on=due.on, accept_by_estimated=due.estimated),
        "supplement",
        machine.RESIDENT,
        now,
        by=APPLICANT,
        title="已补交材料",
        detail=f"{case.agency_name}将在{chinese_day(due.on)}前告诉您是否受理。",
        supplement={**(case.supplement or {}), "returned_at": now},
    )


def require_fee(case: Case, when_paid: str, now: datetime) -> Moved:
    """Ask for the fees that fall due at this step, if there are any; the case goes on from its present state once paid."""
    waiting = [fee for fee in case.fees if fee.state == "pending" and fee.when_paid == when_paid]
    if not waiting:
        return Moved(case)
    amount_fen = sum(fee.amount_fen for fee in waiting)
    fees = tuple(replace(fee, state="due") if fee in waiting else fee for fee in case.fees)
    return advance(
        case,
        "require_fee",
        machine.SYSTEM,
        now,
        by=HALL,
        title="等待缴费",
        detail=f"需缴 {yuan_text(amount_fen)} 元：{'、'.join(fee.name for fee in waiting)}。",
        data={"amount_fen": amount_fen},
        fees=fees,
        resume_state=case.state,
    )


def refuse_payment(case: Case, order_id: str, now: datetime) -> Moved:
    """Note money that the case does not need (any more); the event makes it go back."""
    title, detail = "收到一笔不再需要的缴费", "这笔钱会按原路退回。"
    noted = replace(
        case,
        refused_orders=(*case.refused_orders, order_id),
        timeline=(*case.timeline, TimelineEntry(now, "case.payment_refused", HALL, title, detail)),
    )
    return Moved(noted, (told(noted, "case.payment_refused", now, {"order_id": order_id}),))


def fee_paid(case: Case, order_id: str, calendar: WorkingCalendar, now: datetime, has_delivery: bool) -> Moved:
    """The fee has come: the case goes on where it had stopped."""
    amount_fen = sum(fee.amount_fen for fee in case.due_fees)
    changes: dict[str, Any] = {
        "fees": tuple(
            replace(fee, state="paid", order_id=order_id) if fee.state == "due" else fee for fee in case.fees
        ),
        "resume_state": None,
    }
    if case.resume_state is State.SUBMITTED:
        # Complete only now: an unpaid application cannot be accepted, so the office's five days begin with the payment.
        due = deadlines.accept_by(calendar, shanghai_day(now))
        changes |= {"accept_by_on": due.on, "accept_by_estimated": due.estimated}
    moved = advance(
        replace(case, **changes),
        "fee_paid",
        machine.SYSTEM,
        now,
        to=case.resume_state,
        by=HALL,
        title="缴费成功",
        detail=f"已缴 {yuan_text(amount_fen)} 元，办件继续办理。",
        data={"amount_fen": amount_fen},
    )
    return moved.then(complete_if_nothing_to_deliver(moved.case, now, has_delivery))


def accept(case: Case, item: Mapping[str, Any], calendar: WorkingCalendar, now: datetime) -> Moved:
    """受理: dated; the promise is fixed here, and the earlier of promise and law binds."""
    case = with_deadline(replace(case, accepted_at=now), item, calendar)
    assert case.deadline_on is not None
    moved = advance(
        case,
        "accept",
        machine.CLERK,
        now,
        by=case.agency_name,
        title="已受理",
        detail=f"将在{chinese_day(case.deadline_on)}前作出决定。{_ESTIMATED if case.deadline_estimated else ''}",
    )
    return moved.then(require_fee(moved.case, "on_acceptance", now))


def with_deadline(case: Case, item: Mapping[str, Any], calendar: WorkingCalendar) -> Case:
    """Return an accepted case with its deadline computed from acceptance, limits and ended suspensions."""
    assert case.accepted_at is not None
    promised, legal = item["promised_limit"], item["legal_limit"]
    due = deadlines.decide_by(
        calendar,
        shanghai_day(case.accepted_at),
        (promised["days"], promised["unit"]),
        (legal["days"], legal["unit"]) if legal["days"] is not None else None,
        case.suspensions,
    )
    return replace(case, deadline_on=due.on, deadline_estimated=due.estimated)


def request_supplement(case: Case, missing: Sequence[Mapping[str, str]], now: datetime) -> Moved:
    """一次性告知: one notice that names everything that is missing, each with its reason."""
    return advance(
        case,
        "request_supplement",
        machine.CLERK,
        now,
        by=case.agency_name,
        title="请补正材料",
        detail="；".join(f"{row['name']}：{row['reason']}" for row in missing),
        data={"missing": [dict(row) for row in missing]},
        supplement={"requested_at": now, "missing": [dict(row) for row in missing], "returned_at": None},
    )


def reject(case: Case, reason: str, now: datetime) -> Moved:
    """不予受理, with the reason."""
    return advance(
        case,
        "reject",
        machine.CLERK,
        now,
        by=case.agency_name,
        title="不予受理",
        detail=reason,
        data={"reason": reason, "fee_paid": any(fee.state == "paid" for fee in case.fees)},
    )


def suspend(case: Case, kind: str, days: int, now: datetime) -> Moved:
    """特别程序: the clock stands; the expected days are told in writing (行政许可法 art. 45)."""
    name = SPECIAL_PROCEDURES.get(kind, kind)
    return advance(
        case,
        "suspend",
        machine.CLERK,
        now,
        by=case.agency_name,
        title=f"进入{name}，暂停计时",
        detail=f"预计需要 {days} 天，这段时间不计入办理期限。",
        data={"reason": name, "days": days},
        suspensions=(*case.suspensions, Suspension(kind, days, shanghai_day(now))),
    )


def resume(case: Case, item: Mapping[str, Any], calendar: WorkingCalendar, now: datetime) -> Moved:
    """The clock runs again from the next working day."""
    ended = replace(case.suspensions[-1], until_on=shanghai_day(now))
    case = with_deadline(replace(case, suspensions=(*case.suspensions[:-1], ended)), item, calendar)
    assert case.deadline_on is not None
    return advance(
        case,
        "resume",
        machine.CLERK,
        now,
        by=case.agency_name,
        title="恢复计时",
        detail=f"将在{chinese_day(case.deadline_on)}前作出决定。{_ESTIMATED if case.deadline_estimated else ''}",
    )


def decide(case: Case, outcome: str, opinion: str, now: datetime, has_delivery: bool) -> Moved:
    """The decision. Denied: with reasons; the remedies are told in the message (行政许可法 art. 38)."""
    approved = outcome == "approved"
    moved = advance(
        case,
        "decide",
        machine.CLERK,
        now,
        to=State.APPROVED if approved else State.DENIED,
        event="case.approved" if approved else "case.denied",
        by=case.agency_name,
        title="准予办理" if approved else "不予办理",
        detail=opinion,
        data={"outcome": outcome, "opinion": opinion, "reason": opinion, "has_delivery": has_delivery},
        decision={"outcome": outcome, "opinion": opinion, "at": now},
        decided_at=now,
    )
    if not approved:
        return moved
    moved = moved.then(require_fee(moved.case, "before_issue", now))
    return moved.then(complete_if_nothing_to_deliver(moved.case, now, has_delivery))


def complete_if_nothing_to_deliver(case: Case, now: datetime, has_delivery: bool) -> Moved:
    """End an approved case whose item has no delivery step: its result is on the hall's page already."""
    if case.state is not State.APPROVED or has_delivery:
        return Moved(case)
    return advance(
        case,
        "complete",
        machine.SYSTEM,
        now,
        by=case.agency_name,
        title="已办结",
        detail="结果已经可以在这里查看。",
        data={"method": "electronic"},
        delivery={"method": "electronic", "tracking": None, "at": now},
        completed_at=now,
    )


def deliver(case: Case, method: str, tracking: str | None, now: datetime) -> Moved:
    """送达: by post without a number yet: on its way; with the number, at the window, or as electronic licence: done."""
    waits_for_post = method in ("express", "post") and not tracking
    detail = {
        "electronic": "电子证照已放入您的卡包。",
        "licence": "电子证照已放入您的卡包。",
        "self": "结果已在窗口交付。",
        "window": "结果已在窗口交付。",
    }.get(method, f"结果已寄出，邮件单号 {tracking}。" if tracking else "结果正在制作和交寄，有单号后会告诉您。")
    if waits_for_post and case.state is State.DELIVERING:
        raise ActionNotAllowed(
            "已在交寄中，请填写邮件单号后再确认送达。",
            en="Already being posted: give the tracking number.",
            state=case.state.value,
            allowed_actions=machine.allowed_actions(case, machine.CLERK),
        )
    return advance(
        case,
        "deliver",
        machine.CLERK,
        now,
        to=State.DELIVERING if waits_for_post else State.COMPLETED,
        event="case.delivering" if waits_for_post else "case.completed",
        by=case.agency_name,
        title="正在送达" if waits_for_post else "已办结",
        detail=detail,
        data={"method": method, "tracking": tracking, "outcome": "approved"},
        delivery={"method": method, "tracking": tracking, "at": now},
        completed_at=None if waits_for_post else now,
    )


def withdraw(case: Case, reason: str, now: datetime) -> Moved:
    """The applicant takes the application back, before the decision."""
    return advance(
        case,
        "withdraw",
        machine.RESIDENT,
        now,
        by=APPLICANT,
        title="已撤回申请",
        detail=reason,
        data={"reason": reason, "fee_paid": any(fee.state == "paid" for fee in case.fees)},
        fees=tuple(replace(fee, state="pending") if fee.state == "due" else fee for fee in case.fees),
        resume_state=None,
    )
