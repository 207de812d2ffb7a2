"""A case (办件): one application of one resident for one item, with the item version it started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from app.kernel.clock import shanghai_day


class State(StrEnum):
    """States of api.md, in the order of a case's life."""

    DRAFT = "draft"
    SUBMITTED = "submitted"
    SUPPLEMENT_REQUIRED = "supplement_required"
    ACCEPTED = "accepted"
    NOT_ACCEPTED = "not_accepted"
    IN_REVIEW = "in_review"
    SUSPENDED = "suspended"
    AWAITING_PAYMENT = "awaiting_payment"
    APPROVED = "approved"
    DENIED = "denied"
    DELIVERING = "delivering"
    COMPLETED = "completed"
    WITHDRAWN = "withdrawn"


FINAL = frozenset({State.NOT_ACCEPTED, State.DENIED, State.COMPLETED, State.WITHDRAWN})

STATE_NAMES = {
    State.DRAFT: "草稿",
    State.SUBMITTED: "已提交，等待受理",
    State.SUPPLEMENT_REQUIRED: "需要补正材料",
    State.ACCEPTED: "已受理",
    State.NOT_ACCEPTED: "不予受理",
    State.IN_REVIEW: "审查中",
    State.SUSPENDED: "暂停计时",
    State.AWAITING_PAYMENT: "等待缴费",
    State.APPROVED: "准予，等待送达",
    State.DENIED: "不予办理",
    State.DELIVERING: "送达中",
    State.COMPLETED: "已办结",
    State.WITHDRAWN: "已撤回",
}


# Which clock of the office runs in a state; in the others the applicant acts, the law stops the clock, or nothing is due any more.
CLOCK_OF = {
    State.SUBMITTED: "acceptance",
    State.ACCEPTED: "decision",
    State.IN_REVIEW: "decision",
    State.APPROVED: "delivery",
    State.DELIVERING: "delivery",
}


@dataclass(frozen=True)
class TimelineEntry:
    """One line of what happened, as the resident reads it. `by` is a role or an agency, never a person's name."""

    at: datetime
    event: str
    by: str
    title: str
    detail: str = ""


@dataclass(frozen=True)
class Fee:
    """One fee of the case, frozen when the case was submitted. `state`: pending (not yet its step), due, paid, refunded (all of it)."""

    key: str
    name: str
    amount_fen: int
    when_paid: str
    basis: str
    state: str = "pending"
    order_id: str | None = None  # the order that paid it
    refunded_fen: int = 0


@dataclass(frozen=True)
class Suspension:
    """A time in which the law stops the clock (行政许可法 art. 45). `until_on` is None while it lasts.

    `kind` is one of steps.SPECIAL_PROCEDURES, the item's own name for it, or `payment` (the applicant's time, not the office's).
    `days` is the length told in writing, `expected_on` the day on which it should be over.
    """

    kind: str
    days: int
    from_on: date
    until_on: date | None = None
    reason: str = ""
    expected_on: date | None = None


@dataclass(frozen=True)
class Promise:
    """A material that comes later: tolerated as missing (`deferral`, 容缺受理) or promised instead of proven (`commitment`, 告知承诺).

    `due_on` is fixed at acceptance; `met_at` is when it came.
    """

    key: str
    name: str
    kind: str
    promised_at: datetime
    due_on: date | None = None
    met_at: datetime | None = None


@dataclass(frozen=True)
class Correction:
    """What the applicant asked to put right after submission, and the answer. Kept for ever, the old values too; sealed at rest.

    `outcome` is empty while nobody has answered, then `approved` or `refused`.
    """

    asked_at: datetime
    reason: str
    fields: Mapping[str, Any]
    old: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = ""
    answer: str = ""
    answered_at: datetime | None = None


@dataclass(frozen=True)
class Consultation:
    """A department that is asked beside or before the decision (并联审批), with a clock of its own.

    `mode` is `parallel` (all at once) or `serial` (one after the other). `answer` is empty while nobody has answered, then agreed, refused
    or noted (an opinion that neither agrees nor refuses); the last one given counts. `silent_on` is the day on which its time was over.
    """

    agency_id: str
    name: str
    task: str
    mode: str
    asked_at: datetime
    due_on: date
    answer: str = ""
    opinion: str = ""
    answered_at: datetime | None = None
    silent_on: date | None = None


