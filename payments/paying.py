"""Paying an order: the attempt for a way of paying, its prepay, and what follows when the provider is silent or refuses.

The order of things, and why: (1) the attempt with its number and every parameter is committed, (2) only then the provider is called,
(3) the outcome is stored. A crash at any point leaves a number that can be asked for; a retry sends the same bytes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from app.kernel.ids import new_id
from payments import errors, metrics
from payments.asking import Asking
from payments.model import MAX_ATTEMPTS, Attempt, AttemptState, Order, OrderState, next_ask
from payments.provider import PaymentProvider, PaymentState, ProviderError, ProviderNotSent, ProviderRefused, Terms
from payments.settling import order_event
from payments.store import Change, OrderStore

log = structlog.get_logger(__name__)

# WeChat Pay wants time_expire at least a minute ahead, and nobody pays in less.
SHORTEST_TO_PAY = timedelta(seconds=75)
# How long a resident who changes the way of paying waits for the old attempt to be closed; unsure, both live on.
SUPERSEDE_WITHIN_S = 4

PayerOf = Callable[[str, str], Awaitable[Mapping[str, Any] | None]]
CloseIfOver = Callable[[Order, datetime, str], Awaitable[Order]]

_WAITS_FROM = (AttemptState.CREATED, AttemptState.UNKNOWN, AttemptState.WAITING)


class Paying:
    def __init__(
        self,
        store: OrderStore,
        asking: Asking,
        providers: Mapping[str, PaymentProvider],
        payer_of: PayerOf,
        close_if_over: CloseIfOver,
        *,
        public_url: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._asking = asking
        self._providers = providers
        self._payer_of = payer_of
        self._close_if_over = close_if_over
        self._public_url = public_url
        self._clock = clock

    async def pay(
        self, order: Order, *, provider_name: str, scene: str, attempt_id: str, client_ip: str = ""
    ) -> tuple[Attempt, dict[str, Any]]:
        """See Payments.pay."""
        chosen = self._chosen(provider_name, scene)
        await self._require_payable(order)
        payer = await self._payer(order.owner_id, chosen) if scene in chosen.payer_scenes else {}
        for _ in range(2):  # a second round when the attempt at hand turns out to be closed at its provider
            order, attempt = await self._attempt_for(order, chosen, scene, payer, attempt_id, client_ip)
            client_params = await self._prepay(order, attempt, chosen)
            if client_params is not None:
                return attempt, client_params
            attempt_id = new_id("pay")
            order = await self._store.load(order.id) or order
            await self._require_payable(order)
        raise errors.provider_silent(chosen.label)

    def _chosen(self, provider: str, scene: str) -> PaymentProvider:
        chosen = self._providers.get(provider)
        if chosen is None:
            raise errors.SceneUnsupported("/provider", "没有这种支付方式，请选择微信支付或支付宝。")
        if scene not in chosen.scenes:
            raise errors.SceneUnsupported("/scene", f"{chosen.label}没有这种付款场景，请换一种方式缴费。")
        return chosen

    async def _payer(self, owner_id: str, provider: PaymentProvider) -> dict[str, str]:
        identity = await self._payer_of(owner_id, provider.identity)
        payer = provider.payer_from(identity) if identity else {}
        if not payer:
            app = "微信" if provider.identity == "wechat" else provider.label
            raise errors.PayerUnknown(
                f"您还没有用{app}登录过，{provider.label}不知道由谁付款。请先在{app}小程序里登录一次，或换一种支付方式。",
                en=f"Sign in through {provider.identity} once before paying with it.",
            )
        return payer

    async def _require_payable(self, order: Order) -> None:
        """Raise unless the order can be paid now. One that has too little time left is closed, so that a new one can be made."""
        now = self._clock()
        if order.state is OrderState.CLOSED:
            raise errors.OrderClosed("这张订单已经关闭，请返回重新发起缴费。", en="The order is closed; make a new one.")
        if order.is_final:
            raise errors.already_paid(order.id)
        raise_if_held(order)
        if now >= order.expires_at - SHORTEST_TO_PAY and not order.open_attempts:
            await self._close_if_over(order, now, "expired")
        if now >= order.expires_at or (now >= order.expires_at - SHORTEST_TO_PAY and not order.open_attempts):
            raise errors.OrderExpired("这张订单已经到期，请返回重新发起缴费。", en="The order has expired; make a new one.")

    async def _attempt_for(
        self, order: Order, provider: PaymentProvider, scene: str, payer: Mapping[str, str], attempt_id: str, client_ip: str
    ) -> tuple[Order, Attempt]:
        """Return an open attempt for this way of paying: the live one, or a new one, committed."""
        now = self._clock()
        live = _live(order, provider, scene, payer, attempt_id)
        if live is not None and live.state is AttemptState.WAITING:
            # It may have been paid in the meantime, before the notice: never lead anybody to pay twice.
            order, _ = await self._asking.ask(order, live, now)
            await self._require_payable(order)
            live = _live(order, provider, scene, payer, attempt_id)
        if live is not None:
            return order, live
        if order.open_attempts:
            try:
                async with asyncio.timeout(SUPERSEDE_WITHIN_S):
                    order = await self._asking.wind_up(order, now)
            except TimeoutError:
                log.warning("payment.old_attempt_unsure", order_id=order.id)
            await self._require_payable(order)
        known = order.attempt(attempt_id)
        if known is not None:  # this very number has ended; a number is never used twice
            attempt_id = new_id("pay")
        order = await self._store.change(
            order.id, lambda current: self._with_new_attempt(current, provider, scene, payer, attempt_id, client_ip)
        )
        attempt = _live(order, provider, scene, payer, attempt_id)
        if attempt is None:
            await self._require_payable(order)
            raise errors.provider_silent(provider.label)
        return order, attempt

    def _with_new_attempt(
        self, order: Order, provider: PaymentProvider, scene: str, payer: Mapping[str, str], attempt_id: str, client_ip: str
    ) -> Change | None:
        now = self._clock()
        if order.is_final or order.is_held or _live(order, provider, scene, payer, attempt_id) is not None:
            return None
        if now >= order.expires_at - SHORTEST_TO_PAY:
            raise errors.OrderExpired("这张订单马上到期，请等一分钟后重新发起缴费。", en="The order is about to expire.")
        if order.attempt(attempt_id) is not None:  # two buttons of one form at once: the other one has just taken this number
            attempt_id = new_id("pay")
        if len(order.attempts) >= MAX_ATTEMPTS:
            raise errors.TooManyAttempts("这张订单试着付款的次数太多了，请关闭它，再重新发起缴费。", en="Close the order and make a new one.")
        terms = Terms(
            out_trade_no=attempt_id,
            scene=scene,
            amount_fen=order.amount_fen,
            description=order.title,
            payer=payer,
            expires_at=order.expires_at,
            notify_url=f"{self._public_url}/callbacks/{provider.name}",
            return_url=f"{self._public_url}/orders/{order.id}",
            client_ip=client_ip,
        )
        attempt = Attempt(
            id=attempt_id,
            provider=provider.name,
            scene=scene,
            state=AttemptState.CREATED,
            amount_fen=order.amount_fen,
            merchant_id=provider.merchant_id,
            app_id=provider.app_id_of(scene),
            payer=payer,
            request=provider.prepare(terms),
            expires_at=order.expires_at,
            created_at=now,
        )
        # What is still open from before is on its way out: the sweep goes on closing it.
        older = tuple(replace(a, superseded=True) if a.is_open else a for a in order.attempts)
        grown = replace(order, attempts=(*older, attempt), asks=0)
        grown = replace(grown, next_ask_at=next_ask(grown, now))
        if order.state is OrderState.PAYING:
            return Change(grown)
        paying = grown.move("start_paying")
        return Change(paying, (order_event("order.paying", paying, now, attempt),))

    async def _prepay(self, order: Order, attempt: Attempt, provider: PaymentProvider) -> dict[str, Any] | None:
        """Call the provider and store the outcome. None: this attempt has ended, take another."""
        try:
            client_params = await provider.create(attempt)
        except ProviderRefused as refused:
            log.warning("payment.create_refused", attempt_id=attempt.id, code=refused.code)
            return await self._after_refusal(order, attempt, provider)
        except ProviderError as error:
            metrics.unknown_outcomes.labels(provider.name, "create").inc()
            log.warning("payment.create_unclear", attempt_id=attempt.id, cause=str(error))
            if not isinstance(error, ProviderNotSent):
                await self._move_attempt(order.id, attempt.id, "lose_sight", AttemptState.CREATED)
            raise errors.provider_silent(provider.label) from error
        order = await self._move_attempt(order.id, attempt.id, "wait", *_WAITS_FROM, asked_anew=True)
        current = order.attempt(attempt.id)
        if current is None or not current.is_open:  # settled or closed while the provider was answering
            await self._require_payable(order)
            return None
        return client_params

    async def _after_refusal(self, order: Order, attempt: Attempt, provider: PaymentProvider) -> None:
        """A refused prepay may be one that went through before: only a query tells (the codes differ by page)."""
        order, report = await self._asking.ask(order, attempt, self._clock())
        await self._require_payable(order)
        current = order.attempt(attempt.id)
        if report is None:
            raise errors.provider_silent(provider.label)
        if current is not None and not current.is_open:
            return None
        if report.state is PaymentState.NOT_FOUND:
            await self._move_attempt(order.id, attempt.id, "fail", AttemptState.CREATED, AttemptState.UNKNOWN)
        raise errors.PaymentRefused(
            f"{provider.label}没有接受这笔付款，您没有被扣款。请换一种支付方式，或稍后再试；一直不行请拨打12345。",
            en="The provider refused this payment. You have not been charged.",
        )

    async def _move_attempt(
        self, order_id: str, attempt_id: str, move: str, *sources: AttemptState, asked_anew: bool = False
    ) -> Order:
        now = self._clock()

        def decide(order: Order) -> Change | None:
            attempt = order.attempt(attempt_id)
            if attempt is None or attempt.state not in sources:
                return None
            moved = order.with_attempt(attempt.move(move))
            if asked_anew:  # the questions begin anew with each prepay
                moved = replace(moved, asks=0)
                moved = replace(moved, next_ask_at=next_ask(moved, now))
            return Change(moved)

        return await self._store.change(order_id, decide)


def _live(
    order: Order, provider: PaymentProvider, scene: str, payer: Mapping[str, str], attempt_id: str
) -> Attempt | None:
    """Return the open attempt that serves this way of paying: the one with this number, else any for the same payer."""
    same = [
        attempt
        for attempt in order.open_attempts
        if (attempt.provider, attempt.scene) == (provider.name, scene)
        and dict(attempt.payer) == dict(payer)
        and not attempt.superseded
    ]
    return next((attempt for attempt in same if attempt.id == attempt_id), same[-1] if same else None)


def raise_if_held(order: Order) -> None:
    if order.is_held:
        raise errors.PaymentHeld(
            "支付平台报来的付款与这张订单对不上，工作人员正在核对，请不要重复付款。核对结果会通知您，也可以拨打12345询问。",
            en="A payment that does not match this order is being looked into. Please do not pay again.",
        )
