"""What must hold for a step beyond the state: pure functions of a case and a Shanghai day, named in the table of machine.py.

Their first line stands in docs/cases.md; `REASONS` is what the person is told who meets one.
"""

from collections.abc import Callable, Mapping
from datetime import date

from app.cases.model import FEE_REMINDER, Case, State, card_of, reminder_of, renewal_ends_on

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
    """a promised material has not come, or not decided yet and more files of one may come"""
    return bool(case.open_promises) or (case.decision is None and bool(case.begun_promises))


def holds_licence(case: Case, _on: date) -> bool:
    """a licence stands for a material, not decided yet"""
    return case.decision is None and any(held.get("licence_id") and not held.get("lost") for held in case.materials.values())


def has_lost_licence(case: Case, _on: date) -> bool:
    """a licence that stood for a material was lost, not decided yet"""
    return case.decision is None and bool(case.lost_materials)


def not_pre_reviewed(case: Case, _on: date) -> bool:
    """not pre-reviewed since it came in"""
    return case.pre_review is None


def acceptance_overdue(case: Case, on: date) -> bool:
    """the day for acceptance has passed in silence"""
    return case.accept_by_on is not None and on > case.accept_by_on


def renewal_not_noted(case: Case, _on: date) -> bool:
    """renews a licence that the hall knows, not noted yet, not decided"""
    return bool(case.rules.get("renewal")) and case.renewal is None and case.decision is None


def renewal_overdue(case: Case, on: date) -> bool:
    """applied for in time, the old term has ended, not decided yet"""
    ends_on = renewal_ends_on(case)
    return ends_on is not None and on > ends_on


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
    """no correction waits; what was tolerated as missing has come; what was lost is replaced"""
    return no_open_correction(case, on) and not case.lost_materials and not (
        case.rules.get("deferral_until") != "delivery" and any(promise.kind == "deferral" for promise in case.open_promises)
    )


def may_tell_hearing(case: Case, _on: date) -> bool:
    """the item knows a hearing, not told yet"""
    return bool(case.rules.get("hearing")) and case.hearing is None


def may_ask_hearing(case: Case, on: date) -> bool:
    """told of the right, within its days, neither asked nor given up"""
    told = case.hearing or {}
    return (
        case.rules.get("hearing") == "on_application"
        and case.decision is None
        and bool(told.get("ask_by_on"))
        and on <= date.fromisoformat(told["ask_by_on"])
        and not (told.get("asked_at") or told.get("waived_at") or told.get("held_on"))
    )


def hearing_settled(case: Case, outcome: str, on: date) -> bool:
    """Say whether no hearing stands before this outcome (行政许可法 art. 46, 47).

    Required: held before any decision. On application: before a denial it was held, or the right was told of and given up or has run out.
    """
    kind, told = case.rules.get("hearing"), case.hearing or {}
    if not kind or told.get("held_on"):
        return True
    if kind == "required":
        return False
    if outcome == "approved" or told.get("waived_at"):
        return True
    return bool(told.get("ask_by_on")) and not told.get("asked_at") and on > date.fromisoformat(told["ask_by_on"])


def may_approve(case: Case, on: date) -> bool:
    """nothing is still to come, no required hearing, no refusal where all must agree, a second person where needed, not renewed by law"""
    return (
        not renewal_overdue(case, on)
        and nothing_holds_approval(case, on)
        and hearing_settled(case, "approved", on)
        and not (case.rules.get("refusal_rule") == "all_of" and refusing(case))
        and second_person(case, "approved")
    )


def may_deny(case: Case, on: date) -> bool:
    """no correction waits for an answer, the right to a hearing is settled, a second person where one is needed, not renewed by law"""
    return (
        not renewal_overdue(case, on)
        and no_open_correction(case, on)
        and hearing_settled(case, "denied", on)
        and second_person(case, "denied")
    )


def refusing(case: Case) -> bool:
    """Say whether a department that was asked has refused."""
    return any(asked.answer == "refused" for asked in case.departments)


def needs_second_person(case: Case, outcome: str) -> bool:
    """Say whether two people must stand behind this outcome: the item says so, or it goes against a department's refusal."""
    return outcome in case.rules.get("four_eyes", ()) or (outcome == "approved" and refusing(case))


