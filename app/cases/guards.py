"""What must hold for a step beyond the state: pure functions of a case and a Shanghai day, named in the table of machine.py.

Their first line stands in docs/cases.md; `REASONS` is what the person is told who meets one.
"""

from collections.abc import Callable, Mapping
from datetime import date

from app.cases.model import FEE_REMINDER, Case, State, card_of, reminder_of

Guard = Callable[[Case, date], bool]


def always(_case: Case, _on: date) -> bool:
    """-"""
    return True


def undecided(case: Case, _on: date) -> bool:
    """not decided yet"""
    # A fee before issue comes after the decision: then it is too late, though the state would fit.
    return case.decision is None


def unrated(case: Case, _on: date) -> bool:
    """not rated yet"""
    return case.evaluation_level is None


def offers_promises(case: Case, _on: date) -> bool:
    """the item lets a material come later"""
    return bool(case.rules.get("promisable"))


def no_open_correction(case: Case, _on: date) -> bool:
    """no correction waits for an answer"""
    return case.open_correction is None


def has_open_correction(case: Case, _on: date) -> bool:
    """a correction waits for an answer"""
    return case.open_correction is not None


def owes_material(case: Case, _on: date) -> bool:
    """a promised material has not come"""
    return bool(case.open_promises)


def not_pre_reviewed(case: Case, _on: date) -> bool:
    """not pre-reviewed since it came in"""
    return case.pre_review is None


def acceptance_overdue(case: Case, on: date) -> bool:
    """the day for acceptance has passed in silence"""
    return case.accept_by_on is not None and on > case.accept_by_on


def acceptance_in_time(case: Case, on: date) -> bool:
    """the day for acceptance has not passed"""
    return not acceptance_overdue(case, on)


def first_notice_in_time(case: Case, on: date) -> bool:
    """in time for acceptance, no notice given yet"""
    return acceptance_in_time(case, on) and case.supplement is None


def further_notice_in_time(case: Case, on: date) -> bool:
    """in time for acceptance, a notice given before"""
    return acceptance_in_time(case, on) and case.supplement is not None


def may_extend(case: Case, on: date) -> bool:
    """a law allows it, not extended yet, the old day not passed"""
    return (
        bool(case.rules.get("extension"))
        and case.extension is None
        and case.deadline_on is not None
        and on <= case.deadline_on
    )


def nothing_holds_approval(case: Case, on: date) -> bool:
    """no correction waits; what was tolerated as missing has come"""
    return no_open_correction(case, on) and not (
        case.rules.get("deferral_until") != "delivery" and any(promise.kind == "deferral" for promise in case.open_promises)
    )


def paid_before(state: State) -> Guard:
    """Return the guard of a payment that was asked for in `state`."""

    def guard(case: Case, _on: date) -> bool:
        return case.resume_state is state

    guard.__doc__ = f"the fee was asked for when {state.value}"
    return guard


def supplement_expired(case: Case, on: date) -> bool:
    """the last day of the notice has passed, and the item closes then"""
    return case.rules.get("supplement_expiry") != "keep" and _notice_day(case, "by_on", date.max) < on


def supplement_ends_soon(case: Case, on: date) -> bool:
    """the last day of the notice is near, not reminded yet"""
    return reminder_of(case) not in case.reminded and _notice_day(case, "remind_on", date.max) <= on


def _notice_day(case: Case, name: str, otherwise: date) -> date:
    day = (case.supplement or {}).get(name)
    return date.fromisoformat(day) if day else otherwise


def suspension_too_long(case: Case, on: date) -> bool:
    """longer than announced, not told yet"""
    expected_on = case.suspensions[-1].expected_on
    return expected_on is not None and on > expected_on and reminder_of(case) not in case.reminded


def fee_unpaid_for_long(case: Case, on: date) -> bool:
    """unpaid for three days, not reminded yet"""
    return case.fee_due_on is not None and on >= case.fee_due_on + FEE_REMINDER and reminder_of(case) not in case.reminded


def promise_overdue(case: Case, on: date) -> bool:
    """a promised material is overdue, not told yet"""
    return any(
        promise.due_on is not None and on > promise.due_on and f"promise:{promise.key}" not in case.reminded
        for promise in case.open_promises
    )


def clock_runs_short(case: Case, on: date) -> bool:
    """little of the time is left, not told yet"""
    return (
        case.warn_on is not None
        and case.due_on is not None
        and case.warn_on <= on <= case.due_on
        and not {card_of(case, "yellow"), card_of(case, "red")} & set(case.reminded)
    )


def clock_overdue(case: Case, on: date) -> bool:
    """the day has passed, not told yet"""
    return case.due_on is not None and on > case.due_on and card_of(case, "red") not in case.reminded


REASONS: Mapping[Guard, str] = {
    undecided: "已经作出决定，不能再撤回。",
    unrated: "这个办件已经评价过了。",
    offers_promises: "这个事项没有可以承诺后补的材料。",
    no_open_correction: "申请人要求更正的内容还没有答复，请先处理更正申请。",
    has_open_correction: "没有等待答复的更正申请。",
    owes_material: "没有承诺后补、还没交的材料。",
    not_pre_reviewed: "已经预审过了。",
    acceptance_in_time: "受理期限已过，依法自收到申请之日起即为受理（行政许可法第三十二条）。",
    first_notice_in_time: "补正只能一次性告知：已经告知过，或受理期限已过。确需再次告知的，由负责人说明理由后作出。",
    further_notice_in_time: "还没有告知过，或受理期限已过。",
    may_extend: "不能延长：没有法律依据，或已延长过一次，或原定期限已过。",
    nothing_holds_approval: "申请人的更正还没答复，或容缺的材料还没交齐，暂时不能准予。",
}
