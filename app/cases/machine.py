"""The life of a case: one table of named transitions. Nothing else in the hall says what may be done to a case, or changes its state.

Each row has one actor, one target, a guard, what it does to the office's clock, and the event that is told of it. docs/cases.md shows the
table as a diagram and as text (app/cases/diagram.py prints both from here).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cache

from app.cases import guards
from app.cases.model import CLOCK_OF, CONSULTED, FINAL, Case, State
from app.kernel.clock import today

RESIDENT, CLERK, HEAD, SYSTEM = "resident", "clerk", "head", "system"
DEPARTMENT = "department"  # the staff of another agency, which is asked
# A head may do all that a clerk may.
_RANKS = {RESIDENT: (RESIDENT,), CLERK: (CLERK,), HEAD: (CLERK, HEAD), DEPARTMENT: (DEPARTMENT,), SYSTEM: (SYSTEM,)}

Guard = Callable[[Case, date], bool]
S = State


class Clock(StrEnum):
    """What a step does to the office's clock."""

    NONE = "-"
    STARTS_ACCEPTANCE = "starts acceptance"
    STOPS_ACCEPTANCE = "stops acceptance"
    STARTS_DECISION = "ends acceptance, starts decision"
    STOPS_DECISION = "stops decision"
    RESUMES_DECISION = "resumes decision"
    EXTENDS_DECISION = "extends decision"
    RECOMPUTES = "recomputes"
    STARTS_DELIVERY = "ends decision, starts delivery"
    STOPS_DELIVERY = "stops delivery"
    RESUMES_DELIVERY = "starts delivery"
    ENDS = "ends"


@dataclass(frozen=True)
class Transition:
    """A named step.

    Attributes:
        name: the action's name in the API (residents, staff) or in the code (system).
        actor: who may take it; a head may take a clerk's.
        sources: states it starts from.
        target: the state it leads to; None means the state stays.
        event: what is told of it; empty means nothing.
        clock: what it does to the office's clock.
        guard: what must hold beyond the state, on the given Shanghai day; `guards.REASONS` says it to the person.
        law: where the rule comes from.
    """

    name: str
    actor: str
    sources: frozenset[State]
    target: State | None
    event: str
    clock: Clock
    guard: Guard
    law: str


def _t(
    name: str,
    actor: str,
    sources: tuple[State, ...],
    target: State | None = None,
    event: str = "",
    clock: Clock = Clock.NONE,
    guard: Guard = guards.always,
    law: str = "",
) -> Transition:
    return Transition(name, actor, frozenset(sources), target, event, clock, guard, law)


_WITHDRAWABLE = (
    S.DRAFT, S.SUBMITTED, S.SUPPLEMENT_REQUIRED, S.ACCEPTED, S.IN_REVIEW, S.SUSPENDED, S.AWAITING_PAYMENT,
)  # fmt: skip
_HANDLED = (S.SUBMITTED, S.ACCEPTED, S.IN_REVIEW, S.SUSPENDED)
_HAND_IN = (
    S.ACCEPTED, S.IN_REVIEW, S.SUSPENDED, S.AWAITING_PAYMENT, S.APPROVED, S.DELIVERING, S.COMPLETED,
)  # fmt: skip
_UNDECIDED = (S.ACCEPTED, S.IN_REVIEW, S.SUSPENDED, S.AWAITING_PAYMENT)
_ON_THE_CLOCK = tuple(CLOCK_OF)
_RENEWING = (S.SUBMITTED, S.SUPPLEMENT_REQUIRED, *_UNDECIDED)

