"""A case as the API shows it: to its owner, to its agency's clerks, and to whoever holds its number and query code."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from app.cases import hearings, machine, materials, promises, remedies, replacements
from app.cases.model import STATE_NAMES, Case, Correction, Fee, Promise, Stage, State, Suspension
from app.catalogue import model as items
from app.kernel.clock import chinese_day, format_utc, today
from app.kernel.numbers import mask_name

# Who acts next, what they do (by their day, when there is one), and what the resident is told. {agency} and the days are filled in.
_NEXT: Mapping[State, tuple[str, str, str]] = {
    State.DRAFT: ("applicant", "填好表单、传齐材料后提交", "填好表单、传齐材料后提交。"),
    State.SUBMITTED: ("agency", "告知是否受理", "{agency}将在{accept_by}前告诉您是否受理，您不用做什么。"),
    State.SUPPLEMENT_REQUIRED: ("applicant", "补齐材料", "请在{supplement_by}前按告知补齐材料后再次提交，所有要补的都列在这里。"),
    State.ACCEPTED: ("agency", "作出决定", "{agency}将在{deadline}前作出决定，您不用做什么。"),
    State.IN_REVIEW: ("agency", "作出决定", "{agency}正在审查，将在{deadline}前作出决定。"),
    State.SUSPENDED: ("agency", "结束特别程序", "特别程序进行中，预计到{expected}结束，这段时间不计入期限；结束后会告诉您。"),
    State.AWAITING_PAYMENT: ("applicant", "缴费", "请缴费，到账后办件自动继续。"),
    State.APPROVED: ("agency", "送达结果", "{agency}正在准备结果，最晚{deliver_by}送达，送达前会告诉您。"),
    State.DELIVERING: ("agency", "送达结果", "结果正在送达。"),
    State.NOT_ACCEPTED: ("nobody", "", "补齐条件后可以用原来填写的内容重新申请。{remedy}"),
    State.DENIED: ("nobody", "", "条件满足后可以用原来填写的内容重新申请。{remedy}"),
    State.COMPLETED: ("nobody", "", "已办结，欢迎评价。"),
    State.WITHDRAWN: ("nobody", "", "已撤回，需要时可以重新申请。"),
}


def for_resident(case: Case, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the case as its owner sees it."""
    return {
        **_common(case, item),
        "query_code": case.query_code,
        "form": _form(case, item),
        "by_person": case.by_person,
        "automatic": automatic(case),
        "allowed_actions": machine.allowed_actions(case, machine.RESIDENT),
        "identity_level": item["identity_level"],
        "evaluation": case.evaluation_level,
    }


def for_staff(
    case: Case, item: Mapping[str, Any], allowed: Sequence[str]
) -> dict[str, Any]:
    """Return the case as its agency may see it: without the query code, and without the rating (it is hidden from the handler)."""
    return {
        **_common(case, item),
        "form": _form(case, item),
        "allowed_actions": list(allowed),
        "assignee": case.assignee,
        "channel": case.channel,
        "taken_in_by": case.taken_in_by,
    }


def task(case: Case, allowed: Sequence[str]) -> dict[str, Any]:
    """Return a line of the work list; the applicant is masked."""
    return {
        "id": case.id,
        "number": case.number,
        "item": {"code": case.item_code, "name": case.item_name},
        "applicant_masked": mask_name(str(case.form.get("name") or case.form.get("org_name") or "")),
        "division_code": case.division_code,
        "state": case.state.value,
        "state_name": STATE_NAMES[case.state],
        "assignee": case.assignee,
        "submitted_at": format_utc(case.submitted_at),
        "accept_by_on": _day(case.accept_by_on),
        "deadline_on": _day(case.deadline_on),
        "deadline_estimated": case.deadline_estimated,
        "due_on": _day(case.due_on),
        "allowed_actions": list(allowed),
    }