def second_person(case: Case, outcome: str) -> bool:
    """Say whether the person about to decide is a second one: somebody else proposed this, or a head decides what somebody else accepted.

    Whoever took the case in at the window has already stood beside its applicant as the first of the two (许可法 34): they may propose, and
    somebody else decides.
    """
    if not needs_second_person(case, outcome):
        return True
    account = case.acting.account if case.acting else None
    if account in case.window_accounts:
        return False
    if case.proposal is not None and case.proposal["outcome"] == outcome and case.proposal["by"] != account:
        return True
    is_head = case.acting is not None and case.acting.is_head
    return is_head and case.accepted_by is not None and case.accepted_by != account


def asks_for_second_person(case: Case, _on: date) -> bool:
    """one of the outcomes needs a second person"""
    return any(needs_second_person(case, outcome) for outcome in ("approved", "denied"))


def has_departments_to_ask(case: Case, _on: date) -> bool:
    """the item names departments, not asked yet"""
    return bool(case.rules.get("departments")) and not case.departments


def is_consulted(case: Case, _on: date) -> bool:
    """asked, its turn has come, not decided yet"""
    if case.decision is not None:
        return False
    turn = True
    for asked in case.departments:
        if (asked.mode != "serial" or turn) and (case.acting is None or asked.agency_id == case.acting.agency_id):
            return True
        if asked.mode == "serial":  # the next one's turn comes with this one's answer, or with its silence
            turn = turn and (bool(asked.answer) or asked.silent_on is not None)
    return False


def department_overdue(case: Case, on: date) -> bool:
    """a department has not answered by its day, not noted yet"""
    return case.decision is None and any(on > asked.due_on and asked.silent_on is None for asked in case.open_departments)


def has_further_stage(case: Case, _on: date) -> bool:
    """another stage follows"""
    return bool(case.skipped_stages)


MOST_TRANSFERS = 2


def may_transfer(case: Case, _on: date) -> bool:
    """not decided yet, transferred less than twice"""
    return case.decision is None and len(case.transfers) < MOST_TRANSFERS


def rules_are_sure(case: Case, _on: date) -> bool:
    """rules decide this item, leave no doubt, and the applicant did not ask for a person"""
    return case.auto is not None and not case.auto["doubts"] and not case.by_person and not case.open_promises


def is_open_sample(case: Case, _on: date) -> bool:
    """decided by rules, drawn as a sample, not looked at yet"""
    return case.sample is not None and case.sample["state"] == "open"


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
    has_lost_licence: "没有失效后要换的证照，或已经作出决定。",
    not_pre_reviewed: "已经预审过了。",
    acceptance_in_time: "受理期限已过，依法自收到申请之日起即为受理（行政许可法第三十二条）。",
    first_notice_in_time: "补正只能一次性告知：已经告知过，或受理期限已过。确需再次告知的，由负责人说明理由后作出。",
    further_notice_in_time: "还没有告知过，或受理期限已过。",
    may_extend: "不能延长：没有法律依据，或已延长过一次，或原定期限已过。",
    nothing_holds_approval: "申请人的更正还没答复，或容缺的材料还没交齐，或失效的证照还没换，暂时不能准予。",
    may_tell_hearing: "这个事项不需要听证，或已经告知过。",
    may_ask_hearing: "没有可以要求的听证：还没有告知，或已经答复过，或要求听证的期限已过。",
    may_approve: "暂时不能准予：延续申请的有效期已经届满、依法视为准予延续，依法应当听证的还没有举行，或申请人的更正还没答复，或容缺的材料还没交齐，或失效的证照还没换，或有部门不同意，或需要另一个人提出同样的意见后再决定（窗口收件的人不能再作第二人）。",
    may_deny: "不能决定：延续申请的有效期已经届满、依法视为准予延续（行政许可法第五十条），或要先告知申请人有权要求听证，并等期限过去、申请人放弃或听证举行后再决定，或申请人的更正还没答复，或需要另一个人提出同样的意见后再决定（窗口收件的人不能再作第二人）。",
    asks_for_second_person: "这个办件不需要两人决定，可以直接作出决定。",
    is_consulted: "没有征求本单位意见，或还没轮到，或已经作出决定。",
    has_further_stage: "没有下一个环节，审查完成后直接作出决定。",
    may_transfer: "已经作出决定，或已经转办过两次，不能再转。",
    is_open_sample: "这个办件没有等待抽查。",
}
