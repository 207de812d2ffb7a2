"""The agency's steps of a case, pure like steps.py: pre-review, notice, acceptance, special procedures, extension, decision, delivery.

Source: 行政许可法 art. 32 (acceptance), 38 (reasons and remedies), 42 (extension), 44 (delivery), 45 (what stops the clock).
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from app.cases import deadlines, hearings, machine, promises, routing
from app.cases.model import Case, State, Suspension
from app.cases.procedure import REMIND_WORKING_DAYS_BEFORE, SUPPLEMENT_LIMIT, rule
from app.cases.steps import (
    HALL,
    Moved,
    advance,
    complete_if_nothing_to_deliver,
    has_paid,
    require_fee,
    stop_ended,
    will_decide,
    with_deadline,
    with_delivery_day,
)
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import chinese_day, shanghai_day
from app.kernel.errors import ValidationFailed, error_row
from app.kernel.records import replace

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
}

# Result codes of the province's exchange (办结结果代码).
RETURNED, NEVER_COMPLETED = "1", "5"


def pre_review(case: Case, note: str, now: datetime) -> Moved:
    """预审: everything seems to be in order; acceptance still follows."""
    return advance(
        case,
        "pre_review",
        machine.CLERK,
        now,
        by=case.agency_name,
        title="预审通过",
        detail=note,
        data={"reason": note},
        pre_review={"at": now, "note": note},
    )


def accept(
    case: Case, item: Mapping[str, Any], calendar: WorkingCalendar, now: datetime, due_days: Mapping[str, date] | None = None
) -> Moved:
    """受理: dated; the promise is fixed here, and the earlier of promise and law binds.

    Args:
        due_days: by when what was promised comes, by material; what is not named follows the general rule.
    """
    case = with_deadline(replace(case, accepted_at=now), item, calendar)
    case = promises.with_due_days(case, calendar, now, due_days or {})
    moved = advance(
        case,
        "accept",
        machine.CLERK,
        now,
        by=case.agency_name,
        title="已受理",
        detail=will_decide(case) + promises.sentence(case),
        data={"missing": promises.rows(case)},
    )
    return begin_review(moved, calendar, now)


def begin_review(moved: Moved, calendar: WorkingCalendar, now: datetime) -> Moved:
    """What follows an acceptance: the stages begin, the departments are asked at once, and a fee may fall due."""
    moved = Moved(routing.with_stages(moved.case, calendar, now), moved.events)
    moved = moved.then(routing.ask_departments(moved.case, calendar, now))
    return moved.then(require_fee(moved.case, "on_acceptance", now))


def deem_accepted(case: Case, item: Mapping[str, Any], calendar: WorkingCalendar, now: datetime) -> Moved:
    """The office was silent past its day: accepted by law, as of the day on which the application was received (行政许可法 art. 32).

    The time for the decision runs from that day, so that the silence costs the office and not the applicant. Its event is the red card.
    """
    assert case.received_at is not None and case.accept_by_on is not None
    silent_until = case.accept_by_on
    case = with_deadline(replace(case, accepted_at=case.received_at, is_deemed_accepted=True), item, calendar)
    case = promises.with_due_days(case, calendar, now, {})
    received_on = shanghai_day(case.received_at)
    moved = advance(
        case,
        "deem_accepted",
        machine.SYSTEM,
        now,
        by=HALL,
        title="依法视为已受理",
        detail=f"{case.agency_name}没有按期告知，依法自{chinese_day(received_on)}起即为受理。{will_decide(case)}",
        data={"received_on": received_on.isoformat(), "silent_until_on": silent_until.isoformat(), "card": "red"},
    )
    return begin_review(moved, calendar, now)


def request_supplement(
    case: Case,
    missing: Sequence[Mapping[str, str]],
    calendar: WorkingCalendar,
    now: datetime,
    *,
    actor: str = machine.CLERK,
    reason: str = "",
) -> Moved:
    """一次性告知: one notice that names everything that is missing, each with its reason, and the last day to bring it.

    A further notice is the head's alone (`actor`), says why (`reason`), and its event counts against the office (`by_superior`).
    """
    last = calendar.add(shanghai_day(now), *rule(case.rules, "supplement", SUPPLEMENT_LIMIT)).on
    remind = deadlines.working_days_before(calendar, last, REMIND_WORKING_DAYS_BEFORE)
    is_further = case.supplement is not None
    notice = {
        "requested_at": now,
        "missing": [dict(row) for row in missing],
        "returned_at": None,
        "by_on": last.isoformat(),
        "remind_on": remind.isoformat(),
        "by_superior": is_further,
        "reason": reason,
    }
    return advance(
        case,
        "request_supplement",
        actor,
        now,
        by=case.agency_name,
        title="请补正材料" if not is_further else "请再次补正材料",
        detail="；".join(f"{row['name']}：{row['reason']}" for row in missing) + f"。请在{chinese_day(last)}前补齐。",
        data={
            "missing": [dict(row) for row in missing],
            "supplement_by_on": last.isoformat(),
            "by_superior": is_further,
            "reason": reason,
            "notices": len(case.supplements) + 1,
        },
        supplement=notice,
        past_supplements=case.supplements,
    )


def reject(
    case: Case,
    reason: str,
    now: datetime,
    rule_text: str = "",
    right_body: str = "",
    remedy: Mapping[str, Any] | None = None,
) -> Moved:
    """不予受理: the reason, the rule it follows from, the body that would be right, and what can be done against it."""
    return advance(
        case,
        "reject",
        machine.CLERK,
        now,
        by=case.agency_name,
        title="不予受理",
        detail="".join(
            (reason, f"（依据：{rule_text}）" if rule_text else "", f"请向{right_body}申请。" if right_body else "")
        ),
        data={"reason": reason, "rule": rule_text, "right_body": right_body, "fee_paid": has_paid(case), **(remedy or {})},
        refusal={
            "at": now,
            "reason": reason,
            "rule": rule_text,
            "right_body": right_body,
            "code": RETURNED,
            **(remedy or {}),
        },
    )


def suspend(
    case: Case, kind: str, days: int, calendar: WorkingCalendar, now: datetime, reason: str = "", unit: str = "working"
) -> Moved:
    """特别程序: the clock stands; the expected days are told in writing (行政许可法 art. 45)."""
    name = SPECIAL_PROCEDURES.get(kind, kind)
    expected_on = calendar.add(shanghai_day(now), days, unit).on
    return advance(
        case,
        "suspend",
        machine.CLERK,
        now,
        by=case.agency_name,
        title=f"进入{name}，暂停计时",
        detail="".join(
            (
                reason,
                "。" if reason and reason[-1] not in "。！？" else "",
                f"预计需要 {days} 天，到{chinese_day(expected_on)}结束，这段时间不计入办理期限。",
            )
        ),
        data={"reason": f"{name}：{reason}" if reason else name, "days": days, "expected_on": expected_on.isoformat()},
        suspensions=(*case.suspensions, Suspension(kind, days, shanghai_day(now), None, reason, expected_on)),
        warn_on=expected_on,
    )


def resume(case: Case, item: Mapping[str, Any], calendar: WorkingCalendar, now: datetime, record: str = "") -> Moved:
    """The clock runs again from the next working day. `record` is that of a hearing (听证笔录), without which it has not been held."""
    if hearings.is_under_way(case) and record:
        case = hearings.held(case, record, now)
    case = with_deadline(stop_ended(case, now), item, calendar)
    return advance(case, "resume", machine.CLERK, now, by=case.agency_name, title="恢复计时", detail=will_decide(case))


def extend(
    case: Case,
    item: Mapping[str, Any],
    days: int,
    reason: str,
    calendar: WorkingCalendar,
    now: datetime,
    *,
    actor: str = machine.HEAD,
) -> Moved:
    """延期: once, by the head of the body, before the old day, the reason told (行政许可法 art. 42).

    Raises:
        ValidationFailed: more days than the law lets this item have.
    """
    limit = case.rules.get("extension") or {"days": 0, "unit": "working"}
    old = case.deadline_on
    if limit["days"] and days > limit["days"]:
        raise ValidationFailed([error_row("/days", "too_long", f"这个事项最多延长{limit['days']}天")])
    longer = {
        "at": now,
        "days": days,
        "unit": limit["unit"],
        "reason": reason,
        "old_deadline_on": old.isoformat() if old else None,
    }
    later = with_deadline(replace(case, extension=longer), item, calendar) if old else case
    return advance(
        case,
        "extend",
        actor,
        now,
        by=case.agency_name,
        title="办理期限延长",
        detail=f"原因：{reason}。{will_decide(later) if old else ''}",
        data={"reason": reason, "days": days, "old_deadline_on": longer["old_deadline_on"]},
        extension=longer,
        deadline_on=later.deadline_on,
        deadline_estimated=later.deadline_estimated,
    )


def decide(
    case: Case,
    outcome: str,
    opinion: str,
    calendar: WorkingCalendar,
    now: datetime,
    has_delivery: bool,
    remedy: Mapping[str, Any] | None = None,
) -> Moved:
    """The decision. Denied: with reasons and remedies (行政许可法 art. 38). Approved: to be handed over within ten days (art. 44)."""
    approved = outcome == "approved"
    remedy = {} if approved else dict(remedy or {})
    # Nobody waits for ever: what was not waited for stands with the decision and counts with whoever left it out.
    unheard = [asked.name for asked in case.open_departments]
    left_out = [stage.name for stage in case.skipped_stages]
    moved = advance(
        with_delivery_day(case, calendar, now) if approved else case,
        "decide",
        machine.CLERK,
        now,
        to=State.APPROVED if approved else State.DENIED,
        by=case.agency_name,
        title="准予办理" if approved else "不予办理",
        detail=opinion,
        data={
            "outcome": outcome,
            "opinion": opinion,
            "reason": opinion,
            "has_delivery": has_delivery,
            "unheard": unheard,
            "left_out": left_out,
            **remedy,
        },
        decision={"outcome": outcome, "opinion": opinion, "at": now, "unheard": unheard, "left_out": left_out, **remedy},
        decided_at=now,
    )
    if not approved:
        return moved
    moved = moved.then(require_fee(moved.case, "before_issue", now))
    return moved.then(complete_if_nothing_to_deliver(moved.case, now, has_delivery))


def deliver(case: Case, method: str, tracking: str | None, now: datetime) -> Moved:
    """送达: by post without a number yet: on its way; with the number, at the window, or as electronic licence: done."""
    waits_for_post = method in ("express", "post") and not tracking
    detail = {
        "electronic": "电子证照已放入您的卡包。",
        "licence": "电子证照已放入您的卡包。",
        "self": "结果已在窗口交付。",
        "window": "结果已在窗口交付。",
    }.get(method, f"结果已寄出，邮件单号 {tracking}。" if tracking else "结果正在制作和交寄，有单号后会告诉您。")
    return advance(
        case,
        "deliver",
        machine.CLERK,
        now,
        to=State.DELIVERING if waits_for_post else State.COMPLETED,
        by=case.agency_name,
        title="正在送达" if waits_for_post else "已办结",
        detail=detail,
        data={"method": method, "tracking": tracking, "outcome": "approved"},
        delivery={"method": method, "tracking": tracking, "at": now},
        completed_at=None if waits_for_post else now,
    )
