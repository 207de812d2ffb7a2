"""The hearing (听证) before a decision, where the item's data say so (`hearing`).

`on_application`: before a denial the office tells the applicant of the right to a hearing; five days to ask or to give it up; who asks is
heard within twenty days. `required`: heard before any decision, made known beforehand. The time of the hearing itself stops the clock
(`suspend` with kind `hearing`), and ends with its record. It costs the applicant nothing.
Source: 行政许可法 art. 46-48; days are working days (art. 82).
"""

from datetime import date, datetime

from app.cases import machine
from app.cases.model import Case
from app.cases.steps import APPLICANT, Moved, advance
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import chinese_day, shanghai_day
from app.kernel.errors import ErrorRow, error_row
from app.kernel.records import replace

ASK_WORKING_DAYS = 5  # art. 47
HOLD_WORKING_DAYS = 20  # art. 47
NOTICE_WORKING_DAYS = 7  # art. 48: time and place are told so long before
KIND = "hearing"


def tell(case: Case, reason: str, calendar: WorkingCalendar, now: datetime) -> Moved:
    """听证告知: what the office intends and why, and by when a hearing can be asked for. A required one is made known instead."""
    by = calendar.add_working_days(shanghai_day(now), ASK_WORKING_DAYS).on
    is_required = case.rules.get("hearing") == "required"
    told = {"told_at": now, "reason": reason, "ask_by_on": by.isoformat()}
    if is_required:
        told["hold_by_on"] = _hold_by(calendar, now).isoformat()
    return advance(
        case,
        "tell_hearing",
        machine.CLERK,
        now,
        by=case.agency_name,
        title="依法举行听证" if is_required else "您有权要求听证",
        detail=f"{reason}。" + ("作出决定前依法举行听证。" if is_required else f"要求听证的，请在{chinese_day(by)}前提出，不收费。"),
        data={"reason": reason, "ask_by_on": by.isoformat(), "is_required": is_required, "hold_by_on": told.get("hold_by_on")},
        hearing=told,
    )


def ask(case: Case, calendar: WorkingCalendar, now: datetime) -> Moved:
    """The applicant wants a hearing: nothing is denied before it was held."""
    by = _hold_by(calendar, now)
    return advance(
        case,
        "ask_hearing",
        machine.RESIDENT,
        now,
        by=APPLICANT,
        title="已要求听证",
        detail=f"{case.agency_name}将在{chinese_day(by)}前举行听证，时间和地点会提前告诉您。",
        data={"hold_by_on": by.isoformat()},
        hearing={**(case.hearing or {}), "asked_at": now, "hold_by_on": by.isoformat()},
    )


def waive(case: Case, now: datetime) -> Moved:
    """The applicant gives the hearing up; the office need not wait for the last day to ask."""
    return advance(
        case,
        "waive_hearing",
        machine.RESIDENT,
        now,
        by=APPLICANT,
        title="不要求听证",
        data={},
        hearing={**(case.hearing or {}), "waived_at": now},
    )


def held(case: Case, record: str, now: datetime) -> Case:
    """Return a case whose hearing has been held, with its record (听证笔录): the decision follows from it (art. 48)."""
    return replace(case, hearing={**(case.hearing or {}), "held_on": shanghai_day(now).isoformat(), "record": record})


def is_under_way(case: Case) -> bool:
    """Say whether the clock stands for a hearing that the item's law knows."""
    stop = case.suspensions[-1] if case.suspensions else None
    return bool(case.rules.get("hearing")) and stop is not None and stop.until_on is None and stop.kind == KIND


def stop_rows(case: Case, days: int, reason: str, calendar: WorkingCalendar, now: datetime) -> list[ErrorRow]:
    """Return what is wrong with the announcement of a hearing in so many days: told too late, held too late, or no time and place."""
    rows = []
    soonest, on = (calendar.add_working_days(shanghai_day(now), count).on for count in (NOTICE_WORKING_DAYS, days))
    by = _day((case.hearing or {}).get("hold_by_on"))
    if not reason.strip():
        rows.append(error_row("/reason", "required", "请写明听证的时间和地点"))
    if days < NOTICE_WORKING_DAYS:
        rows.append(error_row("/days", "too_short", f"听证的时间和地点要提前{NOTICE_WORKING_DAYS}个工作日告诉申请人"))
    elif by is not None and on > by >= soonest:
        rows.append(error_row("/days", "too_long", f"听证要在{chinese_day(by)}前举行"))
    return rows


def record_rows(case: Case, record: str, calendar: WorkingCalendar, now: datetime) -> list[ErrorRow]:
    """Return what is wrong with ending the time of a hearing now: no record of it, or sooner than it may have been held (art. 48)."""
    soonest = calendar.add_working_days(case.suspensions[-1].from_on, NOTICE_WORKING_DAYS).on
    if not record:
        return [error_row("/record", "required", "请写明听证笔录：时间、地点、参加人和各方意见")]
    if shanghai_day(now) < soonest:
        told = f"听证的时间和地点要提前{NOTICE_WORKING_DAYS}个工作日告诉申请人，{chinese_day(soonest)}起才能举行"
        return [error_row("/record", "too_early", told)]
    return []


def sentence(case: Case, on: date) -> str:
    """Return what the applicant reads of a hearing that can be asked for or is to come, or nothing."""
    told = case.hearing or {}
    if case.decision is not None or told.get("held_on") or not told:
        return ""
    if "ask_hearing" in machine.allowed_actions(case, machine.RESIDENT, on):
        return f"您有权要求听证，请在{chinese_day(date.fromisoformat(told['ask_by_on']))}前提出；不要求的，也可以说一声，不用再等。"
    by = _day(told.get("hold_by_on"))
    return f"听证最晚在{chinese_day(by)}举行。" if by is not None else ""


def _hold_by(calendar: WorkingCalendar, now: datetime) -> date:
    return calendar.add_working_days(shanghai_day(now), HOLD_WORKING_DAYS).on


def _day(text: str | None) -> date | None:
    return date.fromisoformat(text) if text else None
