"""Payments that do not fit, as staff see them and decide about them. What each decision does is holding.py.

Who may: anybody of an agency that the order is to pay asks for the money to go back; above the threshold the head of that agency, under
another account, agrees (like any refund, refunds.py). That it went back outside the hall is for the head to say.
Before anything goes back the provider is asked once more: what it says now may fit after all.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog

from app.kernel.clock import format_utc
from payments import errors, holding, refunding
from payments.asking import Asking
from payments.model import Attempt, AttemptState, Order
from payments.provider import PaymentState
from payments.refund import Refund, RefundKind, RefundState
from payments.refunds import APPROVES, Staff
from payments.store import Change, OrderStore

log = structlog.get_logger(__name__)


class HeldDesk:
    """The list of payments that do not fit, and the decisions about them.

    Args:
        approval_fen: what may go back of one order without a second person, in fen.
    """

    def __init__(self, store: OrderStore, asking: Asking, *, approval_fen: int, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._asking = asking
        self._approval_fen = approval_fen
        self._clock = clock

    async def page(
        self, agency_id: str, *, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return payments that do not fit (held) or were too much (overpaid) of an agency, newest orders first."""
        orders = await self._store.page_of_held(agency_id, before=cursor or "", limit=limit + 1)
        rows = [
            view(order, attempt)
            for order in orders[:limit]
            for attempt in order.attempts
            if attempt.state is AttemptState.HELD or attempt.is_overpaid
        ]
        return rows, orders[limit - 1].id if len(orders) > limit else None

    async def one(self, attempt_id: str, staff: Staff) -> tuple[Order, Attempt]:
        """Return a payment of an order that pays the own agency. Raises OrderNotFound."""
        order = await self._store.load_of_attempt(attempt_id)
        if order is None or staff.agency_id not in {payable.agency_id for payable in order.payables}:
            raise errors.not_found()
        return order, _there(order, attempt_id)

    async def read(self, attempt_id: str, staff: Staff) -> tuple[Order, dict[str, Any]]:
        """Return a payment for somebody who looks at it, with its order; the reading is recorded. Raises OrderNotFound."""
        order, attempt = await self.one(attempt_id, staff)
        await self._store.record_reading(staff.account, "payment.read", attempt.id, order.owner_id)
        return order, view(order, attempt)

    async def ask(self, attempt_id: str, staff: Staff) -> dict[str, Any]:
        """Ask the provider now; return the payment as it is afterwards.

        Raises:
            OrderNotFound; ProviderUnavailable when it gives no clear answer.
        """
        order, attempt = await self.one(attempt_id, staff)
        order, _ = await self._ask(order, attempt)
        return view(order, _there(order, attempt_id))

    async def give_back(self, attempt_id: str, staff: Staff, *, reason: str, refund_id: str) -> tuple[Order, Refund]:
        """Give a held payment back in full, at the amount that came; or ask the head to agree. The same id again returns what is there.

        Raises:
            OrderNotFound. NotHeld: it fits by now, or somebody has decided. HeldUnclear: the provider says something else now, or the
            currency differs: only its own pages help. ReturnAsked: it waits for the head already. ProviderUnavailable.
        """
        order, attempt = await self.one(attempt_id, staff)
        known = order.refund(refund_id)
        if known is not None:
            return order, known
        await self._confirm(order, attempt)

        def decide(current: Order) -> Change | None:
            if current.refund(refund_id) is not None:
                return None
            now, held = self._clock(), _held(current, attempt_id)
            if holding.open_request(current, held) is not None:
                raise errors.ReturnAsked("已经有人申请退回这笔付款，正等负责人审批。", en="Asked for already.")
            amount_fen = held.reported_fen or 0
            refund = Refund(
                id=refund_id,
                attempt_id=held.id,
                provider=held.provider,
                kind=RefundKind.HELD,
                state=RefundState.APPROVED,
                amount_fen=amount_fen,
                reason=reason,
                agency_id=staff.agency_id,
                requested_by=staff.account,
                created_at=now,
            )
            if refunding.needs_second_person(current, amount_fen, self._approval_fen):
                return holding.asked_back(current, refund, now)
            return holding.given_back(current, held, refund, now)

        order = await self._store.change(order.id, decide)
        refund = order.refund(refund_id)
        assert refund is not None
        log.info("payment.return_asked", order_id=order.id, attempt_id=attempt_id, state=str(refund.state), by=staff.account)
        return order, refund

    async def confirm_of(self, refund_id: str) -> None:
        """Ask the provider about the payment of a refund that waits for the second person. Raises like `give_back`."""
        order = await self._store.load_of_refund(refund_id)
        refund = order.refund(refund_id) if order else None
        if order is not None and refund is not None and refund.kind is RefundKind.HELD and refund.state is RefundState.REQUESTED:
            await self._confirm(order, _there(order, refund.attempt_id))

    async def given_back_outside(self, attempt_id: str, staff: Staff, note: str) -> dict[str, Any]:
        """Record that a held payment went back at the provider's own pages. By the head, who says how; again returns what is there.

        Raises:
            OrderNotFound, SecondPersonNeeded (not the head), NotHeld.
        """
        order, _ = await self.one(attempt_id, staff)
        if staff.role != APPROVES:
            raise errors.SecondPersonNeeded("登记平台后台退款要由本单位负责人操作。", en="The head of the agency records it.")

        def decide(current: Order) -> Change | None:
            attempt = _there(current, attempt_id)
            if attempt.state is AttemptState.RETURNED and attempt.decided_by == staff.account:
                return None
            return holding.given_back_outside(current, _held(current, attempt_id), staff.account, note, self._clock())

        order = await self._store.change(order.id, decide)
        log.warning("payment.returned_outside", order_id=order.id, attempt_id=attempt_id, by=staff.account)
        return view(order, _there(order, attempt_id))

    async def _ask(self, order: Order, attempt: Attempt) -> tuple[Order, Any]:
        order, report = await self._asking.ask(order, attempt, self._clock())
        if report is None:
            raise errors.ProviderUnavailable(
                "支付平台现在没有明确的答复，请过一会儿再试。", en="The provider gives no clear answer.", retry_after_s=30
            )
        return order, report

    async def _confirm(self, order: Order, attempt: Attempt) -> None:
        """Let a held payment go back only at the amount that the provider tells now as it told then."""
        _held(order, attempt.id)
        if not holding.may_give_back(attempt):
            raise _console()
        order, report = await self._ask(order, attempt)
        _held(order, attempt.id)
        if (report.state, report.amount_fen, report.currency) != (PaymentState.PAID, attempt.reported_fen, "CNY"):
            raise _console()


