"""What a refund does to its order: reservation, moves, ledger entries and events, decided together. Pure.

Never more goes back than came: what is reserved by all refunds of an attempt that have not failed is at most what the attempt paid, and
what is reserved for one agency at most its part. The check is made on the order that is then written by compare-and-set, so of two
refunds decided at once one is decided again on what the other has left.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from app.kernel.clock import format_utc
from app.kernel.events import Event, new_event
from payments.ledger import booking
from payments.ledger.entries import Entry
from payments.model import ORDER_MOVES, Attempt, AttemptState, Order, OrderState, Payable, event_data
from payments.provider import RefundProviderState, RefundReport
from payments.refund import ON_ITS_WAY, REFUND_MOVES, Refund, RefundKind, RefundState, next_refund_ask
from payments.refund_parts import parts_of, wholly_returned
from payments.store import Change

BY_STAFF = (RefundKind.STAFF, RefundKind.HELD)  # asked for by a person; above the threshold another one agrees
BY_ITSELF = "hall"  # who asked for and granted what is given back without a person


# --- how much ---


def refundable_fen(order: Order, attempt: Attempt, agency_id: str | None = None) -> int:
    """Return how much of a paid attempt may still be asked back, in fen; with `agency_id` of that agency's part alone."""
    if attempt.state is not AttemptState.PAID:
        return 0
    reserving = [refund for refund in order.refunds if refund.attempt_id == attempt.id and refund.is_reserving]
    left = attempt.paid_fen - sum(refund.amount_fen for refund in reserving)
    if agency_id is not None and not attempt.is_overpaid:
        part = sum(payable.amount_fen for payable in order.payables if payable.agency_id == agency_id)
        left = min(left, part - sum(refund.amount_fen for refund in reserving if refund.agency_id == agency_id))
    return max(0, left)


def needs_second_person(order: Order, amount_fen: int, threshold_fen: int) -> bool:
    """Say whether a further staff refund needs approval: the sum counts, so that nothing gets through in slices."""
    earlier = sum(refund.amount_fen for refund in order.refunds if refund.kind in BY_STAFF and refund.is_reserving)
    return earlier + amount_fen > threshold_fen


