"""A payment of another amount than was asked for (attempt `held`): what it means, and the ways out of it. Pure.

| way out | attempt becomes | the money |
| --- | --- | --- |
| the true news comes, by notice or query | `paid` | out of suspense, then like any other payment |
| a person gives it back | `paid`, `is_overpaid` | out of suspense, booked as too much at the amount that came, refunded in full |
| it went back at the provider's own pages | `returned` | out of suspense: it is no longer there |

It is never settled as if it had fitted. Each way is decided on the order as it stands and written by compare-and-set, so of two that are
taken at once one is decided again on what the other has left: exactly one outcome.
"""

from dataclasses import replace
from datetime import datetime

from app.kernel.events import Event, new_event
from payments import refunding
from payments.ledger import booking
from payments.ledger.entries import Entry
from payments.model import ATTEMPT_MOVES, Attempt, AttemptState, Order, OrderState, event_data
from payments.provider import PaymentReport
from payments.refund import Refund, RefundKind, RefundState
from payments.store import Change


def suspended_fen(what: tuple[str, ...], report: PaymentReport) -> int:
    """Return how much of a report that does not fit lies at the provider for sure, in fen; of another currency nobody can say."""
    return 0 if "currency" in what else report.amount_fen or 0


def let_go(change: Change, attempt: Attempt, now: datetime) -> Change:
    """Add to the change that books the true news of a held attempt: out of suspense, and nobody gives it back any more."""
    order = change.order
    for refund in order.refunds:
        if refund.attempt_id == attempt.id and refund.state is RefundState.REQUESTED:
            order = order.with_refund(refund.move("reject", rejected_by=refunding.BY_ITSELF, failure="payment_fits"))
    return replace(change, order=order, entries=(*_released(order, attempt, now), *change.entries))


def asked_back(order: Order, refund: Refund, now: datetime) -> Change:
    """Let a second person decide whether a held payment is given back; until then it stays held."""
    return refunding.requested(order, refund, now)


def given_back(order: Order, attempt: Attempt, refund: Refund, now: datetime) -> Change:
    """Book what came as too much and grant its refund, or agree to the one that was asked for."""
    given = attempt.move(
        "give_back",
        is_overpaid=True,
        received_fen=attempt.reported_fen,
        paid_at=attempt.paid_at or now,
        decided_by=refund.approved_by or refund.requested_by,
        decision_note=refund.reason,
    )
    booked = _reopened(order.with_attempt(given), now)
    is_asked = order.refund(refund.id) is not None
    change = refunding.approved(booked, refund, refund.approved_by, now) if is_asked else refunding.granted(booked, refund, now)
    return replace(
        change,
        events=(_returned_event(booked, given, now), *change.events),
        entries=(*_released(booked, attempt, now), booking.overpaid(booked, given, now), *change.entries),
    )


def given_back_outside(order: Order, attempt: Attempt, account: str, note: str, now: datetime) -> Change:
    """Take a person's word that the money went back at the provider's own pages."""
    ended = attempt.move("give_back_outside", decided_by=account, decision_note=note)
    after = _reopened(order.with_attempt(ended), now)
    return let_go(Change(after, events=(_returned_event(after, ended, now),)), attempt, now)


def open_request(order: Order, attempt: Attempt) -> Refund | None:
    """Return the refund that waits for a second person, None when nobody has asked for one."""
    waiting = (r for r in order.refunds if r.attempt_id == attempt.id and r.kind is RefundKind.HELD)
    return next((refund for refund in waiting if refund.state is RefundState.REQUESTED), None)


def may_give_back(attempt: Attempt) -> bool:
    """Say whether the hall can give it back itself: it knows how many fen came."""
    return attempt.state is AttemptState.HELD and bool(attempt.reported_fen) and "currency" not in attempt.held_for


def _reopened(order: Order, now: datetime) -> Order:
    if order.state is not OrderState.PAYING or order.askable_attempts:
        return order
    return order.move("reopen", next_ask_at=max(order.expires_at, now))


def _released(order: Order, attempt: Attempt, now: datetime) -> tuple[Entry, ...]:
    return (booking.held_released(order, attempt, now),) if attempt.suspended_fen else ()


def _returned_event(order: Order, attempt: Attempt, now: datetime) -> Event:
    name = ATTEMPT_MOVES["give_back"].event or ""
    data = event_data(order, attempt, reported_fen=attempt.reported_fen)
    return new_event(name, subject=("order", order.id), owner_id=order.owner_id, data=data, at=now)
