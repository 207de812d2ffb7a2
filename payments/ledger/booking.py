"""What payments and refunds mean in the ledger: each effect and its entry. Pure; `expected_entries` says it again from an order alone."""

from collections.abc import Iterator
from datetime import datetime

from payments.ledger.entries import OVERPAID, REFUND_OUT, Entry, agency_account, entry_lines, provider_account, suspense_account
from payments.model import Attempt, AttemptState, Order
from payments.refund import ON_ITS_WAY, Refund, RefundState


def settled(order: Order, attempt: Attempt, at: datetime) -> Entry:
    """Return the entry of the payment that settles an order: money at the provider, owed to each agency for its part."""
    return Entry(
        fact=f"settled:{attempt.id}",
        at=at,
        lines=entry_lines(
            (provider_account(attempt.provider), attempt.amount_fen),
            *((agency_account(payable.agency_id), -payable.amount_fen) for payable in order.payables),
        ),
        order_id=order.id,
        provider=attempt.provider,
        agency_id=order.agency_id,
        memo="payment",
    )


def overpaid(order: Order, attempt: Attempt, at: datetime) -> Entry:
    """Return the entry of a payment beyond the one that settled, or of a closed order: owed back to the resident."""
    return Entry(
        fact=f"overpaid:{attempt.id}",
        at=at,
        lines=entry_lines((provider_account(attempt.provider), attempt.paid_fen), (OVERPAID, -attempt.paid_fen)),
        order_id=order.id,
        provider=attempt.provider,
        agency_id=order.agency_id,
        memo="paid more than was owed",
    )


def held(order: Order, attempt: Attempt, at: datetime) -> Entry:
    """Return the entry of a payment of another amount than was asked for: it lies at the provider, and nobody knows yet what it is."""
    return _of_held("held", order, attempt, at, attempt.suspended_fen)


def held_released(order: Order, attempt: Attempt, at: datetime) -> Entry:
    """Return the entry that takes a held payment out of suspense: it is booked as what it is, or is no longer there."""
    return _of_held("held_released", order, attempt, at, -attempt.suspended_fen)


def _of_held(kind: str, order: Order, attempt: Attempt, at: datetime, fen: int) -> Entry:
    return Entry(
        fact=f"{kind}:{attempt.id}",
        at=at,
        lines=entry_lines((provider_account(attempt.provider), fen), (suspense_account(attempt.provider), -fen)),
        order_id=order.id,
        provider=attempt.provider,
        agency_id=order.agency_id,
        memo="payment of another amount than was asked for",
    )


def refund_reserved(order: Order, refund: Refund, at: datetime) -> Entry:
    """Return the entry of a refund that has been granted: no longer the agency's (or owed), on its way out."""
    source = _source(order, refund)
    return _of_refund("refund_reserved", order, refund, at, (source, refund.amount_fen), (REFUND_OUT, -refund.amount_fen))


def refunded(order: Order, refund: Refund, at: datetime) -> Entry:
    """Return the entry of a refund that has arrived; straight from its source when its reservation had been given back."""
    source = _source(order, refund) if refund.was_released else REFUND_OUT
    provider = provider_account(refund.provider)
    return _of_refund("refund", order, refund, at, (source, refund.amount_fen), (provider, -refund.amount_fen))


def refund_released(order: Order, refund: Refund, at: datetime) -> Entry:
    """Return the entry of a granted refund that failed for good: back to where it was reserved from."""
    source = _source(order, refund)
    return _of_refund("refund_released", order, refund, at, (REFUND_OUT, refund.amount_fen), (source, -refund.amount_fen))


def expected_entries(order: Order) -> Iterator[Entry]:
    """Yield the entries an order must have in the ledger as it stands; verification compares them with what is there."""
    for attempt in order.attempts:
        at = attempt.paid_at or order.created_at
        if attempt.suspended_fen:
            yield held(order, attempt, at)
            if attempt.state is not AttemptState.HELD:
                yield held_released(order, attempt, at)
        if attempt.state is AttemptState.PAID:
            yield overpaid(order, attempt, at) if attempt.is_overpaid else settled(order, attempt, at)
    for refund in order.refunds:
        if refund.state in ON_ITS_WAY or refund.state in (RefundState.SUCCEEDED, RefundState.CLOSED):
            yield refund_reserved(order, refund, refund.created_at)
        if refund.was_released:
            yield refund_released(order, refund, refund.created_at)
        if refund.state is RefundState.SUCCEEDED:
            yield refunded(order, refund, refund.refunded_at or refund.created_at)


# The first parts of the facts that `expected_entries` derives; others (fees, payouts, differences) are booked by themselves.
OF_ORDERS = ("settled", "overpaid", "held", "held_released", "refund_reserved", "refund", "refund_released")


def _source(order: Order, refund: Refund) -> str:
    attempt = order.attempt(refund.attempt_id)
    return OVERPAID if attempt is not None and attempt.is_overpaid else agency_account(refund.agency_id)


def _of_refund(kind: str, order: Order, refund: Refund, at: datetime, *pairs: tuple[str, int]) -> Entry:
    return Entry(
        fact=f"{kind}:{refund.id}",
        at=at,
        lines=entry_lines(*pairs),
        order_id=order.id,
        provider=refund.provider,
        agency_id=refund.agency_id,
        memo=f"refund ({refund.kind})",
    )