def refund_id_of(*parts: str) -> str:
    """Return the number of a refund that is made by itself: the same whoever makes it, however often."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return "rfd_" + base64.b32encode(digest).decode()[:26]


# --- making ---


def requested(order: Order, refund: Refund, now: datetime) -> Change:
    """Reserve the amount of a new refund that waits for a second person."""
    waiting = replace(refund, state=RefundState.REQUESTED, next_at=None)
    return _change(order, waiting, "request", now)


def granted(order: Order, refund: Refund, now: datetime) -> Change:
    """Reserve the amount of a new refund that is to be sent at once."""
    ready = replace(refund, state=RefundState.APPROVED, next_at=now)
    return _change(order, ready, "grant", now, entries=(booking.refund_reserved(order, ready, now),))


def overpaid_refund(order: Order, attempt: Attempt, now: datetime) -> Refund:
    """Return the refund of a payment that was too much: all of it, under a number that follows from the attempt."""
    return Refund(
        id=refund_id_of("overpaid", attempt.id),
        attempt_id=attempt.id,
        provider=attempt.provider,
        kind=RefundKind.OVERPAID,
        state=RefundState.APPROVED,
        amount_fen=attempt.paid_fen,
        reason="重复缴费退回",
        agency_id=order.agency_id,
        requested_by=BY_ITSELF,
        approved_by=BY_ITSELF,
        created_at=now,
    )


def refused_bill_refund(order: Order, payable_key: str, now: datetime) -> Change | None:
    """Give back what was paid for a bill that its department did not take; None when that is done, or nothing is left of it."""
    refund_id = refund_id_of("bill_refused", order.id, payable_key)
    payable = next((payable for payable in order.payables if payable.key == payable_key), None)
    attempt = order.paid_attempt
    if payable is None or attempt is None or order.refund(refund_id) is not None:
        return None
    order, dropped = _make_room(order, attempt, payable, now)
    amount_fen = min(payable.amount_fen, refundable_fen(order, attempt, payable.agency_id))
    if amount_fen < 1:
        return None
    refund = Refund(
        id=refund_id,
        attempt_id=attempt.id,
        provider=attempt.provider,
        kind=RefundKind.BILL_REFUSED,
        state=RefundState.APPROVED,
        amount_fen=amount_fen,
        reason="收款部门未确认，退回缴款",
        agency_id=payable.agency_id,
        requested_by=BY_ITSELF,
        approved_by=BY_ITSELF,
        created_at=now,
        payable_key=payable_key,
    )
    # The department owes nobody for this payment any more, so the bill may be paid again at once (at its right amount).
    change = granted(order, refund, now)
    return replace(change, events=(*dropped, *change.events), free_keys=(payable_key,))


def _make_room(order: Order, attempt: Attempt, payable: Payable, now: datetime) -> tuple[Order, list[Event]]:
    """Turn down what staff have asked for and nobody has agreed to, as far as it reserves what is to go back by itself.

    Otherwise nothing would go back by itself now, nor after the second person has said no.
    """
    events: list[Event] = []
    for refund in reversed(order.refunds):
        if refundable_fen(order, attempt, payable.agency_id) >= payable.amount_fen:
            break
        if refund.state is RefundState.REQUESTED and (refund.attempt_id, refund.agency_id) == (attempt.id, payable.agency_id):
            turned_down = rejected(order, refund, BY_ITSELF, "bill_refused", now)
            order, events = turned_down.order, [*events, *turned_down.events]
    return order, events


# --- the second person ---


def approved(order: Order, refund: Refund, account: str, now: datetime) -> Change:
    moved = refund.move("approve", approved_by=account, next_at=now)
    return _change(order, moved, "approve", now, entries=(booking.refund_reserved(order, moved, now),))


def rejected(order: Order, refund: Refund, account: str, reason: str, now: datetime) -> Change:
    return _change(order, refund.move("reject", rejected_by=account, failure=reason), "reject", now)


# --- sending and following ---

# WeChat Pay wants a minute between two refunds of one payment; Alipay three seconds.
PAUSE_BETWEEN = timedelta(seconds=61)


def may_send_at(order: Order, refund: Refund, now: datetime) -> datetime:
    """Return when a refund may go out: now, or later when another one of the same payment went out a moment ago."""
    others = [r.sent_at for r in order.refunds if r.attempt_id == refund.attempt_id and r.id != refund.id and r.sent_at]
    return max([now, *(sent_at + PAUSE_BETWEEN for sent_at in others)])


def is_still_there(order: Order, refund: Refund) -> bool:
    """Say whether what a refund is to give back has not gone back already (by one that had been called failed)."""
    attempt = order.attempt(refund.attempt_id)
    others = [r for r in order.refunds if r.attempt_id == refund.attempt_id and r.id != refund.id and r.is_reserving]
    return attempt is not None and sum(r.amount_fen for r in others) + refund.amount_fen <= attempt.paid_fen


def sending(order: Order, refund: Refund, request: str, now: datetime) -> Change:
    """Commit the request: from here on the provider may have it."""
    moved = refund.move("send", request=request, sent_at=now, asks=0)
    return _change(order, replace(moved, next_at=next_refund_ask(moved, now)), "send", now)


def postponed(order: Order, refund: Refund, next_at: datetime | None) -> Change:
    """Ask or send again later; one more question without news."""
    return _change(order, replace(refund, next_at=next_at, asks=refund.asks + 1), None, next_at or order.created_at)


def refused(order: Order, refund: Refund, code: str, now: datetime) -> Change:
    """End a refund that the provider will not make and does not know: its amount is free again."""
    return _closed(order, refund, code, now)


def withdrawn(order: Order, refund: Refund, now: datetime) -> Change:
    """End a refund that was never sent, because its money has gone back already."""
    return _closed(order, refund, "already_returned", now)


def told(order: Order, refund: Refund, report: RefundReport, now: datetime) -> Change | None:
    """Return what a verified report means; None for no news. "Arrived" is final, everything else may be overruled by it."""
    state, at_provider = report.state, RefundProviderState
    if refund.state in (RefundState.SUCCEEDED, RefundState.REQUESTED, RefundState.REJECTED, RefundState.APPROVED):
        return None
    number = report.provider_refund_no or refund.provider_refund_no
    known = replace(refund, provider_refund_no=number)
    # "Arrived" with another amount is not booked: a person looks at it.
    differs = state is at_provider.SUCCEEDED and report.amount_fen not in (None, refund.amount_fen)
    if state is at_provider.ABNORMAL or differs:
        if refund.state not in REFUND_MOVES["stall"].sources:
            return None
        stuck = known.move("stall", asks=0, failure="amount_differs" if differs else "abnormal")
        return _change(order, replace(stuck, next_at=next_refund_ask(stuck, now)), "stall", now)
    if state is at_provider.SUCCEEDED:
        done = known.move("succeed", refunded_at=report.refunded_at or now, next_at=None, failure="")
        done = replace(done, parts=parts_of(order, done))
        change = _change(order, done, "succeed", now, entries=(booking.refunded(order, done, now),))
        # What has gone back whole may be owed, and paid, again; whether it is, its source says when somebody asks.
        return replace(change, free_keys=wholly_returned(change.order))
    if state is at_provider.CLOSED:
        return None if refund.state is RefundState.CLOSED else _closed(order, known, "closed", now)
    if state is at_provider.PROCESSING and refund.state in REFUND_MOVES["process"].sources:
        taken = known.move("process", asks=0, failure="")
        return _change(order, replace(taken, next_at=next_refund_ask(taken, now)), "process", now)
    return None


def _closed(order: Order, refund: Refund, why: str, now: datetime) -> Change:
    ended = refund.move("close", next_at=None, failure=why, was_released=True)
    return _change(order, ended, "close", now, entries=(booking.refund_released(order, ended, now),))


# --- the order follows ---


def _change(order: Order, refund: Refund, move: str | None, now: datetime, entries: Sequence[Entry] = ()) -> Change:
    """Put a moved refund into its order, let the order's state follow, and name the events."""
    order = order.with_refund(refund)
    order = replace(order, refund_due_at=min((r.next_at for r in order.refunds if r.next_at), default=None))
    events: list[Event] = []
    event = REFUND_MOVES[move].event if move else None
    if event:
        events.append(refund_event(event, order, refund, now))
    following = _following(order)
    free_locks = False
    if following:
        order = order.move(following)
        events.append(refund_event(ORDER_MOVES[following].event or "", order, refund, now))
        # All of it went back: what it was for may be owed, and paid, again.
        free_locks = order.state is OrderState.REFUNDED
    return Change(order, tuple(events), entries=tuple(entries), free_locks=free_locks)


