"""The worker's part: asks about what no notice has told, ends what has expired. Any number of workers may sweep at once.

Times (model.next_ask): a live attempt is asked about at 5, 15 and 30 s after its prepay and then every 30 s, so what was paid is known
within a minute without any notice. At its deadline an order is wound up: query, close, query; only when every provider confirms is it
closed and what it was for set free. One that stays unsure is asked about again with growing pauses, for as long as it takes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from payments.asking import Asking
from payments.model import Order, next_ask
from payments.notifications import Notifications
from payments.store import OrderStore

log = structlog.get_logger(__name__)

# Longer than the slowest wind-up (query, close, query, each with its time-out), so that nobody is asked about twice at once.
LEASE = timedelta(seconds=25)
AT_ONCE = 8
# One round ends after this, whatever is left: the worker has other work and comes back in seconds.
ROUND_S = 20

CloseIfOver = Callable[[Order, datetime, str], Awaitable[Order]]


class Sweeps:
    def __init__(
        self, store: OrderStore, asking: Asking, notifications: Notifications, close_if_over: CloseIfOver
    ) -> None:
        self._store = store
        self._asking = asking
        self._notifications = notifications
        self._close_if_over = close_if_over

    async def run(self, now: datetime) -> int:
        """Handle everything that is due at `now`; return how many orders were looked at."""
        await self._notifications.apply_forgotten(now)
        stop_at = asyncio.get_running_loop().time() + ROUND_S

        async def work() -> int:
            handled = 0
            while asyncio.get_running_loop().time() < stop_at:
                claimed = await self._store.claim_due(now, LEASE)
                if claimed is None:
                    break
                order, lease_until = claimed
                try:
                    order = await self._look_at(order, now)
                except Exception as error:  # one order must not stop the others; its lease runs out and it is tried again
                    log.error("payment.sweep_failed", order_id=order.id, exc_info=error)
                    continue
                await self._store.schedule(order.id, lease_until, next_ask(replace(order, asks=order.asks + 1), now))
                handled += 1
            return handled

        return sum(await asyncio.gather(*(work() for _ in range(AT_ONCE))))

    async def _look_at(self, order: Order, now: datetime) -> Order:
        if order.is_final:
            return await self._asking.wind_up(order, now)  # paid already; what is left must not be payable any more
        if now >= order.expires_at:
            order = await self._asking.wind_up(order, now)
            if order.is_held and not order.is_final:
                return await self._asking.ask_all(order, now)
            return order if order.is_final else await self._close_if_over(order, now, "expired")
        superseded = [attempt for attempt in order.open_attempts if attempt.superseded]
        if superseded:
            fresh = replace(order, attempts=tuple(superseded))
            await self._asking.wind_up(fresh, now)
        current = [attempt for attempt in order.askable_attempts if not attempt.superseded]
        if current:
            await self._asking.ask_all(replace(order, attempts=tuple(current)), now)
        return await self._store.load(order.id) or order
