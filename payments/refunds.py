"""Refunds as people ask for them: by staff of the agency that was paid, with a second person above the threshold, and by itself.

Who may: a clerk or head of an agency that got money from the order asks for at most that agency's part. When all that staff have asked
back from an order comes to more than the threshold, the head of the agency, under another account, agrees or does not.
Sending and following is refund_following.py, what each step does to order, ledger and events refunding.py.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

import structlog

from app.kernel.clock import format_utc
from app.kernel.events import Event
from payments import errors, holding, refunding
from payments.model import AttemptState, Order
from payments.refund import MAX_REFUNDS, OVERDUE_AFTER, Refund, RefundKind, RefundState
from payments.store import Change, OrderStore

log = structlog.get_logger(__name__)

APPROVES = "head"  # the role of the second person


class Staff(Protocol):
    """Who asks or agrees."""

    @property
    def account(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def agency_id(self) -> str: ...


class Refunds:
    """Asking, agreeing, and what staff see.

    Args:
        approval_fen: what staff may give back of one order without a second person, in fen.
        confirm: asks the provider once more before a held payment goes back (HeldDesk.confirm_of).
    """

    def __init__(
        self, store: OrderStore, *, approval_fen: int, clock: Callable[[], datetime], confirm: Callable[[str], Awaitable[None]]
    ) -> None:
        self._store = store
        self._approval_fen = approval_fen
        self._clock = clock
        self._confirm = confirm

    async def request(
        self, order_id: str, staff: Staff, *, amount_fen: int, reason: str, refund_id: str, attempt_id: str = ""
    ) -> tuple[Order, Refund]:
        """Reserve a refund; it is sent at once, or waits for a second person. The same id again returns what is there.

        Args:
            attempt_id: which payment of the order, for a new try with an overpayment; empty: the one that settled it.

        Raises:
            OrderNotFound: no such order, or this agency got nothing of it.
            NotRefundable: not paid, or too many refunds. RefundTooMuch: more than is left.
        """

        def decide(order: Order) -> Change | None:
            _require_agency(order, staff)
            if order.refund(refund_id) is not None:
                return None
            attempt = order.attempt(attempt_id) if attempt_id else order.paid_attempt
            if attempt is None or attempt.state is not AttemptState.PAID:
                raise errors.NotRefundable("这张订单没有可以退的付款。", en="Nothing was paid that could go back.")
            if sum(refund.kind is RefundKind.STAFF for refund in order.refunds) >= MAX_REFUNDS:
                raise errors.NotRefundable("这张订单的退款次数已经用完，请联系财务处理。", en="Too many refunds of this order.")
            left_fen = refunding.refundable_fen(order, attempt, staff.agency_id)
            if amount_fen > left_fen:
                raise errors.too_much(left_fen)
            now = self._clock()
            refund = Refund(
                id=refund_id,
                attempt_id=attempt.id,
                provider=attempt.provider,
                kind=RefundKind.STAFF,
                state=RefundState.APPROVED,
                amount_fen=amount_fen,
                reason=reason,
                agency_id=staff.agency_id,
                requested_by=staff.account,
                created_at=now,
            )
            if refunding.needs_second_person(order, amount_fen, self._approval_fen):
                return refunding.requested(order, refund, now)
            return refunding.granted(order, refund, now)

        order = await self._change(order_id, decide)
        refund = _there(order, refund_id)
        log.info("refund.requested", order_id=order.id, refund_id=refund.id, state=str(refund.state), by=staff.account)
        return order, refund

    async def approve(self, refund_id: str, staff: Staff) -> tuple[Order, Refund]:
        """Agree to a refund as the second person. Doing it again returns what is there.

        Raises:
            RefundNotFound, SecondPersonNeeded, RefundDecided; of a held payment also what HeldDesk.give_back raises.
        """
        found = await self._store.load_of_refund(refund_id)
        if found is not None and self._decidable(found, refund_id, staff).approved_by != staff.account:
            await self._confirm(refund_id)

        def decide(order: Order) -> Change | None:
            refund = self._decidable(order, refund_id, staff)
            if refund.approved_by == staff.account:
                return None
            if refund.state is not RefundState.REQUESTED:
                raise errors.RefundDecided("这笔退款已经处理过了，请刷新后查看。", en="Decided already.")
            if refund.kind is not RefundKind.HELD:
                return refunding.approved(order, refund, staff.account, self._clock())
            attempt = order.attempt(refund.attempt_id)
            if attempt is None or attempt.state is not AttemptState.HELD:
                raise errors.RefundDecided("这笔付款已经处理过了，请刷新后查看。", en="Decided already.")
            return holding.given_back(order, attempt, replace(refund, approved_by=staff.account), self._clock())

        return await self._decide(refund_id, decide, "approved", staff)

    async def reject(self, refund_id: str, staff: Staff, reason: str) -> tuple[Order, Refund]:
        """Refuse a refund as the second person; its amount is free again. Raises like `approve`."""

        def decide(order: Order) -> Change | None:
            refund = self._decidable(order, refund_id, staff)
            if refund.rejected_by == staff.account:
                return None
            if refund.state is not RefundState.REQUESTED:
                raise errors.RefundDecided("这笔退款已经处理过了，请刷新后查看。", en="Decided already.")
            return refunding.rejected(order, refund, staff.account, reason, self._clock())

        return await self._decide(refund_id, decide, "rejected", staff)

    async def refund_refused_bill(self, event: Event) -> None:
        """Give back what a department or a case did not take (`bill.payment_refused`, `case.payment_refused`). Doing it again changes nothing."""
        key = f"{event.subject_kind}:{event.subject_id}"
        try:
            await self._store.change(
                str(event.data["order_id"]), lambda order: refunding.refused_bill_refund(order, key, self._clock())
            )
        except LookupError:
            log.error("refund.order_missing", order_id=event.data["order_id"])

    # --- what staff see ---

    def view(self, order: Order, refund: Refund) -> dict[str, Any]:
        """Return a refund as staff see it."""
        return view(order, refund, self._clock())

    async def read(self, refund_id: str, staff: Staff) -> tuple[Order, Refund]:
        """Return a refund of the own agency for somebody who looks at it; the reading is recorded. Raises RefundNotFound."""
        order = await self._store.load_of_refund(refund_id)
        refund = order.refund(refund_id) if order else None
        if order is None or refund is None or refund.agency_id != staff.agency_id:
            raise errors.refund_not_found()
        await self._store.record_reading(staff.account, "refund.read", refund.id, order.owner_id)
        return order, refund

    async def page(
        self, agency_id: str, *, state: str | None = None, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return refunds of an agency, those of the newest orders first, and the cursor of the next page. A page is of orders."""
        orders = await self._store.page_of_refunds(agency_id, state=state, before=cursor or "", limit=limit + 1)
        now = self._clock()
        rows = [
            view(order, refund, now)
            for order in orders[:limit]
            for refund in order.refunds
            if refund.agency_id == agency_id and (state is None or refund.state == state)
        ]
        return rows, orders[limit - 1].id if len(orders) > limit else None

    # ---

    def _decidable(self, order: Order, refund_id: str, staff: Staff) -> Refund:
        refund = order.refund(refund_id)
        if refund is None or refund.agency_id != staff.agency_id or refund.kind not in refunding.BY_STAFF:
            raise errors.refund_not_found()
        if staff.role != APPROVES or staff.account == refund.requested_by:
            raise errors.SecondPersonNeeded(
                "超过限额的退款要由本单位负责人审批，申请人不能审批自己的申请。", en="The head, not the asker, has to agree."
            )
        return refund

    async def _decide(
        self, refund_id: str, decide: Callable[[Order], Change | None], word: str, staff: Staff
    ) -> tuple[Order, Refund]:
        found = await self._store.load_of_refund(refund_id)
        if found is None:
            raise errors.refund_not_found()
        order = await self._change(found.id, decide)
        log.info(f"refund.{word}", order_id=order.id, refund_id=refund_id, by=staff.account)
        return order, _there(order, refund_id)

    async def _change(self, order_id: str, decide: Callable[[Order], Change | None]) -> Order:
        try:
            return await self._store.change(order_id, decide)
        except LookupError as error:
            raise errors.not_found() from error


