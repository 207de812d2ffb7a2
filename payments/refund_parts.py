"""Which payables a refund gives back. Pure.

A refund by staff is an amount of an agency's part of an order; what it means for each bill or case is decided once, when it has arrived, on
the order as it stands then, and kept with the refund. So whoever is told hears the same figures however often, and in whatever order.
"""

from payments.model import Order, Payable
from payments.refund import Refund, RefundState


def parts_of(order: Order, refund: Refund) -> tuple[tuple[str, int], ...]:
    """Return what a refund gives back of each payable, (key, fen), nothing of zero; empty for the refund of a payment that was too much.

    The payable it was made for; else the one of which exactly this much is left; else those of the agency, first ones first.
    """
    attempt = order.paid_attempt
    if attempt is None or refund.attempt_id != attempt.id:
        return ()
    if refund.payable_key:
        return ((refund.payable_key, refund.amount_fen),)
    back = returned_fen(order, besides=refund.id)
    left = [(payable.key, payable.amount_fen - back.get(payable.key, 0)) for payable in _of_agency(order, refund)]
    exact = next((key for key, fen in left if fen == refund.amount_fen), None)
    if exact is not None:
        return ((exact, refund.amount_fen),)
    parts: list[tuple[str, int]] = []
    rest = refund.amount_fen
    for key, fen in left:
        part = max(0, min(fen, rest))
        rest -= part
        if part:
            parts.append((key, part))
    return tuple(parts)


def returned_fen(order: Order, besides: str = "") -> dict[str, int]:
    """Return how much of each payable has gone back: payable key -> fen."""
    back: dict[str, int] = {}
    for refund in order.refunds:
        if refund.state is RefundState.SUCCEEDED and refund.id != besides:
            for key, fen in refund.parts:
                back[key] = back.get(key, 0) + fen
    return back


def wholly_returned(order: Order) -> tuple[str, ...]:
    """Return the keys of the payables of which everything has gone back."""
    back = returned_fen(order)
    return tuple(payable.key for payable in order.payables if 0 < payable.amount_fen <= back.get(payable.key, 0))


def _of_agency(order: Order, refund: Refund) -> list[Payable]:
    return [payable for payable in order.payables if payable.agency_id == refund.agency_id]
