"""A refund: its states and every move between them as one table. Pure.

Refunds are part of their order's document (bounded), so that what is reserved, the refund and the order's state change together or not
at all. Its id is the number the provider knows it by (`out_refund_no`): one number, one refund; an unclear outcome is asked for under
the same number, a new try after `closed` is a new refund.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from payments.moves import Move, moved


class RefundKind(StrEnum):
    STAFF = "staff"  # a person of the agency gives money back
    OVERPAID = "overpaid"  # more came than was owed; given back by itself
    BILL_REFUSED = "bill_refused"  # the department did not take the payment; given back by itself
    HELD = "held"  # what came was not what was asked for; a person gives all of it back


class RefundState(StrEnum):
    REQUESTED = "requested"  # the amount is reserved; a second person has to agree
    APPROVED = "approved"  # to be sent; nobody has called the provider yet
    SENDING = "sending"  # the request is committed; whether the provider has it is not known: asked for under the same number
    PROCESSING = "processing"  # the provider is at it, which can take weeks
    SUCCEEDED = "succeeded"
    ABNORMAL = "abnormal"  # the money does not reach the payer, or what the provider says does not fit: a person acts
    CLOSED = "closed"  # failed for good, as far as the provider says; the amount is free again
    REJECTED = "rejected"  # the second person did not agree


_AT_PROVIDER = frozenset({RefundState.SENDING, RefundState.PROCESSING, RefundState.ABNORMAL})
REFUND_MOVES: Mapping[str, Move] = {
    "request": Move(frozenset(), RefundState.REQUESTED, "refund.requested"),
    "grant": Move(frozenset(), RefundState.APPROVED, "refund.approved"),
    "approve": Move(frozenset({RefundState.REQUESTED}), RefundState.APPROVED, "refund.approved"),
    "reject": Move(frozenset({RefundState.REQUESTED}), RefundState.REJECTED, "refund.rejected"),
    "send": Move(frozenset({RefundState.APPROVED}), RefundState.SENDING),
    "process": Move(frozenset({RefundState.SENDING, RefundState.ABNORMAL}), RefundState.PROCESSING),
    # Late truth overrules "failed": a refund that was closed or stuck may turn out to have arrived.
    "succeed": Move(_AT_PROVIDER | {RefundState.CLOSED}, RefundState.SUCCEEDED, "refund.succeeded"),
    "stall": Move(frozenset({RefundState.SENDING, RefundState.PROCESSING}), RefundState.ABNORMAL, "refund.abnormal"),
    # From approved: an earlier refund that had failed has worked after all, and there is nothing left to give back.
    "close": Move(_AT_PROVIDER | {RefundState.APPROVED}, RefundState.CLOSED, "refund.closed"),
}
# What keeps its amount from being given back a second time.
RESERVING = frozenset(RefundState) - {RefundState.CLOSED, RefundState.REJECTED}
# What the money has been taken out of the agency's balance for, and is not decided yet.
ON_ITS_WAY = frozenset({RefundState.APPROVED, *_AT_PROVIDER})
MAX_REFUNDS = 20  # by staff, of one order; those made by themselves are at most one per attempt and one per payable


@dataclass(frozen=True)
class Refund:
    """One refund of one attempt of its order.

    Attributes:
        id: `rfd_...`, also the number at the provider.
        payable_key: which payable it is for, when only that one (bill_refused).
        agency_id: whose money it is, and whose staff see it.
        request: what is sent to the provider, byte for byte, however often; stored by `send`.
        requested_by, approved_by: staff accounts, or `hall` for what is done by itself.
        next_at: when the worker acts or asks again; None when a person has to act first, or nobody any more.
        asks: how often it was asked for in its present state.
        failure: a word for staff why it is abnormal or closed.
        was_released: it was closed once, and its reservation given back in the ledger.
        parts: what it gave back of each payable, (key, fen), once it has arrived; see refund_parts.py.
    """

    id: str
    attempt_id: str
    provider: str
    kind: RefundKind
    state: RefundState
    amount_fen: int
    reason: str
    agency_id: str
    requested_by: str
    created_at: datetime
    payable_key: str = ""
    approved_by: str = ""
    rejected_by: str = ""
    request: str = ""
    sent_at: datetime | None = None
    next_at: datetime | None = None
    asks: int = 0
    provider_refund_no: str = ""
    refunded_at: datetime | None = None
    failure: str = ""
    was_released: bool = False
    parts: tuple[tuple[str, int], ...] = ()

    @property
    def out_refund_no(self) -> str:
        return self.id

    @property
    def out_trade_no(self) -> str:
        return self.attempt_id

    @property
    def is_reserving(self) -> bool:
        return self.state in RESERVING

    def move(self, name: str, **changes: Any) -> "Refund":
        """Return this refund after a named move. Raises MoveNotAllowed."""
        return replace(self, state=RefundState(moved(REFUND_MOVES, name, self.state).target), **changes)

    def to_document(self) -> dict[str, Any]:
        return {**self.__dict__, "state": str(self.state), "kind": str(self.kind)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Refund":
        parts = tuple((key, fen) for key, fen in document.get("parts", ()))
        kinds = {"state": RefundState(document["state"]), "kind": RefundKind(document["kind"])}
        return cls(**{**document, **kinds, "parts": parts})


# Seconds between the questions. WeChat Pay: after a minute, then back off to hours, for weeks. An unclear outcome is asked for sooner, but
# not sooner than Alipay answers truly (10 s).
_ASK_AFTER_S: Mapping[RefundState, tuple[int, ...]] = {
    RefundState.SENDING: (10, 20, 40, 80, 160, 300, 600),
    RefundState.PROCESSING: (60, 120, 300, 600, 1800, 3600, 4 * 3600),
    RefundState.ABNORMAL: (3600, 6 * 3600, 24 * 3600),  # a person may mend it at the provider
}
# An abnormal refund is asked for this long; later news of it, or of a closed one, comes by notice or with the bill.
ASK_ABNORMAL_FOR = timedelta(days=90)
OVERDUE_AFTER = timedelta(days=7)  # staff see it in their list as late, and an alarm goes off


def next_refund_ask(refund: Refund, now: datetime) -> datetime | None:
    """Return when to ask again for a refund that has just been asked for (`refund.asks` times in its state), None for never."""
    steps = _ASK_AFTER_S.get(refund.state)
    if steps is None:
        return None
    if refund.state is RefundState.ABNORMAL and now - (refund.sent_at or refund.created_at) > ASK_ABNORMAL_FOR:
        return None
    return now + timedelta(seconds=steps[min(refund.asks, len(steps) - 1)])