def _held(order: Order, attempt_id: str) -> Attempt:
    attempt = _there(order, attempt_id)
    if attempt.state is not AttemptState.HELD:
        raise errors.NotHeld("这笔付款已经对上或者处理过了，请刷新后查看。", en="It fits by now, or was decided.")
    return attempt


def _there(order: Order, attempt_id: str) -> Attempt:
    attempt = order.attempt(attempt_id)
    if attempt is None:
        raise errors.not_found()
    return attempt


def _console() -> errors.HeldUnclear:
    return errors.HeldUnclear(
        "这笔付款的币种不同，或者支付平台现在说的金额又变了，系统不能自动退回。请财务人员在支付平台商户后台核对并退款，再由负责人登记。",
        en="Only the provider's own pages can return this payment.",
    )


def view(order: Order, attempt: Attempt) -> dict[str, Any]:
    """Return a payment that does not fit, as staff see it."""
    refunds: Mapping[str, str] = {r.id: str(r.state) for r in order.refunds if r.attempt_id == attempt.id}
    return {
        "id": attempt.id,
        "kind": "overpaid" if attempt.is_overpaid else str(attempt.state),
        "order_id": order.id,
        "order_state": str(order.state),
        "title": order.title,
        "provider": attempt.provider,
        "out_trade_no": attempt.out_trade_no,
        "provider_trade_no": attempt.provider_trade_no or None,
        "expected_fen": attempt.amount_fen,
        "reported_fen": attempt.reported_fen,
        "differs": list(attempt.held_for),
        "may_return": holding.may_give_back(attempt) and holding.open_request(order, attempt) is None,
        "decided_by": attempt.decided_by or None,
        "decision_note": attempt.decision_note or None,
        "created_at": format_utc(attempt.created_at),
        "paid_at": format_utc(attempt.paid_at),
        "refunds": [{"id": refund_id, "state": state} for refund_id, state in refunds.items()],
    }
