"""The worker's part of refunds: sending them, asking for them until they end, and applying what providers say, by query or notice.

The order of things, and why: (1) the request is committed with the move to `sending`, (2) only then the provider is called, (3) what it
says is applied. A crash at any point leaves a number that is asked for; only a query that does not know it sends the same bytes again.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from payments import metrics, refunding
from payments.model import Attempt, Order
from payments.provider import (
    PaymentProvider,
    ProviderError,
    ProviderNotSent,
    ProviderRefused,
    RefundProviderState,
    RefundReport,
    RefundTerms,
)
from payments.refund import Refund, RefundState, next_refund_ask
from payments.settling import UnknownNumber
from payments.store import Change, OrderStore

log = structlog.get_logger(__name__)

# Longer than query and refund with their time-outs, so that no refund is in two hands; two hands would be harmless all the same.
LEASE = timedelta(seconds=60)
AT_ONCE = 4
ROUND_S = 20


class RefundFollowing:
    def __init__(self, store: OrderStore, providers: Mapping[str, PaymentProvider], public_url: str) -> None:
        self._store = store
        self._providers = providers
        self._public_url = public_url

    async def apply_report(self, report: RefundReport, source: str, now: datetime) -> Order:
        """Apply a verified report and return the order as it is afterwards.

        Args:
            source: `answer`, `query` or `notice`; for metrics and log only, all are believed alike.

        Raises:
            UnknownNumber: no refund of ours, or a notice of another merchant or trade uses its number; nothing was changed.
        """
        order = await self._store.load_of_refund(report.out_refund_no)
        refund = order.refund(report.out_refund_no) if order else None
        attempt = order.attempt(refund.attempt_id) if order and refund else None
        if order is None or refund is None or attempt is None:
            metrics.unknown_numbers.labels(report.provider).inc()
            log.error("refund.unknown_number", provider=report.provider, out_refund_no=report.out_refund_no)
            raise UnknownNumber(report.out_refund_no)
        differs = _mismatches(refund, attempt, report)
        if differs:
            for name in differs:
                metrics.held.labels(report.provider, f"refund_{name}").inc()
            log.error("refund.mismatch", refund_id=refund.id, differs=differs, source=source)
            if source == "notice":  # not acknowledged, like a payment of another merchant
                raise UnknownNumber(report.out_refund_no)
            return order
        changed: list[RefundState] = []

        def decide(current: Order) -> Change | None:
            changed.clear()  # a transaction may run more than once
            known = current.refund(report.out_refund_no)
            change = refunding.told(current, known, report, now) if known else None
            if change is not None and known is not None:
                after = change.order.refund(known.id)
                changed.append(after.state if after else known.state)
            return change

        order = await self._store.change(order.id, decide)
        for state in changed:
            metrics.refunds.labels(report.provider, str(state)).inc()
            tell = log.error if state is RefundState.ABNORMAL else log.info
            tell(f"refund.{state}", order_id=order.id, refund_id=refund.id, source=source)
        return order

    async def sweep(self, now: datetime) -> int:
        """Act on every refund that is due at `now`; return how many orders were looked at. Any number of workers may sweep."""
        stop_at = asyncio.get_running_loop().time() + ROUND_S

        async def work() -> int:
            handled = 0
            while asyncio.get_running_loop().time() < stop_at:
                order = await self._store.claim_refund_due(now, LEASE)
                if order is None:
                    break
                for refund in order.refunds:
                    if refund.next_at is None or refund.next_at > now:
                        continue
                    try:
                        await self._look_at(order, refund, now)
                    except Exception as error:  # one refund must not stop the others; its lease runs out and it is tried again
                        log.error("refund.sweep_failed", order_id=order.id, refund_id=refund.id, exc_info=error)
                handled += 1
            return handled

        return sum(await asyncio.gather(*(work() for _ in range(AT_ONCE))))

    async def _look_at(self, order: Order, refund: Refund, now: datetime) -> None:
        provider = self._providers.get(refund.provider)
        if provider is None:  # taken out of the assembly while refunds live: they stay open, visibly
            log.error("refund.provider_missing", provider=refund.provider, refund_id=refund.id)
            await self._postpone(order.id, refund, now + timedelta(hours=1))
        elif refund.state is RefundState.APPROVED:
            await self._send(order, refund, provider, now)
        else:
            await self._ask(order.id, refund, provider, now)

    async def _send(self, order: Order, refund: Refund, provider: PaymentProvider, now: datetime) -> None:
        """Commit the request, then call."""
        attempt = order.attempt(refund.attempt_id)
        if attempt is None:
            raise LookupError(refund.attempt_id)
        request = provider.prepare_refund(
            RefundTerms(
                out_trade_no=attempt.out_trade_no,
                out_refund_no=refund.out_refund_no,
                amount_fen=refund.amount_fen,
                paid_fen=attempt.paid_fen,
                reason=refund.reason,
                notify_url=f"{self._public_url}/callbacks/{provider.name}/refunds",
            )
        )

        def decide(current: Order) -> Change | None:
            known = current.refund(refund.id)
            if known is None or known.state is not RefundState.APPROVED:
                return None
            if not refunding.is_still_there(current, known):
                return refunding.withdrawn(current, known, now)
            may_at = refunding.may_send_at(current, known, now)
            if may_at > now:
                return refunding.postponed(current, known, may_at)
            return refunding.sending(current, known, request, now)

        order = await self._store.change(order.id, decide)
        current = order.refund(refund.id)
        if current is not None and current.state is RefundState.SENDING:  # by us, or by somebody else just now: the same bytes
            await self._call(order.id, current, provider, now)

    async def _call(self, order_id: str, refund: Refund, provider: PaymentProvider, now: datetime) -> None:
        try:
            report = await provider.refund(refund)
        except ProviderRefused as error:
            log.warning("refund.refused", refund_id=refund.id, code=error.code)
            await self._ask(order_id, refund, provider, now, refused=error.code)
        except ProviderError as error:
            if not isinstance(error, ProviderNotSent):
                metrics.unknown_outcomes.labels(provider.name, "refund").inc()
            log.warning("refund.unclear", refund_id=refund.id, cause=str(error))
            await self._postpone(order_id, refund, next_refund_ask(refund, now))
        else:
            await self._apply(order_id, refund, report, "answer", now)

    async def _ask(
        self, order_id: str, refund: Refund, provider: PaymentProvider, now: datetime, *, refused: str = ""
    ) -> None:
        """Query, and do what the answer calls for.

        Args:
            refused: the provider has just refused it with this code: unknown to a query too, it has ended.
        """
        try:
            report = await provider.query_refund(refund)
        except ProviderError as error:
            metrics.unknown_outcomes.labels(provider.name, "query_refund").inc()
            log.warning("refund.query_unclear", refund_id=refund.id, cause=str(error))
            await self._postpone(order_id, refund, next_refund_ask(refund, now))
            return
        if report.state is not RefundProviderState.NOT_FOUND:
            await self._apply(order_id, refund, report, "query", now)
        elif refund.state is RefundState.ABNORMAL:
            await self._postpone(order_id, refund, next_refund_ask(refund, now))  # a person is at it
        elif refused:
            await self._end_refused(order_id, refund, refused, now)
        else:
            # Not received, or (Alipay) taken without moving money: the same bytes under the same number.
            await self._call(order_id, refund, provider, now)

    async def _apply(self, order_id: str, refund: Refund, report: RefundReport, source: str, now: datetime) -> None:
        order = await self.apply_report(report, source, now)
        current = order.refund(refund.id)
        if current is not None and (current.state, current.asks, current.next_at) == (refund.state, refund.asks, refund.next_at):
            await self._postpone(order_id, current, next_refund_ask(current, now))  # no news

    async def _end_refused(self, order_id: str, refund: Refund, code: str, now: datetime) -> None:
        def decide(order: Order) -> Change | None:
            current = order.refund(refund.id)
            if current is None or current.state is not refund.state:
                return None
            return refunding.refused(order, current, code, now)

        await self._store.change(order_id, decide)
        metrics.refunds.labels(refund.provider, "refused").inc()
        log.error("refund.ended_refused", refund_id=refund.id, code=code)

    async def _postpone(self, order_id: str, refund: Refund, next_at: datetime | None) -> None:
        def decide(order: Order) -> Change | None:
            current = order.refund(refund.id)
            if current is None or current.state is not refund.state or current.asks != refund.asks:
                return None  # something has happened meanwhile and set its own time
            return refunding.postponed(order, current, next_at)

        await self._store.change(order_id, decide)


def _mismatches(refund: Refund, attempt: Attempt, report: RefundReport) -> list[str]:
    """Return which parts of a report differ from our own record. The amount is judged apart: it is a state of its own."""
    pairs = {
        "provider": (refund.provider, report.provider),
        "trade": (attempt.out_trade_no, report.out_trade_no or attempt.out_trade_no),
        "merchant": (attempt.merchant_id or report.merchant_id, report.merchant_id or attempt.merchant_id),
        "app": (attempt.app_id, report.app_id or attempt.app_id),
    }
    return [name for name, (ours, theirs) in pairs.items() if ours != theirs]