def summary(case: Case) -> dict[str, Any]:
    """Return a line of the resident's list."""
    return {
        "id": case.id,
        "number": case.number,
        "item": {"code": case.item_code, "name": case.item_name},
        "agency": {"id": case.agency_id, "name": case.agency_name},
        "state": case.state.value,
        "state_name": STATE_NAMES[case.state],
        "version": case.version,
        "created_at": format_utc(case.created_at),
        "updated_at": format_utc(case.updated_at),
        "deadline_on": _day(case.deadline_on),
        "deadline_estimated": case.deadline_estimated,
        "next": next_step(case),
        "allowed_actions": machine.allowed_actions(case, machine.RESIDENT),
    }


def progress(case: Case) -> dict[str, Any]:
    """Return what may be told without sign-in: state and timeline titles, nothing personal and no reasons."""
    return {
        "number": case.number,
        "item": {"code": case.item_code, "name": case.item_name},
        "agency": {"id": case.agency_id, "name": case.agency_name},
        "state": case.state.value,
        "state_name": STATE_NAMES[case.state],
        "deadline_on": _day(case.deadline_on),
        "deadline_estimated": case.deadline_estimated,
        "next": next_step(case, "申请人"),
        "timeline": [
            {"at": format_utc(entry.at), "event": entry.event, "by": entry.by, "title": entry.title, "detail": ""}
            for entry in case.timeline
        ],
    }


def next_step(case: Case, you: str = "您") -> dict[str, Any]:
    """Return who acts next, by when, both in one line (empty when nobody does), and the sentence for the resident, who is called `you`."""
    actor, deed, text = _NEXT[case.state]
    notice_by = (case.supplement or {}).get("by_on")
    days = {
        "accept_by": case.accept_by_on,
        "deadline": case.deadline_on,
        "deliver_by": case.deliver_by_on,
        "expected": case.suspensions[-1].expected_on if case.suspensions else None,
        "supplement_by": date.fromisoformat(notice_by) if notice_by else None,
    }
    words = {name: chinese_day(day) if day else "期限" for name, day in days.items()}
    text = text.format(agency=case.agency_name, remedy=remedies.sentence(case.refusal or case.decision or {}), **words)
    allowed, wanted = machine.allowed_actions(case, machine.RESIDENT), ""
    if "hand_in" in allowed:
        wanted += promises.sentence(case)
    if "replace_material" in allowed:
        wanted += replacements.sentence(case)
    wanted += hearings.sentence(case, today())
    if wanted:  # both cannot be said
        text = text.replace("，您不用做什么。", "。") + wanted
    by_on = _day(case.due_on) if actor == "agency" else notice_by if case.state is State.SUPPLEMENT_REQUIRED else None
    who = {"applicant": you, "agency": case.agency_name}.get(actor, "")
    line = f"下一步：{who}{f'在{chinese_day(date.fromisoformat(by_on))}前' if by_on else ''}{deed}" if who else ""
    return {"actor": actor, "by_on": by_on, "text": text, "line": line}


def fields_of(item: Mapping[str, Any], case: Case) -> list[Mapping[str, Any]]:
    """Return the fields of the case's form that apply under its situation answers; `show_when` is left to the client."""
    return [field for field in item["form"] if items.applies(field.get("when"), case.answers)]


def _form(case: Case, item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "fields": fields_of(item, case),
        "rules": [rule for rule in item.get("rules", ()) if items.applies(rule.get("when"), case.answers)],
        "values": dict(case.form),
    }