TABLE: tuple[Transition, ...] = (
    # --- the resident ---
    _t("save", RESIDENT, (S.DRAFT, S.SUPPLEMENT_REQUIRED)),
    _t("promise", RESIDENT, (S.DRAFT, S.SUPPLEMENT_REQUIRED), guard=guards.offers_promises, law="广东营商条例 32, 36"),
    _t("submit", RESIDENT, (S.DRAFT,), S.SUBMITTED, "case.submitted", Clock.STARTS_ACCEPTANCE, law="许可法 29, 32"),
    _t("supplement", RESIDENT, (S.SUPPLEMENT_REQUIRED,), S.SUBMITTED, "case.supplemented", Clock.STARTS_ACCEPTANCE, law="许可法 32"),
    _t("pay", RESIDENT, (S.AWAITING_PAYMENT,)),  # opens an order; the case moves by fee_paid
    _t("correction", RESIDENT, _HANDLED, None, "case.correction_asked", guard=guards.no_open_correction),
    _t("hand_in", RESIDENT, _HAND_IN, None, "case.material_handed_in", guard=guards.owes_material, law="广东营商条例 32"),
    _t("replace_material", RESIDENT, _UNDECIDED, None, "case.material_replaced", guard=guards.has_lost_licence),
    _t("ask_hearing", RESIDENT, _UNDECIDED, None, "case.hearing_asked", guard=guards.may_ask_hearing, law="许可法 47"),
    _t("waive_hearing", RESIDENT, _UNDECIDED, None, "case.hearing_waived", guard=guards.may_ask_hearing, law="许可法 47"),
    _t("withdraw", RESIDENT, _WITHDRAWABLE, S.WITHDRAWN, "case.withdrawn", Clock.ENDS, guards.undecided),
    _t("evaluate", RESIDENT, (S.NOT_ACCEPTED, S.DENIED, S.DELIVERING, S.COMPLETED), None, "case.evaluated", guard=guards.unrated),
    # --- the agency's clerks ---
    _t("claim", CLERK, (S.SUBMITTED, S.IN_REVIEW, S.APPROVED)),
    _t("claim", CLERK, (S.ACCEPTED,), S.IN_REVIEW, "case.review_started"),
    _t("pre_review", CLERK, (S.SUBMITTED,), None, "case.pre_reviewed", guard=guards.not_pre_reviewed),
    _t(
        "request_supplement", CLERK, (S.SUBMITTED,), S.SUPPLEMENT_REQUIRED, "case.supplement_requested",
        Clock.STOPS_ACCEPTANCE, guards.first_notice_in_time, "许可法 32",
    ),
    # A second notice is against the one-time rule: only the head, who says why, and it counts against the office.
    _t(
        "request_supplement", HEAD, (S.SUBMITTED,), S.SUPPLEMENT_REQUIRED, "case.supplement_requested",
        Clock.STOPS_ACCEPTANCE, guards.further_notice_in_time, "许可法 32",
    ),
    _t("accept", CLERK, (S.SUBMITTED,), S.ACCEPTED, "case.accepted", Clock.STARTS_DECISION, guards.acceptance_in_time, "许可法 32"),
    _t("reject", CLERK, (S.SUBMITTED,), S.NOT_ACCEPTED, "case.not_accepted", Clock.ENDS, guards.acceptance_in_time, "许可法 32"),
    _t("correct", CLERK, _HANDLED, None, "case.correction_answered", guard=guards.has_open_correction),
    _t("tell_hearing", CLERK, (S.ACCEPTED, S.IN_REVIEW), None, "case.hearing_told", guard=guards.may_tell_hearing, law="许可法 46, 47"),
    _t("suspend", CLERK, (S.ACCEPTED, S.IN_REVIEW), S.SUSPENDED, "case.suspended", Clock.STOPS_DECISION, law="许可法 45"),
    _t("resume", CLERK, (S.SUSPENDED,), S.IN_REVIEW, "case.resumed", Clock.RESUMES_DECISION, law="许可法 45"),
    _t(
        "extend", HEAD, (S.ACCEPTED, S.IN_REVIEW), None, "case.extended",
        Clock.EXTENDS_DECISION, guards.may_extend, "许可法 42",
    ),
    _t(
        "decide", CLERK, (S.ACCEPTED, S.IN_REVIEW), S.APPROVED, "case.approved",
        Clock.STARTS_DELIVERY, guards.may_approve, "许可法 34, 38, 44",
    ),
    _t("decide", CLERK, (S.ACCEPTED, S.IN_REVIEW), S.DENIED, "case.denied", Clock.ENDS, guards.may_deny, "许可法 38"),
    # Between colleagues: the applicant is told of the decision, not of what was proposed.
    _t("propose", CLERK, (S.ACCEPTED, S.IN_REVIEW), guard=guards.asks_for_second_person, law="许可法 34"),
    _t("finish_stage", CLERK, (S.ACCEPTED, S.IN_REVIEW), None, "case.stage_finished", guard=guards.has_further_stage),
    _t("transfer", CLERK, (S.SUBMITTED, S.ACCEPTED, S.IN_REVIEW), None, "case.transferred", guard=guards.may_transfer, law="许可法 26, 32"),
    _t("give_opinion", DEPARTMENT, tuple(CONSULTED), None, "case.department_answered", guard=guards.is_consulted, law="许可法 26"),
    # By post without a tracking number: on its way to the post; with one, or in any other way: done.
    _t("deliver", CLERK, (S.APPROVED,), S.DELIVERING, "case.delivering", law="许可法 44"),
    _t("deliver", CLERK, (S.APPROVED, S.DELIVERING), S.COMPLETED, "case.completed", Clock.ENDS, law="许可法 44"),
    # Whatever somebody has can be handed over: who has left waits for no payment and posts no letter.
    _t("reassign", CLERK, tuple(state for state in S if state not in (S.DRAFT, *FINAL))),
    # --- the hall itself, as a consequence of a step ---
    _t("require_fee", SYSTEM, (S.SUBMITTED,), S.AWAITING_PAYMENT, "case.fee_due", Clock.STOPS_ACCEPTANCE, law="许可法 58, 59"),
    _t("require_fee", SYSTEM, (S.ACCEPTED,), S.AWAITING_PAYMENT, "case.fee_due", Clock.STOPS_DECISION, law="许可法 58, 59"),
    _t("require_fee", SYSTEM, (S.APPROVED,), S.AWAITING_PAYMENT, "case.fee_due", Clock.STOPS_DELIVERY, law="许可法 58, 59"),
    _t("fee_paid", SYSTEM, (S.AWAITING_PAYMENT,), S.SUBMITTED, "case.fee_paid", Clock.STARTS_ACCEPTANCE, guards.paid_before(S.SUBMITTED)),
    _t("fee_paid", SYSTEM, (S.AWAITING_PAYMENT,), S.ACCEPTED, "case.fee_paid", Clock.RESUMES_DECISION, guards.paid_before(S.ACCEPTED)),
    _t("fee_paid", SYSTEM, (S.AWAITING_PAYMENT,), S.APPROVED, "case.fee_paid", Clock.RESUMES_DELIVERY, guards.paid_before(S.APPROVED)),
    _t("complete", SYSTEM, (S.APPROVED,), S.COMPLETED, "case.completed", Clock.ENDS),
    _t("ask_departments", SYSTEM, (S.ACCEPTED,), None, "case.departments_asked", guard=guards.has_departments_to_ask, law="许可法 26"),
    # A licence is asked for again whenever the office acts: what has run out or was annulled satisfies no material any more.
    _t("lose_licence", SYSTEM, _UNDECIDED, None, "case.licence_lost", guard=guards.holds_licence),
    _t("regain_licence", SYSTEM, _UNDECIDED, None, "case.licence_regained", guard=guards.has_lost_licence),
    # 秒批: rules on shared data, no discretion; any doubt, and the case stays with people.
    _t("auto_accept", SYSTEM, (S.SUBMITTED,), S.ACCEPTED, "case.accepted", Clock.STARTS_DECISION, guards.rules_are_sure, "国务院令 716"),
    _t("auto_approve", SYSTEM, (S.ACCEPTED,), S.APPROVED, "case.approved", Clock.STARTS_DELIVERY, guards.rules_are_sure, "国务院令 716"),
    _t("audit_sample", HEAD, (S.APPROVED, S.DELIVERING, S.COMPLETED), guard=guards.is_open_sample),
    _t("recompute", SYSTEM, _HANDLED + (S.AWAITING_PAYMENT, S.APPROVED, S.DELIVERING), None, "case.deadline_changed", Clock.RECOMPUTES, law="许可法 82"),
    _t("note_renewal", SYSTEM, _RENEWING, guard=guards.renewal_not_noted, law="许可法 50"),
    # --- the hall itself, when a day has passed: the sweep takes them in this order ---
    _t(
        "deem_accepted", SYSTEM, (S.SUBMITTED,), S.ACCEPTED, "case.deemed_accepted",
        Clock.STARTS_DECISION, guards.acceptance_overdue, "许可法 32",
    ),
    # Applied for in time, not decided before the old term ended. Time and stops of the case's own clocks do not move that end.
    _t(
        "deem_renewed", SYSTEM, (S.ACCEPTED, S.IN_REVIEW, S.SUSPENDED), S.APPROVED, "case.deemed_renewed",
        Clock.STARTS_DELIVERY, guards.renewal_overdue, "许可法 50",
    ),
    _t(
        "expire_supplement", SYSTEM, (S.SUPPLEMENT_REQUIRED,), S.NOT_ACCEPTED, "case.supplement_expired",
        Clock.ENDS, guards.supplement_expired,
    ),
    _t("remind_supplement", SYSTEM, (S.SUPPLEMENT_REQUIRED,), None, "case.supplement_reminder", guard=guards.supplement_ends_soon),
    _t("warn_suspension", SYSTEM, (S.SUSPENDED,), None, "case.suspension_overdue", guard=guards.suspension_too_long, law="许可法 45"),
    _t("remind_fee", SYSTEM, (S.AWAITING_PAYMENT,), None, "case.fee_reminder", guard=guards.fee_unpaid_for_long),
    _t("warn_promise", SYSTEM, _HAND_IN, None, "case.promise_overdue", guard=guards.promise_overdue, law="广东营商条例 32, 36"),
    _t("note_silence", SYSTEM, tuple(CONSULTED), None, "case.department_silent", guard=guards.department_overdue, law="许可法 26"),
    _t("warn_yellow", SYSTEM, _ON_THE_CLOCK, None, "case.warned", guard=guards.clock_runs_short),
    _t("warn_red", SYSTEM, _ON_THE_CLOCK, None, "case.warned", guard=guards.clock_overdue),
)  # fmt: skip

