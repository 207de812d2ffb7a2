"""A provider in trouble: what residents are told, what is repeated, that the other provider is still there, and what operators see."""

import asyncio
import time

import pytest
from prometheus_client import REGISTRY

from app.kernel.errors import ProviderUnavailable
from app.kernel.ids import new_id
from app.platforms.http import BREAKER_FAILURES
from payments.model import AttemptState
from payments.provider import ProviderNotSent, ProviderUnknown
from tests.payments.providers.tries import attempt_of, paid_attempt

NAMES = ("wechatpay", "alipay")
OTHER = {"wechatpay": "alipay", "alipay": "wechatpay"}
both = pytest.mark.parametrize("name", NAMES)


def counted(metric, **labels):
    return REGISTRY.get_sample_value(metric, labels) or 0


@both
@pytest.mark.parametrize("mode", ["down", "lost", "error500", "garbage", "bad_signature", "unsigned", "rate_limited"])
async def test_trouble_at_prepay_is_told_honestly_and_repeated_under_the_same_number(hall, name, mode):
    order = await hall.order(await hall.resident())
    number = new_id("pay")
    unclear = counted("hall_payment_unknown_outcomes_total", provider=name, call="create")
    await hall.sim("faults", provider=name, mode=mode)
    with pytest.raises(ProviderUnavailable) as caught:
        await hall.pay(order, name, number)
    assert "没有被扣款" in caught.value.detail and caught.value.retry_after_s <= 10
    assert counted("hall_payment_unknown_outcomes_total", provider=name, call="create") == unclear + 1
    (attempt,) = (await hall.payments.get_order(order.id, order.owner_id)).attempts
    # "Turned away unread" leaves nothing to be unsure of; everything else is a state of its own.
    assert attempt.state is (AttemptState.CREATED if mode == "rate_limited" else AttemptState.UNKNOWN)
    request = attempt.request
    # The other provider is still there, at once.
    other, params = await hall.pay(order, OTHER[name])
    assert params and other.id != number
    await hall.sim("faults", provider=name, mode="none")
    found = (await hall.payments.get_order(order.id, order.owner_id)).attempts
    assert found[0].request == request and [a.provider for a in found] == [name, OTHER[name]]
    await hall.sim("pay", provider=OTHER[name], out_trade_no=other.out_trade_no)
    await hall.until(order, "paid")


@both
async def test_the_same_number_goes_out_again_after_trouble(hall, name):
    order = await hall.order(await hall.resident())
    for mode in ("lost", "error500", "bad_signature"):
        await hall.sim("faults", provider=name, mode=mode)
        with pytest.raises(ProviderUnavailable):
            await hall.pay(order, name)
    await hall.sim("faults", provider=name, mode="none")
    attempt, _ = await hall.pay(order, name)
    assert [a.id for a in (await hall.payments.get_order(order.id, order.owner_id)).attempts] == [attempt.id]


@both
async def test_the_breaker_spares_the_waiting_and_the_other_provider_is_untouched(hall, name):
    provider, other = hall.payments.providers[name], hall.payments.providers[OTHER[name]]
    attempt, elsewhere = await attempt_of(hall, provider), await attempt_of(hall, other)
    await hall.sim("faults", provider=name, mode="lost")
    for _ in range(BREAKER_FAILURES):
        with pytest.raises(ProviderUnknown):
            await provider.query(attempt)
    await hall.sim("faults", provider=name, mode="none")
    began = time.monotonic()
    with pytest.raises(ProviderNotSent):  # not sent at all
        await provider.query(attempt)
    assert time.monotonic() - began < 0.1
    assert await other.create(elsewhere)
    async with asyncio.timeout(6):  # it rests for two seconds and then lets one call try
        while True:
            try:
                await provider.query(attempt)
                break
            except ProviderNotSent:
                await asyncio.sleep(0.2)


@pytest.mark.parametrize("offset_s", [-900, 900])
async def test_a_clock_that_is_off_is_seen_from_the_date_header(hall, offset_s):
    """Every request then fails with SIGN_ERROR and every notice is refused: the offset is what tells an operator why."""
    order = await hall.order(await hall.resident())
    await hall.sim("clock", offset_s=offset_s)
    for name in NAMES:
        provider = hall.payments.providers[name]
        with pytest.raises(ProviderUnavailable):  # nothing is known to be refused: a query cannot be signed either
            await hall.pay(order, name)
        assert abs(provider.clock_offset_s - offset_s) < 3
        assert abs(counted("hall_payment_clock_offset_seconds", provider=name) - offset_s) < 3
    await hall.sim("clock", offset_s=0)
    assert (await hall.pay(order, "wechatpay"))[1]
    assert abs(hall.payments.providers["wechatpay"].clock_offset_s) < 3


async def test_probes_of_wechat_pay_are_refused_counted_and_no_alarm(hall, capsys):
    wechatpay = hall.payments.providers["wechatpay"]
    attempt = await paid_attempt(hall, wechatpay)
    probes = counted("hall_payment_answers_refused_total", provider="wechatpay", reason="probe")
    await hall.sim("faults", provider="wechatpay", mode="bad_signature", count=1)
    capsys.readouterr()
    with pytest.raises(ProviderUnknown, match="probe"):
        await wechatpay.query(attempt)
    assert counted("hall_payment_answers_refused_total", provider="wechatpay", reason="probe") == probes + 1
    assert "error" not in capsys.readouterr().out
    await hall.sim("faults", provider="wechatpay", mode="unsigned", count=1)
    with pytest.raises(ProviderUnknown, match="headers_missing"):
        await wechatpay.query(attempt)


@both
@pytest.mark.parametrize("mode", ["bad_signature", "unsigned", "garbage", "down", "lost", "slow"])
async def test_a_notice_in_trouble_comes_again_and_settles_once(hall, name, mode):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, name)
    await hall.sim("faults", provider=f"{name}_notice", mode=mode, count=2)
    await hall.sim("pay", provider=name, out_trade_no=attempt.out_trade_no)
    await hall.until(order, "paid")
    assert (await hall.events(order)).count("order.paid") == 1


@both
async def test_a_storm_of_notices_settles_once(hall, name):
    await hall.sim("storm", repeat=20, reorder=True, delay_s=0.2, drop=0.2, keys="mixed", seed=7)
    orders = [await hall.order(await hall.resident(f"某{i}")) for i in range(3)]
    for order in orders:
        attempt, _ = await hall.pay(order, name)
        await hall.sim("pay", provider=name, out_trade_no=attempt.out_trade_no)
    for order in orders:
        await hall.until(order, "paid", 10)
        await asyncio.sleep(0.3)
        events = await hall.events(order)
        assert events.count("order.paid") == 1 and "order.overpaid" not in events