@dataclass(frozen=True)
class Stage:
    """A stage of the review, one after the other; the last one ends with the decision. `due_on` is planned when the one before has ended."""

    key: str
    name: str
    days: int
    clock: str = "running"
    due_on: date | None = None
    done_at: datetime | None = None
    note: str = ""


@dataclass(frozen=True)
class Acting:
    """Who of the staff is about to act on a case. Guards look at it; it is not stored."""

    account: str
    agency_id: str
    is_head: bool = False


@dataclass(frozen=True)
class Case:
    """A case, opened. `form` and `applicant_name` hold personal data in clear here: never log them.

    Moments are aware UTC, days are Shanghai days, money is fen. `version` counts changes and guards every write.
    """

    id: str
    number: str
    query_code: str
    owner_id: str
    item_code: str
    item_version: int
    item_name: str
    agency_id: str
    agency_name: str
    division_code: str
    state: State
    version: int
    created_at: datetime
    updated_at: datetime
    answers: Mapping[str, Any] = field(default_factory=dict)
    form: Mapping[str, Any] = field(default_factory=dict)
    materials: Mapping[str, Any] = field(default_factory=dict)  # key -> {"files": [...], "licence_id": str | None}
    field_versions: Mapping[str, int] = field(default_factory=dict)  # "form/<key>", "answers/<key>" -> version that last changed it
    form_dropped: Mapping[str, Any] = field(default_factory=dict)  # key -> {"label", "value"}: answers a newer form has no place for
    carried_over: Mapping[str, Any] | None = None  # {"from", "to", "changes": [...]}: the draft moved to a newer item version
    fees: tuple[Fee, ...] = ()
    timeline: tuple[TimelineEntry, ...] = ()
    suspensions: tuple[Suspension, ...] = ()
    resume_state: State | None = None  # where the case goes on after a payment or a suspension
    assignee: str | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)  # what the item says of its steps (procedure.rules_of), as at submission
    # The last notice: {"requested_at", "missing": [{"key","name","reason"}], "returned_at", "by_on", "remind_on", "by_superior", "reason"}
    supplement: Mapping[str, Any] | None = None
    past_supplements: tuple[Mapping[str, Any], ...] = ()  # earlier notices: more than one counts against the office
    pre_review: Mapping[str, Any] | None = None  # {"at", "note"}: said to be in order before acceptance (预审)
    refusal: Mapping[str, Any] | None = None  # {"at", "reason", "rule", "right_body", "code"}: why not accepted
    promises: tuple[Promise, ...] = ()
    corrections: tuple[Correction, ...] = ()
    departments: tuple[Consultation, ...] = ()
    stages: tuple[Stage, ...] = ()
    proposal: Mapping[str, Any] | None = None  # {"at", "by", "outcome", "opinion"}: what a second person shall decide
    accepted_by: str | None = None  # the account that accepted it
    transfers: tuple[Mapping[str, Any], ...] = ()  # {"at", "from", "from_name", "to", "reason"}: bodies that had it before
    by_person: bool = False  # the applicant wants a person to decide, not rules
    auto: Mapping[str, Any] | None = None  # {"at", "rule_set", "version", "facts": [...], "doubts": [...]}: what rules found (秒批)
    sample: Mapping[str, Any] | None = None  # {"state": open | done, "finding", "note", "by", "at"}: decided by rules, looked at afterwards
    acting: Acting | None = None  # not stored
    extension: Mapping[str, Any] | None = None  # {"at", "days", "unit", "reason", "old_deadline_on"} (行政许可法 art. 42)
    is_deemed_accepted: bool = False  # by law, because the office was silent (art. 32)
    reminded: tuple[str, ...] = ()  # what was reminded or warned of, each once
    channel: str = "online"  # or `window`: opened by a clerk for a resident who stands before them
    taken_in_by: str | None = None  # that clerk's account
    window: Mapping[str, Any] | None = None  # {"by", "at"}: whose window the applicant came to with what a notice asks for
    from_case: str | None = None  # the earlier case whose data this one began with
    begun_as: str | None = None  # drafts.beginning: of pages that stood open side by side only one begins a draft
    # {"told_at", "reason", "ask_by_on", "asked_at", "waived_at", "hold_by_on", "held_on", "record"}: the hearing before the decision
    hearing: Mapping[str, Any] | None = None
    # {"licence_id", "number", "expires_on", "apply_by_on", "in_time", "law"}: the licence that this case renews (renewals.py)
    renewal: Mapping[str, Any] | None = None
    decision: Mapping[str, Any] | None = None  # {"outcome", "opinion", "at"}
    delivery: Mapping[str, Any] | None = None  # {"method", "tracking", "at"}
    evaluation_level: int | None = None
    last_command: str | None = None  # the idempotency seed of the last submit or supplement: its retry finds it here
    refused_orders: tuple[str, ...] = ()  # orders whose money this case did not need
    noted_refunds: tuple[str, ...] = ()  # refunds that stand in the timeline
    submitted_at: datetime | None = None
    received_at: datetime | None = None  # when the acceptance clock last began: submission, payment, or the return of a supplement
    accepted_at: datetime | None = None
    decided_at: datetime | None = None
    completed_at: datetime | None = None
    accept_by_on: date | None = None  # by when acceptance must be decided
    accept_by_estimated: bool = False
    deadline_on: date | None = None  # by when the case must be decided: the earlier of promise and law
    deadline_estimated: bool = False
    fee_due_on: date | None = None  # since when a fee is waited for
    deliver_by_on: date | None = None  # by when the result must be handed over (art. 44)
    warn_on: date | None = None  # from which day the clock that runs is yellow

    @property
    def due_fees(self) -> tuple[Fee, ...]:
        return tuple(fee for fee in self.fees if fee.state == "due")

    @property
    def is_open(self) -> bool:
        return self.state not in FINAL

    @property
    def clock(self) -> str | None:
        """Return which clock of the office runs now: acceptance, decision, delivery, or None while it is stopped or over."""
        return CLOCK_OF.get(self.state)

    @property
    def due_on(self) -> date | None:
        """Return the day by which the office must act: of the clock that runs, or the announced end of a special procedure."""
        if self.state is State.SUSPENDED:
            return self.suspensions[-1].expected_on
        days = {"acceptance": self.accept_by_on, "decision": self.deadline_on, "delivery": self.deliver_by_on}
        return days.get(self.clock or "")

    @property
    def open_promises(self) -> tuple[Promise, ...]:
        return tuple(promise for promise in self.promises if promise.met_at is None)

    @property
    def begun_promises(self) -> frozenset[str]:
        """Return the promised materials of which files have come: a second page may follow the first."""
        return frozenset(each.key for each in self.promises if each.met_at is not None and self.materials.get(each.key, {}).get("files"))

    @property
    def lost_materials(self) -> tuple[str, ...]:
        """Return the materials whose licence was lost after acceptance and not replaced (replacements.py)."""
        return tuple(key for key, held in self.materials.items() if held.get("lost"))

    @property
    def open_correction(self) -> Correction | None:
        return next((asked for asked in self.corrections if not asked.outcome), None)

    @property
    def open_departments(self) -> tuple[Consultation, ...]:
        """Return the departments that were asked and have not answered."""
        return tuple(asked for asked in self.departments if not asked.answer)

    @property
    def joint_due_on(self) -> date | None:
        """Return the day by which all departments should have answered: the longest path, never the sum of those side by side."""
        return max((asked.due_on for asked in self.departments), default=None)

    @property
    def stage(self) -> Stage | None:
        """Return the stage that runs now."""
        return next((stage for stage in self.stages if stage.done_at is None), None) if self.decision is None else None

    @property
    def skipped_stages(self) -> tuple[Stage, ...]:
        """Return what a decision now would leave out. The last stage is the decision's own."""
        return tuple(stage for stage in self.stages[:-1] if stage.done_at is None)

    @property
    def window_accounts(self) -> frozenset[str]:
        """Return who has taken this case in at a window, or something that a notice asked for."""
        by = {self.taken_in_by, *(notice.get("taken_in_by") for notice in self.supplements)}
        return frozenset(account for account in by if account)

    @property
    def supplements(self) -> tuple[Mapping[str, Any], ...]:
        """Return every notice of what is missing, oldest first."""
        return self.past_supplements + ((self.supplement,) if self.supplement is not None else ())