def _common(case: Case, item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": case.id,
        "number": case.number,
        "item": {"code": case.item_code, "name": case.item_name, "version": case.item_version, "alias": item["alias"]},
        "agency": {"id": case.agency_id, "name": case.agency_name},
        "division_code": case.division_code,
        "state": case.state.value,
        "state_name": STATE_NAMES[case.state],
        "version": case.version,
        "answers": dict(case.answers),
        "situations": item["situations"],
        "materials": _materials(case, item),
        "fee": _fee(case, item),
        "created_at": format_utc(case.created_at),
        "submitted_at": format_utc(case.submitted_at),
        "accepted_at": format_utc(case.accepted_at),
        "decided_at": format_utc(case.decided_at),
        "completed_at": format_utc(case.completed_at),
        "accept_by_on": _day(case.accept_by_on),
        "deadline_on": _day(case.deadline_on),
        "deadline_estimated": case.deadline_estimated if case.deadline_on else case.accept_by_estimated,
        "clock": {"name": case.clock, "is_running": case.clock is not None, "due_on": _day(case.due_on)},
        "deliver_by_on": _day(case.deliver_by_on),
        "is_deemed_accepted": case.is_deemed_accepted,
        "next": next_step(case),
        "pre_review": _moment_in(case.pre_review),
        "supplement": _supplement(case.supplement),
        "supplements": [_supplement(notice) for notice in case.supplements],
        "promises": [_promise(promise) for promise in case.promises],
        "promisable": dict(case.rules.get("promisable", {})),
        "corrections": [_correction(asked) for asked in case.corrections],
        "hearing": _hearing(case),
        "renewal": {name: value for name, value in case.renewal.items() if name != "licence_id"} if case.renewal else None,
        "suspensions": [_suspension(stop) for stop in case.suspensions],
        "extension": _moment_in(case.extension),
        "joint": joint(case),
        "stages": stages(case),
        "transfers": [
            {"at": format_utc(row["at"]), "from": row["from_name"], "reason": row["reason"]} for row in case.transfers
        ],
        "refusal": _moment_in(case.refusal),
        "decision": _moment_in(case.decision),
        "delivery": _moment_in(case.delivery),
        "delivery_methods": item["result"]["delivery"],
        "from_case": case.from_case,
        "result": item["result"],
        "timeline": [
            {
                "at": format_utc(entry.at),
                "event": entry.event,
                "by": entry.by,
                "title": entry.title,
                "detail": entry.detail,
            }
            for entry in case.timeline
        ],
    }


def _fee(case: Case, item: Mapping[str, Any]) -> dict[str, Any]:
    """`state`: none, pending (falls due at a later step), due, paid, refunded. Before submission the amounts are those of today's answers."""
    fees: Sequence[Fee] = case.fees
    if case.state is State.DRAFT:
        fees = [
            Fee(fee["key"], fee["name"], fee["amount_fen"] or 0, fee["when_paid"], fee["basis"])
            for fee in items.visible_fees(item, case.answers)
            if fee["amount_fen"] and fee["when_paid"] != "offline"
        ]
    states = {fee.state for fee in fees}
    state = next((name for name in ("due", "pending", "paid", "refunded") if name in states), "none")
    return {
        "amount_fen": sum(fee.amount_fen for fee in fees),
        "due_fen": sum(fee.amount_fen for fee in fees if fee.state == "due"),
        "refunded_fen": sum(fee.refunded_fen for fee in fees),
        "state": state,
        "lines": [
            {
                "key": fee.key,
                "name": fee.name,
                "amount_fen": fee.amount_fen,
                "when_paid": fee.when_paid,
                "basis": fee.basis,
                "state": fee.state,
                "refunded_fen": fee.refunded_fen,
            }
            for fee in fees
        ],
    }


