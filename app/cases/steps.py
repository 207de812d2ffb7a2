"""Steps of a case as pure functions: a case in, the changed case and its events out. No clock, no storage, no people's names.

Here: how a step is taken, the days that follow from it, and the steps of the applicant and of fees. The agency's are in handling.py, what
comes later or is put right in promises.py and corrections.py, what the hall does when a day has passed in sweeps.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.cases import deadlines, machine
from app.cases.errors import ActionNotAllowed
from app.cases.model import Case, Fee, State, Suspension, TimelineEntry, renewal_ends_on
from app.cases.procedure import DELIVERY_LIMIT, NOTICE_LIMIT, rule, rules_of
from app.kernel.calendar import DueDay, WorkingCalendar
from app.kernel.clock import chinese_day, shanghai_day
from app.kernel.events import Event, new_event
from app.kernel.money import yuan_text
from app.kernel.records import replace

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
    by: str,
    title: str = "",
    detail: str = "",
    data: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Moved:
    """Take the named transition.

    Args:
        to: the target state, when the table's rows of this name lead to several.
        by, title, detail: the line in the timeline; no title, no line.
        data: what the event says beyond the case's own facts.

    Raises:
        ActionNotAllowed: the table has no such step from this state for this actor, or a guard says no.
    """
    today = shanghai_day(now)
    step = machine.find(case, name, actor, today, to)
    if step is None:
        raise ActionNotAllowed(
            machine.refusal(case, name, actor, today, to),
            en="This action is not allowed in the case's present state.",
            state=case.state.value,
            allowed_actions=machine.allowed_actions(case, actor, today),
        )
    timeline = case.timeline
    if title:
        timeline += (TimelineEntry(now, step.event or f"case.{name}", by, title, detail),)
    moved = replace(case, state=step.target or case.state, timeline=timeline, **changes)
    return Moved(moved, (told(moved, step.event, now, data),) if step.event else ())


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


def with_acceptance_day(case: Case, calendar: WorkingCalendar) -> Case:
    """Return a case with the day by which acceptance must be decided, computed from the day on which it was received."""
    assert case.received_at is not None
    start = shanghai_day(case.received_at)
    due = calendar.add(start, *rule(case.rules, "notice", NOTICE_LIMIT))
    warn_on = deadlines.warn_on(calendar, start, due.on)
    return replace(case, accept_by_on=due.on, accept_by_estimated=due.estimated, warn_on=warn_on)


def with_deadline(case: Case, item: Mapping[str, Any], calendar: WorkingCalendar) -> Case:
    """Return an accepted case with its deadline computed from acceptance, limits, ended stops and the extension.

    What is renewed in time must be decided before the old term ends (行政许可法 art. 50), however long the limits are.
    """
    assert case.accepted_at is not None
    promised, legal, extension = item["promised_limit"], item["legal_limit"], case.extension
    due = deadlines.decide_by(
        calendar,
        shanghai_day(case.accepted_at),
        (promised["days"], promised["unit"]),
        (legal["days"], legal["unit"]) if legal["days"] is not None else None,
        case.suspensions,
        (extension["days"], extension["unit"]) if extension else None,
    )
    ends_on = renewal_ends_on(case)
    if ends_on is not None and ends_on < due.on:
        due = DueDay(ends_on, False)
    warn_on = deadlines.warn_on(calendar, shanghai_day(case.accepted_at), due.on, case.suspensions)
    return replace(case, deadline_on=due.on, deadline_estimated=due.estimated, warn_on=warn_on)


def with_delivery_day(case: Case, calendar: WorkingCalendar, now: datetime) -> Case:
    """Return a decided case with the day by which its result must be handed over (行政许可法 art. 44)."""
    due_on = calendar.add(shanghai_day(now), *rule(case.rules, "delivery", DELIVERY_LIMIT)).on
    return replace(case, deliver_by_on=due_on, warn_on=deadlines.warn_on(calendar, shanghai_day(now), due_on))


def recounted(case: Case, item: Mapping[str, Any], calendar: WorkingCalendar) -> Case:
    """Return a case with every day of the office counted again by the calendar as it is now; the same case when nothing moved.

    Days that were told to the applicant in a notice (bring it by, expected end of a procedure) stay as they were told.
    """
    counted = case
    if case.clock == "acceptance" and case.received_at is not None:
        counted = with_acceptance_day(case, calendar)
    elif case.clock == "delivery" and case.decided_at is not None:
        # A fee before issue stood between: the time runs from its payment.
        paid = [entry.at for entry in case.timeline if entry.event == "case.fee_paid"]
        counted = with_delivery_day(case, calendar, max(case.decided_at, *paid) if paid else case.decided_at)
    elif case.accepted_at is not None and case.decided_at is None:
        counted = with_deadline(case, item, calendar)
        if case.clock is None:  # it warns of what it waits for now, and of the decision when the clock runs again
            counted = replace(counted, warn_on=case.warn_on)
    return case if counted == case else counted


def will_decide(case: Case) -> str:
    """Return the sentence that names the day of the decision."""
    assert case.deadline_on is not None
    return f"将在{chinese_day(case.deadline_on)}前作出决定。{_ESTIMATED if case.deadline_estimated else ''}"


def _will_answer(case: Case) -> str:
    assert case.accept_by_on is not None
    return f"{case.agency_name}将在{chinese_day(case.accept_by_on)}前告诉您是否受理。"


# --- the resident ---


def submit(
    case: Case, item: Mapping[str, Any], fees: Sequence[Fee], form: Mapping[str, Any], calendar: WorkingCalendar, now: datetime
) -> Moved:
    """收件: the application is complete in form. The time for acceptance runs from here, or from the payment of a fee due now."""
    case = replace(case, form=form, fees=tuple(fees), rules=rules_of(item), received_at=now)
    case = with_acceptance_day(case, calendar)
    moved = advance(
        case, "submit", machine.RESIDENT, now, by=APPLICANT, title="已提交申请", detail=_will_answer(case), submitted_at=now
    )
    return moved.then(require_fee(moved.case, "on_application", now))


def supplement(case: Case, form: Mapping[str, Any], calendar: WorkingCalendar, now: datetime, taken_in_by: str | None = None) -> Moved:
    """补正: what was missing has come; the time for acceptance runs anew from its receipt (行政许可法 art. 32).

    `taken_in_by` is the clerk at whose window it came.
    """
    returned = {**(case.supplement or {}), "returned_at": now}
    if taken_in_by is not None:
        returned["taken_in_by"] = taken_in_by
    case = with_acceptance_day(replace(case, form=form, received_at=now, supplement=returned, pre_review=None), calendar)
    moved = advance(case, "supplement", machine.RESIDENT, now, by=APPLICANT, title="已补交材料", detail=_will_answer(case))
    return moved.then(require_fee(moved.case, "on_application", now))  # other answers may cost more


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
        data={"reason": reason, "fee_paid": has_paid(case)},
        fees=tuple(replace(fee, state="pending") if fee.state == "due" else fee for fee in case.fees),
        resume_state=None,
    )


# --- fees ---


def require_fee(case: Case, when_paid: str, now: datetime) -> Moved:
    """Ask for the fees that fall due at this step, if there are any; the case goes on from its present state once paid.

    While the applicant owes a fee no clock of the office runs.
    """
    waiting = [fee for fee in case.fees if fee.state == "pending" and fee.when_paid == when_paid]
    if not waiting:
        return Moved(case)
    amount_fen = sum(fee.amount_fen for fee in waiting)
    changes: dict[str, Any] = {"resume_state": case.state, "fee_due_on": shanghai_day(now)}
    if case.clock == "decision":
        changes["suspensions"] = (*case.suspensions, Suspension("payment", 0, shanghai_day(now)))
    return advance(
        case,
        "require_fee",
        machine.SYSTEM,
        now,
        by=HALL,
        title="等待缴费",
        detail=f"需缴 {yuan_text(amount_fen)} 元：{'、'.join(fee.name for fee in waiting)}。",
        data={"amount_fen": amount_fen, "rule": "、".join(dict.fromkeys(fee.basis for fee in waiting if fee.basis))},
        fees=tuple(replace(fee, state="due") if fee in waiting else fee for fee in case.fees),
        **changes,
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


def fee_refunded(case: Case, order_id: str, refund_id: str, amount_fen: int, now: datetime) -> Moved:
    """Note that money of an order has gone back; the case stays where it is. Once per refund."""
    if refund_id in case.noted_refunds:
        return Moved(case)
    fees, rest = [], amount_fen
    for fee in case.fees:
        back = min(rest, fee.amount_fen - fee.refunded_fen) if fee.order_id == order_id else 0
        rest -= back
        refunded_fen = fee.refunded_fen + back
        state = "refunded" if back and refunded_fen == fee.amount_fen else fee.state
        fees.append(replace(fee, refunded_fen=refunded_fen, state=state))
    detail = f"已退回 {yuan_text(amount_fen)} 元，按原路退到付款时用的账户。"
    noted = replace(
        case,
        fees=tuple(fees),
        noted_refunds=(*case.noted_refunds, refund_id),
        timeline=(*case.timeline, TimelineEntry(now, "case.fee_refunded", HALL, "费用已退回", detail)),
    )
    return Moved(noted)


def fee_paid(
    case: Case, order_id: str, item: Mapping[str, Any], calendar: WorkingCalendar, now: datetime, has_delivery: bool
) -> Moved:
    """The fee has come: the case goes on where it had stopped, and the clock of that step with it."""
    amount_fen = sum(fee.amount_fen for fee in case.due_fees)
    fees = tuple(replace(fee, state="paid", order_id=order_id) if fee.state == "due" else fee for fee in case.fees)
    going_on = replace(case, fees=fees, fee_due_on=None)
    if case.resume_state is State.SUBMITTED:
        # Complete only now: an unpaid application cannot be accepted, so the office's time begins with the payment.
        going_on = with_acceptance_day(replace(going_on, received_at=now), calendar)
    elif case.resume_state is State.ACCEPTED:
        going_on = with_deadline(stop_ended(going_on, now), item, calendar)
    else:
        going_on = with_delivery_day(going_on, calendar, now)
    moved = advance(
        going_on,
        "fee_paid",
        machine.SYSTEM,
        now,
        to=case.resume_state,
        by=HALL,
        title="缴费成功",
        detail=f"已缴 {yuan_text(amount_fen)} 元，办件继续办理。",
        data={"amount_fen": amount_fen},
        resume_state=None,
    )
    return moved.then(complete_if_nothing_to_deliver(moved.case, now, has_delivery))


def stop_ended(case: Case, now: datetime) -> Case:
    """Return a case whose running stop of the clock, if there is one, has ended now."""
    # A case from before payments stopped the clock has no open stop.
    if not case.suspensions or case.suspensions[-1].until_on is not None:
        return case
    ended = replace(case.suspensions[-1], until_on=shanghai_day(now))
    return replace(case, suspensions=(*case.suspensions[:-1], ended))


def has_paid(case: Case) -> bool:
    """Say whether the applicant has paid a fee of this case."""
    return any(fee.state == "paid" for fee in case.fees)


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
