"""Who has a case, and whose word is asked: stages in turn, departments side by side, transfer, the second person. Pure like steps.py.

A department's silence never blocks, and its refusal never closes a case: the lead agency decides, by the item's one refusal rule
(`all_of`: no approval while one refuses; `lead_decides`: approval against a refusal takes two people). Source: 行政许可法 art. 26 (one body takes in
and decides, the others are asked at once), 34 (two officials), 32 (what goes to the wrong body).
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from app.cases import machine
from app.cases.model import Case, Consultation, Stage
from app.cases.steps import HALL, Moved, advance
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import chinese_day, shanghai_day
from app.kernel.errors import ErrorRow, error_row
from app.kernel.records import replace

ANSWERS = {"agreed": "同意", "refused": "不同意", "noted": "已反馈意见"}

Agency = Mapping[str, Any]


def with_names(case: Case, agency: Callable[[str], Agency]) -> Case:
    """Return a case whose rules name the departments as people know them, so that later steps need no catalogue."""
    rows = case.rules.get("departments", ())
    return (
        replace(
            case,
            rules={
                **case.rules,
                "departments": [
                    {**row, "name": agency(row["agency"])["name"]} for row in rows
                ],
            },
        )
        if rows
        else case
    )


# --- stages in turn ---


def with_stages(case: Case, calendar: WorkingCalendar, now: datetime) -> Case:
    """Return an accepted case with its stages, the first of them begun."""
    stages = tuple(
        Stage(row["key"], row["name"], row["days"], row["clock"])
        for row in case.rules.get("stages", ())
    )
    return replace(case, stages=_begun(stages, 0, calendar, now))


def _begun(
    stages: tuple[Stage, ...], place: int, calendar: WorkingCalendar, now: datetime
) -> tuple[Stage, ...]:
    if place >= len(stages):
        return stages
    due_on = calendar.add(shanghai_day(now), stages[place].days, "working").on
    return (
        *stages[:place],
        replace(stages[place], due_on=due_on),
        *stages[place + 1 :],
    )


def finish_stage(
    case: Case,
    note: str,
    calendar: WorkingCalendar,
    now: datetime,
    account: str | None = None,
) -> Moved:
    """The stage that runs has ended; the next one begins, with `account` when another person has it."""
    place = next(
        (number for number, stage in enumerate(case.stages) if stage.done_at is None), 0
    )
    done, stages = None, case.stages
    if stages:
        done = stages[place]
        stages = (
            *stages[:place],
            replace(done, done_at=now, note=note),
            *stages[place + 1 :],
        )
        stages = _begun(stages, place + 1, calendar, now)
    following = stages[place + 1].name if place + 1 < len(stages) else ""
    return advance(
        case,
        "finish_stage",
        machine.CLERK,
        now,
        by=case.agency_name,
        title=f"{done.name}已完成" if done else "环节已完成",
        detail=f"接下来：{following}。" if following else "",
        data={
            "stage": done.key if done else "",
            "reason": done.name if done else "",
            "next_stage": following,
        },
        stages=stages,
        **({"assignee": account} if account else {}),
    )


# --- departments side by side ---


def ask_departments(case: Case, calendar: WorkingCalendar, now: datetime) -> Moved:
    """Ask every department that the item names, all at once; the day of each is counted from today, of serial ones from the one before."""
    asked: list[Consultation] = []
    serial_from = shanghai_day(now)
    for row in case.rules.get("departments", ()):
        start = serial_from if row["mode"] == "serial" else shanghai_day(now)
        due_on = calendar.add(start, row["days"], "working").on
        serial_from = due_on if row["mode"] == "serial" else serial_from
        asked.append(
            Consultation(
                row["agency"],
                row.get("name", row["agency"]),
                row["task"],
                row["mode"],
                now,
                due_on,
            )
        )
    if not asked or case.departments:
        return Moved(case)
    joint = replace(case, departments=tuple(asked))
    names = "、".join(each.name for each in asked)
    assert joint.joint_due_on is not None
    return advance(
        case,
        "ask_departments",
        machine.SYSTEM,
        now,
        by=HALL,
        title="有关部门同时办理",
        detail=f"已转{names}同时办理，应在{chinese_day(joint.joint_due_on)}前全部反馈。您不用分别去跑。",
        data={
            "departments": [each.agency_id for each in asked],
            "joint_due_on": joint.joint_due_on.isoformat(),
        },
        departments=joint.departments,
    )


def give_opinion(
    case: Case, agency_id: str, answer: str, opinion: str, now: datetime
) -> Moved:
    """A department answers; until the decision it may answer anew, and the last answer counts. The case stays where it is."""
    answered = tuple(
        replace(each, answer=answer, opinion=opinion, answered_at=now)
        if each.agency_id == agency_id
        else each
        for each in case.departments
    )
    name = next(
        (each.name for each in case.departments if each.agency_id == agency_id),
        agency_id,
    )
    heard = sum(bool(each.answer) for each in answered)
    return advance(
        case,
        "give_opinion",
        machine.DEPARTMENT,
        now,
        by=name,
        title=f"{name}已反馈",
        # What it says is between the departments until the decision gives the reasons.
        detail=f"{len(answered)}个部门中已有{heard}个反馈。",
        data={
            "department": agency_id,
            "answer": answer,
            "opinion": opinion,
            "heard": heard,
            "asked": len(answered),
        },
        departments=answered,
    )


def note_silence(case: Case, now: datetime) -> Moved:
    """A department's day has passed without an answer: noted once, counted against it, and nothing waits for it any more."""
    today = shanghai_day(now)
    silent = [
        each
        for each in case.open_departments
        if today > each.due_on and each.silent_on is None
    ]
    names = "、".join(each.name for each in silent)
    return advance(
        case,
        "note_silence",
        machine.SYSTEM,
        now,
        by=HALL,
        title="有部门没有按期反馈",
        detail=f"{names}没有按期反馈，已督促；{case.agency_name}可以不再等待，办件不会因此停下。",
        data={"departments": [each.agency_id for each in silent]},
        departments=tuple(
            replace(each, silent_on=today) if each in silent else each
            for each in case.departments
        ),
    )


