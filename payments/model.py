"""Orders and attempts: their states, every move between them as one table, and the one function that judges what a provider says.

An order is for one or more payables of one resident. Each try to pay it is an attempt, with its own number at one provider; attempts are
part of their order's document (bounded), so an order and its attempts change together or not at all. Everything here is pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from app.kernel.clock import format_utc
from payments.moves import Move, MoveNotAllowed, moved
from payments.provider import PaymentReport, PaymentState
from payments.refund import Refund

__all__ = ["Move", "MoveNotAllowed"]  # of moves.py, for whoever reads the tables here


class OrderState(StrEnum):
    OPEN = "open"
    PAYING = "paying"
    PAID = "paid"
    CLOSED = "closed"
    REFUNDING = "refunding"
    REFUNDED = "refunded"
    PARTLY_REFUNDED = "partly_refunded"


class AttemptState(StrEnum):
    CREATED = "created"  # committed; whether the provider has it is not known yet
    WAITING = "waiting"  # the provider has it, the resident may pay
    UNKNOWN = "unknown"  # the call had no clear answer: asked for, never replaced by guessing
    PAID = "paid"
    CLOSED = "closed"  # confirmed by the provider: nobody can pay it any more
    FAILED = "failed"  # the provider refused to make it
    HELD = "held"  # the provider reported another amount: in suspense until the true news comes, or a person decides
    RETURNED = "returned"  # held, and given back outside the hall by the word of a person; nothing of it is ours any more


# Every move of an order. Nothing else changes its state.
ORDER_MOVES: Mapping[str, Move] = {
    "create": Move(frozenset(), OrderState.OPEN, "order.created"),
    "start_paying": Move(frozenset({OrderState.OPEN}), OrderState.PAYING, "order.paying"),
    "settle": Move(frozenset({OrderState.OPEN, OrderState.PAYING}), OrderState.PAID, "order.paid"),
    "close": Move(frozenset({OrderState.OPEN, OrderState.PAYING}), OrderState.CLOSED, "order.closed"),
    # What came did not fit and goes back, and nothing else is under way: it can be paid as on the first day.
    "reopen": Move(frozenset({OrderState.PAYING}), OrderState.OPEN, "order.payment_returned"),
    # Paid after it was closed, while what it was for is still owed, at the same price, and nobody else is paying it.
    "settle_late": Move(frozenset({OrderState.CLOSED}), OrderState.PAID, "order.paid"),
    # The refund moves follow the refunds of the settling attempt. From paid directly when a refund that had failed has worked after all.
    "start_refund": Move(frozenset({OrderState.PAID, OrderState.PARTLY_REFUNDED}), OrderState.REFUNDING, "order.refunding"),
    "refund_all": Move(
        frozenset({OrderState.PAID, OrderState.REFUNDING, OrderState.PARTLY_REFUNDED}), OrderState.REFUNDED, "order.refunded"
    ),
    "refund_part": Move(
        frozenset({OrderState.PAID, OrderState.REFUNDING}), OrderState.PARTLY_REFUNDED, "order.partly_refunded"
    ),
    "end_refund": Move(frozenset({OrderState.REFUNDING}), OrderState.PAID, "order.refund_ended"),
}

_OPEN_ATTEMPT = frozenset({AttemptState.CREATED, AttemptState.WAITING, AttemptState.UNKNOWN})
ATTEMPT_MOVES: Mapping[str, Move] = {
    "create": Move(frozenset(), AttemptState.CREATED),
    "wait": Move(_OPEN_ATTEMPT, AttemptState.WAITING),
    "lose_sight": Move(frozenset({AttemptState.CREATED}), AttemptState.UNKNOWN),
    "fail": Move(frozenset({AttemptState.CREATED, AttemptState.UNKNOWN}), AttemptState.FAILED),
    "close": Move(_OPEN_ATTEMPT, AttemptState.CLOSED),
    # Money that came is booked wherever the attempt stands: a closed one can have lost the race against its payer.
    "pay": Move(_OPEN_ATTEMPT | {AttemptState.CLOSED, AttemptState.FAILED, AttemptState.HELD}, AttemptState.PAID),
    "hold": Move(_OPEN_ATTEMPT | {AttemptState.CLOSED, AttemptState.FAILED}, AttemptState.HELD, "order.payment_held"),
    # By a person: what came is booked as it came, too much, and goes back; or it went back at the provider's own pages.
    "give_back": Move(frozenset({AttemptState.HELD}), AttemptState.PAID, "order.payment_returned"),
    "give_back_outside": Move(frozenset({AttemptState.HELD}), AttemptState.RETURNED, "order.payment_returned"),
}

FINAL = frozenset({OrderState.PAID, OrderState.CLOSED, OrderState.REFUNDED, OrderState.PARTLY_REFUNDED, OrderState.REFUNDING})
MAX_ATTEMPTS = 10


@dataclass(frozen=True)
class Line:
    """One line of an order as it was priced: `payee` is who gets it, in words; `paid_for` for whom it is paid, masked, when that is known."""

    title: str
    amount_fen: int
    payee: str
    agency_id: str = ""
    paid_for: str = ""


@dataclass(frozen=True)
class Receipt:
    """What a paid order knows of one of its receipts: one per agency that was paid. The number is empty until it is given out."""

    id: str
    agency_id: str
    code: str
    number: str = ""


@dataclass(frozen=True)
class Payable:
    """What an order pays for, with the version its price belongs to and the agency that gets it."""

    kind: str
    id: str
    version: int
    agency_id: str
    title: str
    amount_fen: int

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.id}"


@dataclass(frozen=True)
class Attempt:
    """One try to pay at one provider. `request` is what is sent, byte for byte, however often.

    Attributes:
        amount_fen: what was asked for.
        reported_fen: what the provider told, when that was something else.
        suspended_fen: what was booked as in suspense when it was held; 0 when nothing was (another currency).
        received_fen: what came, when it is booked with another amount than was asked for.
        decided_by, decision_note: who decided about a held payment, and why.
    """

    id: str
    provider: str
    scene: str
    state: AttemptState
    amount_fen: int
    merchant_id: str
    app_id: str
    payer: Mapping[str, str]
    request: str
    expires_at: datetime
    created_at: datetime
    provider_trade_no: str = ""
    paid_at: datetime | None = None
    held_for: tuple[str, ...] = ()
    reported_fen: int | None = None
    is_overpaid: bool = False
    superseded: bool = False
    suspended_fen: int = 0
    received_fen: int | None = None
    decided_by: str = ""
    decision_note: str = ""

    @property
    def out_trade_no(self) -> str:
        return self.id

    @property
    def paid_fen(self) -> int:
        """What this attempt brought, once it is paid: what was asked for, unless what came was booked as it came."""
        return self.amount_fen if self.received_fen is None else self.received_fen

    @property
    def is_open(self) -> bool:
        return self.state in _OPEN_ATTEMPT

    def move(self, name: str, **changes: Any) -> "Attempt":
        """Return this attempt after a named move. Raises MoveNotAllowed."""
        return replace(self, state=AttemptState(moved(ATTEMPT_MOVES, name, self.state).target), **changes)

    def to_document(self) -> dict[str, Any]:
        return {**self.__dict__, "state": str(self.state), "payer": dict(self.payer), "held_for": list(self.held_for)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Attempt":
        return cls(
            **{**document, "state": AttemptState(document["state"]), "held_for": tuple(document["held_for"])}
        )


@dataclass(frozen=True)
class Order:
    """An order. `next_ask_at` is when the worker looks at its attempts again, `refund_due_at` at its refunds; None when nothing is open."""

    id: str
    owner_id: str
    state: OrderState
    title: str
    amount_fen: int
    lines: tuple[Line, ...]
    payables: tuple[Payable, ...]
    expires_at: datetime
    created_at: datetime
    attempts: tuple[Attempt, ...] = ()
    version: int = 1
    paid_at: datetime | None = None
    closed_at: datetime | None = None
    receipts: tuple[Receipt, ...] = ()
    next_ask_at: datetime | None = None
    asks: int = 0
    refunds: tuple[Refund, ...] = ()
    refund_due_at: datetime | None = None

    @property
    def agency_id(self) -> str:
        return self.payables[0].agency_id

    @property
    def receipt_number(self) -> str:
        """The number of the first receipt; empty while it has none."""
        return self.receipts[0].number if self.receipts else ""

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def open_attempts(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.is_open)

    @property
    def askable_attempts(self) -> tuple[Attempt, ...]:
        """Open ones, and held ones: the provider's next answer about those may be the true one."""
        return tuple(attempt for attempt in self.attempts if attempt.is_open or attempt.state is AttemptState.HELD)

    @property
    def is_held(self) -> bool:
        return any(attempt.state is AttemptState.HELD for attempt in self.attempts)

    @property
    def paid_attempt(self) -> Attempt | None:
        """The attempt that settled this order."""
        paid = [a for a in self.attempts if a.state is AttemptState.PAID and not a.is_overpaid]
        return paid[0] if paid else None

    def attempt(self, attempt_id: str) -> Attempt | None:
        return next((attempt for attempt in self.attempts if attempt.id == attempt_id), None)

    def move(self, name: str, **changes: Any) -> "Order":
        """Return this order after a named move. Raises MoveNotAllowed."""
        return replace(self, state=OrderState(moved(ORDER_MOVES, name, self.state).target), **changes)

    def refund(self, refund_id: str) -> Refund | None:
        return next((refund for refund in self.refunds if refund.id == refund_id), None)

    def with_refund(self, changed: Refund) -> "Order":
        """Return this order with a refund put in its place, or added."""
        if self.refund(changed.id) is None:
            return replace(self, refunds=(*self.refunds, changed))
        return replace(self, refunds=tuple(changed if r.id == changed.id else r for r in self.refunds))

    def with_attempt(self, changed: Attempt) -> "Order":
        return replace(self, attempts=tuple(changed if a.id == changed.id else a for a in self.attempts))

    def to_document(self) -> dict[str, Any]:
        document = {name: value for name, value in self.__dict__.items() if name != "id"}
        return {
            "_id": self.id,
            **document,
            "state": str(self.state),
            "lines": [line.__dict__ for line in self.lines],
            "payables": [payable.__dict__ for payable in self.payables],
            "attempts": [attempt.to_document() for attempt in self.attempts],
            "refunds": [refund.to_document() for refund in self.refunds],
            "receipts": [receipt.__dict__ for receipt in self.receipts],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Order":
        known = {name: value for name, value in document.items() if name in cls.__dataclass_fields__}
        return cls(
            **{
                **known,
                "id": document["_id"],
                "state": OrderState(document["state"]),
                "lines": tuple(Line(**line) for line in document["lines"]),
                "payables": tuple(Payable(**payable) for payable in document["payables"]),
                "attempts": tuple(Attempt.from_document(attempt) for attempt in document["attempts"]),
                "refunds": tuple(Refund.from_document(refund) for refund in document.get("refunds", ())),
                "receipts": tuple(Receipt(**receipt) for receipt in document.get("receipts") or _one_receipt(document)),
            }
        )


def _one_receipt(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the receipt of an order that was paid when an order had one, whatever the number of its agencies."""
    if not document.get("receipt_code"):
        return []
    number, agency_id = document.get("receipt_number", ""), document["payables"][0]["agency_id"]
    return [{"id": "", "agency_id": agency_id, "code": document["receipt_code"], "number": number}]


def event_data(order: Order, attempt: Attempt | None = None, **more: Any) -> dict[str, Any]:
    """Return the data of an order's event."""
    data: dict[str, Any] = {
        "amount_fen": order.amount_fen,
        "titles": [payable.title for payable in order.payables],
        "payables": [
            {"kind": payable.kind, "id": payable.id, "amount_fen": payable.amount_fen, "agency_id": payable.agency_id}
            for payable in order.payables
        ],
        "expires_at": format_utc(order.expires_at),
        "state": str(order.state),
        **more,
    }
    if order.receipt_number:
        data["receipt_number"] = order.receipt_number
    if attempt is not None:
        data |= {"provider": attempt.provider, "attempt_id": attempt.id}
        if attempt.provider_trade_no:
            data["provider_trade_no"] = attempt.provider_trade_no
    if order.paid_at is not None:
        data["paid_at"] = format_utc(order.paid_at)
    return data


# --- what a provider says ---


class Verdict(StrEnum):
    """What a report means for an order."""

    NOTHING = "nothing"  # known already, or no news
    SETTLE = "settle"
    SETTLE_LATE = "settle_late"  # the order was closed: may be settled only when its payables are still owed and free
    OVERPAID = "overpaid"  # money for an order that is paid already (by another attempt)
    HOLD = "hold"
    FOREIGN = "foreign"  # of another merchant, application or provider: somebody else's number that looks like ours; nothing of ours changes
    CLOSE_ATTEMPT = "close_attempt"
    SEEN = "seen"  # the provider has it, unpaid


def mismatches(attempt: Attempt, report: PaymentReport) -> tuple[str, ...]:
    """Return which parts of a report differ from our own record; the same for every provider.

    Merchant and application may be missing in an answer that is signed for our own application; amount and currency of a payment
    may not.
    """
    ours = {
        "provider": (attempt.provider, report.provider),
        "merchant": (attempt.merchant_id or report.merchant_id, report.merchant_id or attempt.merchant_id),
        "app": (attempt.app_id, report.app_id or attempt.app_id),
    }
    if report.state is PaymentState.PAID:
        ours |= {"amount": (attempt.amount_fen, report.amount_fen), "currency": ("CNY", report.currency)}
    return tuple(name for name, (expected, told) in ours.items() if expected != told)


# What names the owner of a report: where one of these differs, it is not about our attempt at all.
_OURS = frozenset({"provider", "merchant", "app"})

# After its deadline and this much more, an attempt that the provider does not know can no longer come into being.
NOT_FOUND_MARGIN = timedelta(seconds=60)


def judge(
    order: Order, attempt: Attempt, report: PaymentReport, now: datetime, *, winding_up: bool = False
) -> Verdict:
    """Return what a verified report means. Final states never go back; the first payment settles, every further one is extra.

    Args:
        winding_up: the attempt is being closed and the provider has just been asked to close it.
    """
    what = mismatches(attempt, report)
    if not _OURS.isdisjoint(what):
        return Verdict.FOREIGN
    if report.state is PaymentState.PAID:
        if attempt.state in (AttemptState.PAID, AttemptState.RETURNED) or (attempt.state is AttemptState.HELD and what):
            return Verdict.NOTHING
        if what:
            return Verdict.HOLD
        # A held attempt ends here as well: what did not match was no news of this payment, and now the true one has come.
        if order.state in (OrderState.OPEN, OrderState.PAYING):
            return Verdict.SETTLE
        return Verdict.SETTLE_LATE if order.state is OrderState.CLOSED else Verdict.OVERPAID
    if not attempt.is_open:
        return Verdict.NOTHING
    if report.state is PaymentState.CLOSED:
        return Verdict.CLOSE_ATTEMPT
    if report.state is PaymentState.NOT_FOUND:
        # Before the deadline "does not exist" means "not yet" (Alipay: until the cashier) or "not arrived" (WeChat Pay).
        gone = now >= attempt.expires_at + NOT_FOUND_MARGIN
        # Nobody was ever given the means to pay an attempt whose prepay had no answer; unknown there too, it is over.
        never_handed_out = winding_up and attempt.state is not AttemptState.WAITING
        return Verdict.CLOSE_ATTEMPT if gone or never_handed_out else Verdict.NOTHING
    return Verdict.SEEN if attempt.state in (AttemptState.CREATED, AttemptState.UNKNOWN) else Verdict.NOTHING


# --- when to ask ---

# Seconds between the questions while no notice has come: at 5, 15 and 30 s after the prepay, then every 30 s.
_ASK_AFTER_S = (5, 10, 15)
_ASK_EVERY_S = 30
# Past the deadline an unsure attempt is asked for with growing pauses, for as long as it takes.
_ASK_LATE_S = (10, 600)


def next_ask(order: Order, now: datetime) -> datetime | None:
    """Return when to ask again about an order that has just been asked about (`order.asks` times since the last prepay)."""
    if order.is_final and not order.open_attempts:
        return None
    if now < order.expires_at:
        if not order.askable_attempts:
            return order.expires_at
        pause_s = _ASK_AFTER_S[order.asks] if order.asks < len(_ASK_AFTER_S) else _ASK_EVERY_S
        return min(now + timedelta(seconds=pause_s), order.expires_at)
    shortest_s, longest_s = _ASK_LATE_S
    late_s = (now - order.expires_at).total_seconds()
    return now + timedelta(seconds=min(max(late_s / 2, shortest_s), longest_s))


def total_fen(lines: Sequence[Line]) -> int:
    return sum(line.amount_fen for line in lines)