# While a case is in one of these, a department that was asked can answer.
CONSULTED = frozenset({State.ACCEPTED, State.IN_REVIEW, State.SUSPENDED, State.AWAITING_PAYMENT})
# While a case is in one of these, its renewal waits for the office; elsewhere the applicant is to act first.
RENEWABLE = frozenset({State.ACCEPTED, State.IN_REVIEW, State.SUSPENDED})

FEE_REMINDER = timedelta(days=3)  # no period of any law: a friendly word, once


def look_on(case: Case) -> date | None:
    """Return the first day on which a step of the hall itself can be due (machine.SWEPT), or None."""
    days: list[date | None] = []
    past = timedelta(days=1)
    if case.state is State.SUBMITTED and case.accept_by_on:
        days.append(case.accept_by_on + past)
    elif case.state is State.SUPPLEMENT_REQUIRED and case.supplement is not None and case.supplement.get("by_on"):
        if reminder_of(case) not in case.reminded:
            days.append(date.fromisoformat(case.supplement["remind_on"]))
        if case.rules.get("supplement_expiry") != "keep":
            days.append(date.fromisoformat(case.supplement["by_on"]) + past)
    elif case.state is State.SUSPENDED and case.suspensions[-1].expected_on and reminder_of(case) not in case.reminded:
        days.append(case.suspensions[-1].expected_on + past)
    elif case.state is State.AWAITING_PAYMENT and case.fee_due_on and reminder_of(case) not in case.reminded:
        days.append(case.fee_due_on + FEE_REMINDER)
    if case.clock and case.due_on and card_of(case, "red") not in case.reminded:
        is_warned = case.warn_on is None or card_of(case, "yellow") in case.reminded
        days.append(case.due_on + past if is_warned else case.warn_on)
    if case.state in RENEWABLE and (ends_on := renewal_ends_on(case)):
        days.append(ends_on + past)
    if case.state in CONSULTED and case.decision is None:
        days += [asked.due_on + past for asked in case.open_departments if asked.silent_on is None]
    if case.is_open or case.state is State.COMPLETED:
        days += [
            promise.due_on + past
            for promise in case.open_promises
            if promise.due_on and f"promise:{promise.key}" not in case.reminded
        ]
    return min((day for day in days if day is not None), default=None)