def view(order: Order, refund: Refund, now: datetime) -> dict[str, Any]:
    """Return a refund as staff see it."""
    late = refund.sent_at is not None and refund.next_at is not None and now - refund.sent_at > OVERDUE_AFTER
    return {
        "id": refund.id,
        "order_id": order.id,
        "order_state": str(order.state),
        "title": order.title,
        "state": str(refund.state),
        "kind": str(refund.kind),
        "amount_fen": refund.amount_fen,
        "paid_fen": order.amount_fen,
        "reason": refund.reason,
        "agency_id": refund.agency_id,
        "provider": refund.provider,
        "out_trade_no": refund.out_trade_no,
        "out_refund_no": refund.out_refund_no,
        "provider_refund_no": refund.provider_refund_no or None,
        "requested_by": refund.requested_by,
        "approved_by": refund.approved_by or None,
        "failure": refund.failure or None,
        "is_overdue": late,
        "created_at": format_utc(refund.created_at),
        "sent_at": format_utc(refund.sent_at),
        "refunded_at": format_utc(refund.refunded_at),
    }


def _require_agency(order: Order, staff: Staff) -> None:
    if staff.agency_id not in {payable.agency_id for payable in order.payables}:
        raise errors.not_found()


def _there(order: Order, refund_id: str) -> Refund:
    refund = order.refund(refund_id)
    if refund is None:
        raise errors.refund_not_found()
    return refund
