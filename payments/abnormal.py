"""Refunds whose money cannot reach the payer (`abnormal`), paid out another way by a person's decision.

To a card of the payer, or to the agency's own bank account, from where the payer gets it by other means. Card data passes through to the
provider, sealed, and is kept nowhere. Twice is harmless: a refund that is on its way again is refused by the provider and by us.
"""

from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from payments import errors, metrics, refunding
from payments.model import Order
from payments.provider import BankCard, PaymentProvider, ProviderError, ProviderRefused
from payments.refund import Refund, RefundState
from payments.refund_following import RefundFollowing
from payments.refunds import APPROVES, Staff
from payments.store import Change, OrderStore

log = structlog.get_logger(__name__)


class AbnormalRefunds:
    def __init__(
        self, store: OrderStore, providers: Mapping[str, PaymentProvider], following: RefundFollowing, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._providers = providers
        self._following = following
        self._clock = clock

    async def pay_out(self, refund_id: str, staff: Staff, card: BankCard | None) -> tuple[Order, Refund]:
        """Have an abnormal refund paid out to a card of the payer, or with None to the merchant's bank account.

        By the head of the agency whose refund it is, under another account than who asked for it; recorded before the provider is called.

        Raises:
            RefundNotFound, SecondPersonNeeded. RefundDecided: it is not abnormal (any more). PayOutRefused: the provider will not, or has
            no such way. ProviderUnavailable: no clear answer; the worker asks what became of it.
        """
        order = await self._store.load_of_refund(refund_id)
        refund = order.refund(refund_id) if order else None
        if order is None or refund is None or refund.agency_id != staff.agency_id:
            raise errors.refund_not_found()
        if staff.role != APPROVES or staff.account == refund.requested_by:
            raise errors.SecondPersonNeeded(
                "受阻的退款改退要由本单位负责人操作，而且不能是申请人。", en="The head, not the asker, has to do it."
            )
        if refund.state is not RefundState.ABNORMAL or refund.failure != "abnormal":
            raise errors.RefundDecided("这笔退款现在不能改退，请刷新后查看。", en="It is not stuck any more.")
        await self._store.record_reading(staff.account, "refund.pay_out", refund.id, order.owner_id)
        way = "card" if card else "merchant"
        try:
            report = await self._providers[refund.provider].apply_abnormal(refund, refund.provider_refund_no, card)
        except ProviderRefused as refused:
            log.warning("refund.pay_out_refused", refund_id=refund.id, code=refused.code, way=way, by=staff.account)
            # A call whose answer was lost may have been sent again on the way: the second is refused because the first was taken.
            await self._ask_soon(order.id, refund)
            raise errors.PayOutRefused(
                f"支付平台没有接受（{refused.code}）。请先刷新看这笔退款是否已经在办；没有的话，核对银行卡信息再试，或在商户后台处理。",
                en="The provider refused it.",
            ) from refused
        except ProviderError as error:
            metrics.unknown_outcomes.labels(refund.provider, "apply_abnormal").inc()
            log.warning("refund.pay_out_unclear", refund_id=refund.id, cause=str(error), way=way, by=staff.account)
            await self._ask_soon(order.id, refund)
            raise errors.ProviderUnavailable(
                "支付平台没有明确答复，系统会继续询问。请过一会儿刷新再看，不要马上重复操作。",
                en="The provider gives no clear answer; it is being asked.",
                retry_after_s=30,
            ) from error
        log.info("refund.paid_out", refund_id=refund.id, way=way, by=staff.account)
        order = await self._following.apply_report(report, "answer", self._clock())
        after = order.refund(refund.id)
        assert after is not None
        return order, after

    async def _ask_soon(self, order_id: str, refund: Refund) -> None:
        def decide(order: Order) -> Change | None:
            current = order.refund(refund.id)
            return refunding.postponed(order, current, self._clock()) if current and current.state is refund.state else None

        await self._store.change(order_id, decide)