def renewal_ends_on(case: Case) -> date | None:
    """Return the last day on which the office may still decide a renewal that was applied for in time, or None.

    None too where the applicant kept the office from deciding: what a notice or a fee waited for came only after that day.
    """
    if case.renewal is None or not case.renewal["in_time"] or case.decision is not None:
        return None
    ends_on = date.fromisoformat(case.renewal["expires_on"])
    if case.received_at is not None and shanghai_day(case.received_at) > ends_on:
        return None
    owed = (stop for stop in case.suspensions if stop.kind == "payment" and stop.from_on <= ends_on)
    return None if any(stop.until_on is None or stop.until_on > ends_on for stop in owed) else ends_on


def reminder_of(case: Case) -> str:
    """Return the name under which the reminder of what the case waits for now is noted, so that it is told once."""
    match case.state:
        case State.SUPPLEMENT_REQUIRED:
            return f"supplement:{len(case.supplements)}"
        case State.SUSPENDED:
            return f"suspension:{len(case.suspensions)}"
        case _:
            return f"fee:{case.fee_due_on}"


def card_of(case: Case, card: str) -> str:
    """Return the name under which the yellow or red card of the clock that runs is noted: once each per clock.

    A clock that began anew after a notice, or was extended, is another clock.
    """
    if case.clock == "acceptance":
        return f"{card}:acceptance:{len(case.supplements)}"
    return f"{card}:{case.clock}{':extended' if case.clock == 'decision' and case.extension else ''}"