# --- the second person ---


def propose(case: Case, outcome: str, opinion: str, now: datetime) -> Moved:
    """Say what a second person shall decide. A later proposal replaces it."""
    by = case.acting.account if case.acting else None
    proposal = {"at": now, "by": by, "outcome": outcome, "opinion": opinion}
    return advance(
        case, "propose", machine.CLERK, now, by=case.agency_name, proposal=proposal
    )


# --- transfer ---


def same_line(one: str, other: str, agency: Callable[[str], Agency]) -> bool:
    """Say whether two bodies are of one line: the same superior at the end of both chains, like a city's bureau and its counties'."""

    def top(agency_id: str) -> str:
        seen = [agency_id]
        while (parent := agency(seen[-1])["parent"]) and parent not in seen:
            seen.append(parent)
        return seen[-1]

    return top(one) == top(other)


def transfer_rows(case: Case, to: str, is_same_line: bool) -> list[ErrorRow]:
    """Return a row when a case may not go to this body: another line, the body that has it, or one that had it before."""
    if not is_same_line:
        return [
            error_row(
                "/agency_id",
                "other_line",
                "只能在同一系统的市、县部门之间转办；不属于本系统的，应当不予受理并告知应向哪里申请",
            )
        ]
    if to == case.agency_id or any(to == row["from"] for row in case.transfers):
        return [
            error_row(
                "/agency_id",
                "had_it",
                "这个部门正在办理或已经转出过这个办件，不能来回转",
            )
        ]
    return []


def transfer(case: Case, to: Agency, reason: str, now: datetime) -> Moved:
    """转办 within one line: the case goes to another body as it is. No clock begins anew: to the applicant it is one government."""
    row = {
        "at": now,
        "from": case.agency_id,
        "from_name": case.agency_name,
        "to": to["id"],
        "reason": reason,
    }
    return advance(
        replace(case, agency_id=to["id"], agency_name=to["name"]),
        "transfer",
        machine.CLERK,
        now,
        by=case.agency_name,
        title=f"已转{to['name']}办理",
        detail=f"原因：{reason}。办理期限不变，您不用重新申请。",
        data={
            "reason": reason,
            "from_agency_id": case.agency_id,
            "from_agency_name": case.agency_name,
        },
        assignee=None,
        proposal=None,
        transfers=(*case.transfers, row),
    )
