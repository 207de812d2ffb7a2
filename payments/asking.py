"""Asking providers: what became of an attempt, and ending one for good (query, close, query).

Nothing here decides anything: every answer goes through settling.apply_report, like a notice.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime

import structlog

from payments import metrics
from payments.model import Attempt, AttemptState, Order
from payments.provider import PaymentProvider, PaymentReport, PaymentState, ProviderError, ProviderRefused
from payments.settling import Settling

log = structlog.get_logger(__name__)


class Asking:
    def __init__(self, providers: Mapping[str, PaymentProvider], settling: Settling) -> None:
        self._providers = providers
        self._settling = settling

    async def ask(
        self, order: Order, attempt: Attempt, now: datetime, *, winding_up: bool = False
    ) -> tuple[Order, PaymentReport | None]:
        """Query one attempt and apply the answer; without a clear answer nothing changes and the report is None."""
        provider = self._providers.get(attempt.provider)
        if provider is None:  # taken out of the assembly while attempts live: they stay open, visibly
            log.error("payment.provider_missing", provider=attempt.provider, attempt_id=attempt.id)
            return order, None
        try:
            report = await provider.query(attempt)
        except ProviderError as error:
            metrics.unknown_outcomes.labels(attempt.provider, "query").inc()
            log.warning("payment.query_unclear", attempt_id=attempt.id, cause=str(error))
            return order, None
        source = "close" if winding_up else "query"
        return await self._settling.apply_report(report, source, now, winding_up=winding_up), report

    async def ask_all(self, order: Order, now: datetime) -> Order:
        """Query every attempt of an order of which news may come; return it as it is afterwards."""
        results = await asyncio.gather(*(self.ask(order, attempt, now) for attempt in order.askable_attempts))
        return _newest(order, [result for result, _ in results])

    async def wind_up(self, order: Order, now: datetime) -> Order:
        """End every open attempt at its provider as far as that can be proven; return the order as it is afterwards.

        An attempt that turns out paid is settled; one whose provider is silent stays open.
        """
        results = await asyncio.gather(*(self._wind_up(order, attempt, now) for attempt in order.open_attempts))
        return _newest(order, results)

    async def _wind_up(self, order: Order, attempt: Attempt, now: datetime) -> Order:
        # Query first: a close of something paid fails anyway, and the payment is wanted at once.
        order, report = await self.ask(order, attempt, now)
        current = order.attempt(attempt.id)
        if report is None or current is None or not current.is_open:
            return order
        if report.state is not PaymentState.NOT_FOUND or current.state is AttemptState.WAITING:
            try:
                await self._providers[attempt.provider].close(attempt)
            except ProviderRefused as refused:  # paid or closed just now, most likely: the query below tells
                log.info("payment.close_refused", attempt_id=attempt.id, code=refused.code)
            except ProviderError as error:
                metrics.unknown_outcomes.labels(attempt.provider, "close").inc()
                log.warning("payment.close_unclear", attempt_id=attempt.id, cause=str(error))
        # "Closed" is believed only from a query: a close has been seen to succeed for the wrong number.
        order, _ = await self.ask(order, attempt, now, winding_up=True)
        return order


def _newest(order: Order, others: list[Order]) -> Order:
    return max([order, *others], key=lambda each: each.version)