def _materials(case: Case, item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the materials; one that was promised and has not come has the status `promised` and its day, one whose licence was lost is
    missing again and `is_lost`."""
    promised = {promise.key: promise for promise in case.open_promises}
    rows = [
        row | {"status": "missing", "is_lost": True} if row["key"] in case.lost_materials else row | {"is_lost": False}
        for row in materials.view(item, case.answers, case.materials, case.form)
    ]
    return [
        row | {"status": "promised", "due_on": _day(promised[row["key"]].due_on)}
        if row["key"] in promised and row["status"] in ("missing", "optional")
        else row
        for row in rows
    ]


def _hearing(case: Case) -> dict[str, Any] | None:
    """Return the hearing before the decision; `state`: told, asked, waived, held. None while nobody was told of one."""
    told = case.hearing
    if told is None:
        return None
    states = (("held_on", "held"), ("waived_at", "waived"), ("asked_at", "asked"))
    return {
        "state": next((name for key, name in states if told.get(key)), "told"),
        "is_required": case.rules.get("hearing") == "required",
        "reason": told.get("reason", ""),
        **{key: told.get(key) for key in ("ask_by_on", "hold_by_on", "held_on", "record")},
        **{key: format_utc(told.get(key)) for key in ("told_at", "asked_at", "waived_at")},
    }


def joint(case: Case, *, with_opinions: bool = False) -> dict[str, Any] | None:
    """Return the departments that were asked, each with its own day, and the day by which all should have answered; None without any.

    What they say is the agency's; the applicant sees who has answered, and the reasons with the decision.
    """
    if not case.departments:
        return None
    return {
        "due_on": _day(case.joint_due_on),
        "refusal_rule": case.rules.get("refusal_rule", "lead_decides"),
        "departments": [
            {
                "agency": {"id": asked.agency_id, "name": asked.name},
                "task": asked.task,
                "mode": asked.mode,
                "asked_at": format_utc(asked.asked_at),
                "due_on": _day(asked.due_on),
                "has_answered": bool(asked.answer),
                "answered_at": format_utc(asked.answered_at),
                "is_silent": asked.silent_on is not None and not asked.answer,
            }
            | ({"answer": asked.answer or None, "opinion": asked.opinion} if with_opinions else {})
            for asked in case.departments
        ],
    }


def stages(case: Case) -> list[dict[str, Any]]:
    """Return the stages of the review in turn; `state`: done, running, to_come, left_out."""
    current = case.stage
    return [
        {
            "key": stage.key,
            "name": stage.name,
            "days": stage.days,
            "clock": stage.clock,
            "due_on": _day(stage.due_on),
            "done_at": format_utc(stage.done_at),
            "state": _stage_state(case, stage, stage is current),
        }
        for stage in case.stages
    ]


def _stage_state(case: Case, stage: Stage, is_current: bool) -> str:
    if stage.done_at is not None or (case.decision is not None and stage is case.stages[-1]):
        return "done"
    if case.decision is not None:
        return "left_out"
    return "running" if is_current else "to_come"


def automatic(case: Case) -> dict[str, Any] | None:
    """Return which rules decided a case on which data (masked), for its applicant; None when people decided.

    Source: 个人信息保护法 art. 24, 国务院令第716号 art. 12: whoever is decided upon by rules is told how.
    """
    if case.auto is None or not (case.decision or {}).get("is_automatic"):
        return None
    return {
        "at": format_utc(case.auto["at"]),
        "rule_set": case.auto["rule_set"],
        "version": case.auto["version"],
        "facts": [dict(fact) for fact in case.auto["facts"]],
    }


def proposal(case: Case) -> dict[str, Any] | None:
    """Return what was proposed for a second person to decide, as the agency sees it."""
    return _moment_in(case.proposal)


def sample(case: Case) -> dict[str, Any] | None:
    """Return what a head found who looked at a decision of the rules."""
    return None if case.sample is None else {**case.sample, "at": format_utc(case.sample.get("at"))}


def _supplement(notice: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if notice is None:
        return None
    return {
        "requested_at": format_utc(notice["requested_at"]),
        "returned_at": format_utc(notice["returned_at"]),
        "missing": list(notice["missing"]),
        "by_on": notice.get("by_on"),
        "by_superior": notice.get("by_superior", False),
        "reason": notice.get("reason", ""),
    }


def _promise(promise: Promise) -> dict[str, Any]:
    return {
        "key": promise.key,
        "name": promise.name,
        "kind": promise.kind,
        "promised_at": format_utc(promise.promised_at),
        "due_on": _day(promise.due_on),
        "met_at": format_utc(promise.met_at),
    }


def _correction(asked: Correction) -> dict[str, Any]:
    return {
        "asked_at": format_utc(asked.asked_at),
        "reason": asked.reason,
        "fields": dict(asked.fields),
        "old": dict(asked.old),
        "outcome": asked.outcome or None,
        "answer": asked.answer,
        "answered_at": format_utc(asked.answered_at),
    }


def _suspension(stop: Suspension) -> dict[str, Any]:
    return {
        "kind": stop.kind,
        "days": stop.days,
        "reason": stop.reason,
        "from_on": _day(stop.from_on),
        "expected_on": _day(stop.expected_on),
        "until_on": _day(stop.until_on),
    }


def _moment_in(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if facts is None else {**facts, "at": format_utc(facts["at"])}


def _day(day: Any) -> str | None:
    return day.isoformat() if day else None


