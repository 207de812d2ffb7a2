"""即办件自动办 (秒批): an item whose data carries `auto_rules` is decided at once when every rule holds on shared data.

Rules only compare: no discretion. What each rule looked at is written down with the rule set's name and version, personal data masked. Any
doubt, and the case goes the ordinary way with the doubts shown to the clerk; the applicant may ask for a person. A share of the decisions is
drawn for a head to look at. Source: 国务院令第716号 art. 10-12; 个人信息保护法 art. 24 (automated decisions: reasons, and a person on request).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from app.cases import machine, materials
from app.cases.handling import begin_review
from app.cases.model import Case, State
from app.cases.steps import (
    HALL,
    Moved,
    advance,
    complete_if_nothing_to_deliver,
    will_decide,
    with_deadline,
    with_delivery_day,
)
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import format_utc, shanghai_day
from app.kernel.numbers import mask_id_number, mask_name
from app.kernel.records import replace

SAMPLE_PERCENT = 5  # of an item that says nothing else


@dataclass(frozen=True)
class Evidence:
    """What the hall knows by itself: the verified identity of the applicant and the applicant's licences that are valid now.

    `licences`: those that were handed in, id -> type.
    """

    name: str
    id_number: str
    licences: Mapping[str, str]


def judged(
    case: Case,
    item: Mapping[str, Any],
    evidence: Evidence,
    advice: Callable[[], Sequence[Mapping[str, Any]]],
    now: datetime,
) -> Case:
    """Return a submitted case with what the rules of its item found: `facts` (rule, datum masked, holds) and `doubts` in words.

    `advice` gives what looks wrong in the form; it is asked only when there are rules.
    """
    rules = item.get("auto_rules")
    if rules is None or not item["auto_decide"]:
        return case
    found = [
        _look(check, case, item, evidence, shanghai_day(now))
        for check in rules["checks"]
    ]
    doubts = [doubt for _fact, doubt in found if doubt]
    if case.by_person:
        doubts.append("申请人要求由工作人员办理")
    if case.promises:
        doubts.append("有承诺后补的材料")
    if case.fees:
        doubts.append("要先缴费")
    doubts += [f"表单提示：{row['detail']}" for row in advice()]
    if any(held.get("files") for held in case.materials.values()):
        doubts.append("有上传的文件，需要人看")
    facts = [fact for fact, _doubt in found]
    return replace(
        case,
        auto={
            "at": now,
            "rule_set": rules["name"],
            "version": rules["version"],
            "facts": facts,
            "doubts": doubts,
        },
    )


def _look(
    check: Mapping[str, Any],
    case: Case,
    item: Mapping[str, Any],
    evidence: Evidence,
    today: date,
) -> tuple[dict[str, Any], str]:
    """Return (fact, doubt) of one rule; no doubt is empty."""
    kind = check["kind"]
    if kind == "identity":
        is_number = check["equals"] == "id_number"
        known = evidence.id_number if is_number else evidence.name
        given = str(case.form.get(check["field"]) or "")
        holds = bool(known) and given == known
        datum = mask_id_number(given) if is_number else mask_name(given)
        label = next((field["label"] for field in item["form"] if field["key"] == check["field"]), check["field"])
        return _fact(
            f"{label}与实名认证的一致", datum, holds
        ), "" if holds else f"{label}与实名信息不一致"
    if kind == "licence":
        row = next(
            (
                row
                for row in materials.needed(item, case.answers)
                if row["key"] == check["material"]
            ),
            None,
        )
        held = case.materials.get(check["material"], {}).get("licence_id")
        holds = (
            row is not None
            and held is not None
            and evidence.licences.get(held) == row["licence"]
        )
        name = row["name"] if row else check["material"]
        # The licence's own number stays in the wallet: here its tail tells it from others.
        return _fact(
            f"{name}为有效电子证照", f"电子证照（尾号{held[-4:]}）" if held else "没有", holds
        ), "" if holds else f"{name}不是有效的电子证照"
    if kind == "age":
        age = _age(evidence.id_number, today)
        holds = age is not None and check["least"] <= age <= check["most"]
        return _fact(
            f"年龄{check['least']}至{check['most']}周岁",
            str(age if age is not None else ""),
            holds,
        ), "" if holds else "年龄不在规定范围"
    given = str(case.answers.get(check["key"], ""))
    holds = given in check["among"]
    asked = next((row for row in item["situations"] if row["key"] == check["key"]), None)
    labels = {row["value"]: row["label"] for row in asked.get("options", ())} if asked else {}
    among = "或".join(labels.get(value, value) for value in check["among"])
    said = labels.get(given, given)
    return _fact(
        f"“{asked['question'] if asked else check['key']}”答{among}", said, holds
    ), "" if holds else f"情形“{said}”要由工作人员办理"


def _fact(rule: str, datum: str, holds: bool) -> dict[str, Any]:
    return {"rule": rule, "datum": datum, "holds": holds}


def _age(id_number: str, today: date) -> int | None:
    try:
        born = date.fromisoformat(
            f"{id_number[6:10]}-{id_number[10:12]}-{id_number[12:14]}"
        )
    except ValueError:
        return None
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


def decide(
    case: Case,
    item: Mapping[str, Any],
    calendar: WorkingCalendar,
    now: datetime,
    has_delivery: bool,
) -> Moved:
    """Accept and approve at once what the rules are sure of; anything else comes back as it is."""
    if (
        case.state is not State.SUBMITTED
        or machine.find(case, "auto_accept", machine.SYSTEM, shanghai_day(now)) is None
    ):
        return Moved(case)
    moved = accept(case, item, calendar, now)
    if moved.case.state is not State.ACCEPTED:
        return moved
    return moved.then(approve(moved.case, item, calendar, now, has_delivery))


def accept(
    case: Case, item: Mapping[str, Any], calendar: WorkingCalendar, now: datetime
) -> Moved:
    """Accepted by the rules."""
    case = with_deadline(replace(case, accepted_at=now), item, calendar)
    moved = advance(
        case,
        "auto_accept",
        machine.SYSTEM,
        now,
        by=HALL,
        title="已受理",
        detail=will_decide(case),
        data={"missing": []},
    )
    return begin_review(moved, calendar, now)


def approve(
    case: Case,
    item: Mapping[str, Any],
    calendar: WorkingCalendar,
    now: datetime,
    has_delivery: bool,
) -> Moved:
    """Approved by the rules, their reasons written down."""
    assert case.auto is not None
    auto = case.auto
    opinion = (
        f"按“{case.item_name}”的自动核对规则（第{auto['version']}版）核对："
        + "；".join(fact["rule"] for fact in auto["facts"])
        + "，全部符合。"
    )
    decision = {
        "outcome": "approved",
        "opinion": opinion,
        "at": now,
        "unheard": [],
        "left_out": [],
        "is_automatic": True,
    }
    moved = advance(
        with_delivery_day(case, calendar, now),
        "auto_approve",
        machine.SYSTEM,
        now,
        by=HALL,
        title="准予办理（自动办理）",
        detail=f"{opinion}对结果有疑问，可以要求由工作人员重新核对，或打12345。",
        data={
            "outcome": "approved",
            "opinion": opinion,
            "reason": opinion,
            "has_delivery": has_delivery,
            "is_automatic": True,
        },
        decision=decision,
        decided_at=now,
        sample={"state": "open"}
        if is_sampled(case.id, item["auto_rules"].get("sample_percent", SAMPLE_PERCENT))
        else None,
    )
    return moved.then(complete_if_nothing_to_deliver(moved.case, now, has_delivery))


def is_sampled(case_id: str, percent: int) -> bool:
    """Say whether a case is looked at afterwards: always the same answer for one case, and nobody can choose it."""
    return (
        int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:4], "big") % 100
        < percent
    )


def audit_sample(
    case: Case,
    finding: str,
    note: str,
    account: str,
    now: datetime,
    actor: str = machine.HEAD,
) -> Moved:
    """A head has looked at a decision of the rules: in order, or wrong."""
    done = {"state": "done", "finding": finding, "note": note, "by": account, "at": now}
    return advance(case, "audit_sample", actor, now, by=case.agency_name, sample=done)


def view(case: Case) -> dict[str, Any] | None:
    """Return what the rules found, as the agency sees it."""
    if case.auto is None:
        return None
    is_decided = bool((case.decision or {}).get("is_automatic"))
    return {
        **case.auto,
        "at": format_utc(case.auto["at"]),
        "is_decided": is_decided,
        "sample": (case.sample or {}).get("state"),
    }