def _following(order: Order) -> str | None:
    """Return the order's move that its refunds call for; refunds of an overpayment leave the order as it is."""
    attempt = order.paid_attempt
    if attempt is None:
        return None
    own = [refund for refund in order.refunds if refund.attempt_id == attempt.id]
    returned_fen = sum(refund.amount_fen for refund in own if refund.state is RefundState.SUCCEEDED)
    if returned_fen >= attempt.amount_fen:
        move = "refund_all"
    elif any(refund.state in ON_ITS_WAY for refund in own):
        move = "start_refund"
    else:
        move = "refund_part" if returned_fen else "end_refund"
    return move if order.state in ORDER_MOVES[move].sources else None


def refund_event(name: str, order: Order, refund: Refund, now: datetime) -> Event:
    """Return an event of a refund; its subject is the order, which is what the resident knows."""
    data: dict[str, Any] = {
        **event_data(order, order.attempt(refund.attempt_id)),
        "refund_id": refund.id,
        "refund_fen": refund.amount_fen,
        "refund_kind": str(refund.kind),
        "refund_state": str(refund.state),
    }
    if refund.refunded_at is not None:
        data["refunded_at"] = format_utc(refund.refunded_at)
        returned = wholly_returned(order)
        data["refund_parts"] = [
            dict(zip(("kind", "id"), key.split(":", 1), strict=True)) | {"amount_fen": fen, "is_whole": key in returned}
            for key, fen in refund.parts
        ]
    return new_event(name, subject=("order", order.id), owner_id=order.owner_id, data=data, at=now)