SWEPT = (
    "deem_accepted", "deem_renewed", "expire_supplement", "remind_supplement", "warn_suspension", "remind_fee", "warn_promise", "note_silence",
    "warn_yellow", "warn_red",
)  # fmt: skip


def transition(name: str, state: State) -> Transition | None:
    """Return the first transition of this name from this state, or None."""
    return next((step for step in TABLE if step.name == name and state in step.sources), None)


@cache
def _rows(actor: str, state: State) -> tuple[Transition, ...]:
    """Return the rows of the table that are this kind of actor's in a state."""
    return tuple(step for step in TABLE if step.actor in _RANKS[actor] and state in step.sources)


def find(case: Case, name: str, actor: str, on: date, to: State | None = None) -> Transition | None:
    """Return the row that lets this actor take the named step on that day, or None.

    Args:
        to: the state it must lead to, when the name leads to several.
    """
    for step in _rows(actor, case.state):
        if step.name == name:
            if to in (None, step.target, case.state if step.target is None else None) and step.guard(case, on):
                return step
    return None


def refusal(case: Case, name: str, actor: str, on: date, to: State | None = None) -> str:
    """Return the sentence that says why the named step cannot be taken."""
    for step in TABLE:
        if step.name == name and step.actor in _RANKS[actor] and case.state in step.sources and to in (None, step.target):
            return guards.REASONS.get(step.guard, _WRONG_STATE)
    return _WRONG_STATE


_WRONG_STATE = "办件现在的状态不能这样操作，请刷新后查看可以做什么。"


def allowed_actions(case: Case, actor: str, on: date | None = None) -> list[str]:
    """Return the names of what this kind of actor can do with the case on that day (today), in the table's order."""
    day = on or today()
    return list(dict.fromkeys(step.name for step in _rows(actor, case.state) if step.guard(case, day)))
