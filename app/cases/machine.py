"""The life of a case: one table of named transitions, each with its actor, the states it starts from and its event.

Whether a transition is possible beyond the state (guards) is said by `possible`. Nothing else in the hall changes a case's state.
"""

from dataclasses import dataclass

from app.cases.model import Case, State

RESIDENT, CLERK, SYSTEM = "resident", "clerk", "system"
S = State


@dataclass(frozen=True)
class Transition:
    """A named step.

    Attributes:
        name: the action's name in the API (residents, clerks) or in the code (system).
        actor: who may take it.
        sources: states it starts from.
        targets: states it can lead to; empty means the state stays.
        event: what is told of it; empty means nothing.
    """

    name: str
    actor: str
    sources: frozenset[State]
    targets: frozenset[State]
    event: str


def _t(name: str, actor: str, sources: tuple[State, ...], targets: tuple[State, ...], event: str = "") -> Transition:
    return Transition(name, actor, frozenset(sources), frozenset(targets), event)


_WITHDRAWABLE = (
    S.DRAFT, S.SUBMITTED, S.SUPPLEMENT_REQUIRED, S.ACCEPTED, S.IN_REVIEW, S.SUSPENDED, S.AWAITING_PAYMENT,
)  # fmt: skip

TABLE: tuple[Transition, ...] = (
    # --- the resident ---
    _t("save", RESIDENT, (S.DRAFT, S.SUPPLEMENT_REQUIRED), ()),
    _t("submit", RESIDENT, (S.DRAFT,), (S.SUBMITTED,), "case.submitted"),
    _t("supplement", RESIDENT, (S.SUPPLEMENT_REQUIRED,), (S.SUBMITTED,), "case.supplemented"),
    _t("pay", RESIDENT, (S.AWAITING_PAYMENT,), ()),  # opens an order; the case moves by fee_paid
    _t("withdraw", RESIDENT, _WITHDRAWABLE, (S.WITHDRAWN,), "case.withdrawn"),
    _t("evaluate", RESIDENT, (S.NOT_ACCEPTED, S.DENIED, S.DELIVERING, S.COMPLETED), (), "case.evaluated"),
    # --- the agency's clerks ---
    _t("claim", CLERK, (S.SUBMITTED, S.IN_REVIEW, S.APPROVED), ()),
    _t("claim", CLERK, (S.ACCEPTED,), (S.IN_REVIEW,), "case.review_started"),
    _t("request_supplement", CLERK, (S.SUBMITTED,), (S.SUPPLEMENT_REQUIRED,), "case.supplement_requested"),
    _t("accept", CLERK, (S.SUBMITTED,), (S.ACCEPTED,), "case.accepted"),
    _t("reject", CLERK, (S.SUBMITTED,), (S.NOT_ACCEPTED,), "case.not_accepted"),
    _t("suspend", CLERK, (S.ACCEPTED, S.IN_REVIEW), (S.SUSPENDED,), "case.suspended"),
    _t("resume", CLERK, (S.SUSPENDED,), (S.IN_REVIEW,), "case.resumed"),
    # The event of decide is case.approved or case.denied, by the outcome.
    _t("decide", CLERK, (S.ACCEPTED, S.IN_REVIEW), (S.APPROVED, S.DENIED), "case.approved"),
    # By post without a tracking number: on its way to the post; with one, or in any other way: done.
    _t("deliver", CLERK, (S.APPROVED, S.DELIVERING), (S.DELIVERING, S.COMPLETED), "case.completed"),
    _t("reassign", CLERK, (S.SUBMITTED, S.SUPPLEMENT_REQUIRED, S.ACCEPTED, S.IN_REVIEW, S.SUSPENDED, S.APPROVED), ()),
    # --- the hall itself ---
    _t("require_fee", SYSTEM, (S.SUBMITTED, S.ACCEPTED, S.APPROVED), (S.AWAITING_PAYMENT,), "case.fee_due"),
    _t("fee_paid", SYSTEM, (S.AWAITING_PAYMENT,), (S.SUBMITTED, S.ACCEPTED, S.APPROVED), "case.fee_paid"),
    _t("complete", SYSTEM, (S.APPROVED,), (S.COMPLETED,), "case.completed"),
    _t("recompute", SYSTEM, (S.SUBMITTED, S.ACCEPTED, S.IN_REVIEW, S.AWAITING_PAYMENT), (), "case.deadline_changed"),
)


def transition(name: str, state: State) -> Transition | None:
    """Return the transition of this name from this state, or None."""
    return next((step for step in TABLE if step.name == name and state in step.sources), None)


def possible(case: Case, step: Transition) -> bool:
    """Say whether the guards let this case take a step whose state fits."""
    match step.name:
        case "request_supplement":
            # 行政许可法 art. 32: everything that is missing is told once, in one notice.
            return case.supplement is None
        case "evaluate":
            return case.evaluation_level is None
        case "withdraw":
            # Before the decision, at the applicant's wish; a fee before issue comes after the decision.
            return case.decision is None
        case _:
            return True


def allowed_actions(case: Case, actor: str) -> list[str]:
    """Return the names of what this kind of actor can do with the case now, in the table's order."""
    names = [step.name for step in TABLE if step.actor == actor and case.state in step.sources and possible(case, step)]
    return list(dict.fromkeys(names))
