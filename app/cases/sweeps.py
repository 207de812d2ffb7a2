"""What the hall does by itself when a day has passed: deemed acceptance, reminders, warnings, closing what is never completed.

Every step is found by the day kept with the case (`look_on`) and taken in a transaction whose filter holds the version, so any number of
workers may sweep at once and each step is taken once; a worker that dies leaves the case as it was, and the next sweep finds it again.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog

from app.cases import handling, machine, promises, renewals, routing
from app.cases.errors import CaseConflict, CaseNotFound
from app.cases.model import Case, card_of, reminder_of
from app.cases.service import Cases
from app.cases.steps import HALL, Moved, advance, with_acceptance_day
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import chinese_day, shanghai_day, utc_now

log = structlog.get_logger(__name__)

_BATCH = 200


def swept(case: Case, item: Mapping[str, Any], calendar: WorkingCalendar, now: datetime) -> Moved:
    """Take every step of the hall's own that is due now. Nothing due: the same case comes back."""
    moved = Moved(case)
    if case.accept_by_estimated and case.clock == "acceptance" and case.received_at is not None:
        # A day guessed before the notice of its year must not cost an office its right to answer.
        fresh = with_acceptance_day(case, calendar)
        if fresh != case:
            moved = advance(fresh, "recompute", machine.SYSTEM, now, by=HALL, title="受理期限已重新计算")
    for name in machine.SWEPT:
        if machine.find(moved.case, name, machine.SYSTEM, shanghai_day(now)) is not None:
            moved = moved.then(_STEPS[name](moved.case, item, calendar, now))
    return moved


def expire_supplement(case: Case, _item: Mapping[str, Any], _calendar: WorkingCalendar, now: datetime) -> Moved:
    """补交不来办结: what the notice asked for never came. One may apply again with the same data at any time."""
    reason = "没有在告知的期限内补齐材料"
    return advance(
        case,
        "expire_supplement",
        machine.SYSTEM,
        now,
        by=HALL,
        title="逾期未补正，办件已关闭",
        detail="可以随时用原来填写的内容重新申请。",
        data={"reason": reason, "fee_paid": any(fee.state == "paid" for fee in case.fees)},
        refusal={"at": now, "reason": reason, "rule": "", "right_body": "", "code": handling.NEVER_COMPLETED},
    )


def remind_supplement(case: Case, _item: Mapping[str, Any], _calendar: WorkingCalendar, now: datetime) -> Moved:
    """The last day of the notice is near."""
    notice = case.supplement or {}
    return _reminder(
        case, "remind_supplement", now, "补正期限快到了", {"supplement_by_on": notice["by_on"], "missing": notice["missing"]}
    )


def warn_suspension(case: Case, _item: Mapping[str, Any], _calendar: WorkingCalendar, now: datetime) -> Moved:
    """A special procedure takes longer than the office said."""
    stop = case.suspensions[-1]
    assert stop.expected_on is not None
    detail = f"原定{chinese_day(stop.expected_on)}结束，还没有结束。"
    data = {"reason": handling.SPECIAL_PROCEDURES.get(stop.kind, stop.kind), "expected_on": stop.expected_on.isoformat()}
    return _reminder(case, "warn_suspension", now, "特别程序超过预计时间", data, detail)


def remind_fee(case: Case, _item: Mapping[str, Any], _calendar: WorkingCalendar, now: datetime) -> Moved:
    """A fee is waited for since days; the case waits on, and is never cancelled for it."""
    return _reminder(case, "remind_fee", now, "提醒缴费", {"amount_fen": sum(fee.amount_fen for fee in case.due_fees)})


def warn_yellow(case: Case, _item: Mapping[str, Any], _calendar: WorkingCalendar, now: datetime) -> Moved:
    """预警, 黄牌: the office's day is near. Between the office and its supervision: no line in the timeline."""
    return _card(case, "yellow", now)


def warn_red(case: Case, _item: Mapping[str, Any], _calendar: WorkingCalendar, now: datetime) -> Moved:
    """红牌: the office's day has passed. The applicant may know it."""
    assert case.due_on is not None
    detail = f"{case.agency_name}没有在{chinese_day(case.due_on)}前办完，已发出红牌督促。"
    return _card(case, "red", now, title="超过办理期限", detail=detail)


def _card(case: Case, card: str, now: datetime, title: str = "", detail: str = "") -> Moved:
    assert case.due_on is not None
    data = {"card": card, "clock": case.clock, "due_on": case.due_on.isoformat(), "assignee": case.assignee}
    noted = (*case.reminded, card_of(case, card))
    return advance(
        case, f"warn_{card}", machine.SYSTEM, now, by=HALL, title=title, detail=detail, data=data, reminded=noted
    )


def _reminder(case: Case, name: str, now: datetime, title: str, data: Mapping[str, Any], detail: str = "") -> Moved:
    noted = (*case.reminded, reminder_of(case))
    return advance(case, name, machine.SYSTEM, now, by=HALL, title=title, detail=detail, data=data, reminded=noted)


_Step = Callable[[Case, Mapping[str, Any], WorkingCalendar, datetime], Moved]
_STEPS: Mapping[str, _Step] = {
    "deem_accepted": handling.deem_accepted,
    "deem_renewed": renewals.deem_renewed,
    "expire_supplement": expire_supplement,
    "remind_supplement": remind_supplement,
    "warn_suspension": warn_suspension,
    "remind_fee": remind_fee,
    "warn_promise": lambda case, _item, _calendar, now: promises.warn(case, now),
    "note_silence": lambda case, _item, _calendar, now: routing.note_silence(case, now),
    "warn_yellow": warn_yellow,
    "warn_red": warn_red,
}


class Sweeps:
    def __init__(self, cases: Cases, clock: Callable[[], datetime] = utc_now) -> None:
        self._cases = cases
        self._clock = clock

    async def run(self) -> int:
        """Look at every case whose day has come; return how many changed.

        A case that fails is logged and passed by, and is looked at again at the next sweep: one broken case holds up no other.
        """
        now = self._clock()
        changed, after = 0, ("", "")
        while rows := await self._cases.store.to_look_at(shanghai_day(now), after, _BATCH):
            for look_on, case_id in rows:
                after = (look_on, case_id)
                try:
                    changed += await self._look_at(case_id, now)
                except (CaseNotFound, CaseConflict):  # somebody was faster
                    continue
                except Exception as error:  # a sweep must outlive whatever one case meets
                    log.warning("case.sweep_failed", case_id=case_id, exc_info=error)
        return changed

    async def _look_at(self, case_id: str, now: datetime) -> bool:
        before: list[int] = []

        def step(case: Case, item: Mapping[str, Any]) -> Moved:
            before[:] = [case.version]
            return swept(case, item, self._cases.calendar, now)

        after = await self._cases.change({"_id": case_id}, step)
        return after.version != before[0]
