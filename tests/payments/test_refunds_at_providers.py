"""Refunds through the stand-ins of both providers: their words, their notices, and a double payment that goes back by itself."""

import asyncio
from datetime import timedelta

import pytest

from app.kernel.ids import new_id
from payments.ledger.verify import verify
from tests.payments.test_refunds import CLERK

PROVIDERS = ["wechatpay", "alipay"]


async def paid(hall, provider):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, provider)
    await hall.sim("pay", provider=provider, out_trade_no=attempt.id, outcome="success")
    return await hall.until(order, "paid")


async def ask(hall, order, amount_fen=4000):
    _, refund = await hall.payments.refunds.request(
        order.id, CLERK, amount_fen=amount_fen, reason="重复缴费", refund_id=new_id("rfd")
    )
    return refund


async def sweep_until(hall, order, state, seconds=8):
    """Sweep as the worker does, its clock an hour ahead each round, until the order has a state."""
    async with asyncio.timeout(seconds):
        while await hall.state(order) != state:
            await hall.payments.sweep(hall.now())
            hall.offset += timedelta(minutes=1)
            await asyncio.sleep(0.05)


async def is_proven(hall):
    assert (await verify(hall.database)).problems == []
    return True


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_in_two_parts(hall, provider):
    order = await paid(hall, provider)
    await ask(hall, order, 1500)
    await sweep_until(hall, order, "partly_refunded")
    await ask(hall, order, 2500)
    await sweep_until(hall, order, "refunded")
    assert await is_proven(hall)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_notice_ends_it_without_a_question(hall, provider):
    order = await paid(hall, provider)
    await hall.sim("refunds", mode="processing")
    refund = await ask(hall, order)
    await hall.payments.sweep(hall.now())
    assert await hall.state(order) == "refunding"
    told = await hall.sim("refunds", out_refund_no=refund.id, status="SUCCESS")
    assert told["status"] == 200
    if provider == "wechatpay":
        await hall.until(order, "refunded")
    else:  # Alipay's notice tells the sum of all refunds; the next question settles it
        await sweep_until(hall, order, "refunded")
    assert await is_proven(hall)


async def test_abnormal_then_closed_then_the_truth(hall):
    order = await paid(hall, "wechatpay")
    await hall.sim("refunds", mode="processing")
    refund = await ask(hall, order)
    await hall.payments.sweep(hall.now())
    for status, state in [("ABNORMAL", "abnormal"), ("CLOSED", "closed"), ("SUCCESS", "succeeded")]:
        await hall.sim("refunds", out_refund_no=refund.id, status=status)
        async with asyncio.timeout(5):
            while (await hall.payments.get_order(order.id, order.owner_id)).refund(refund.id).state != state:
                await asyncio.sleep(0.02)
        assert await is_proven(hall)
    assert await hall.state(order) == "refunded"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_without_funds_it_waits_under_the_same_number(hall, provider):
    order = await paid(hall, provider)
    await hall.sim("refunds", mode="not_enough")
    refund = await ask(hall, order)
    for _ in range(3):
        await hall.payments.sweep(hall.now())
        hall.offset += timedelta(minutes=5)
    assert await hall.state(order) == "refunding"
    await hall.sim("refunds", mode="success")
    await sweep_until(hall, order, "refunded")
    found = await hall.payments.get_order(order.id, order.owner_id)
    assert [row.id for row in found.refunds] == [refund.id] and await is_proven(hall)


async def test_paid_through_both_providers_the_second_goes_back_by_itself(hall):
    resident = await hall.resident()
    order = await hall.order(resident)
    first, _ = await hall.pay(order, "wechatpay")
    # The second way of paying is begun while nobody knows whether the first is over.
    await hall.sim("faults", provider="wechatpay", mode="down", count=20)
    second, _ = await hall.pay(order, "alipay")
    await hall.sim("pay", provider="alipay", out_trade_no=second.id, outcome="success")
    await hall.until(order, "paid")
    await hall.sim("faults", provider="wechatpay", mode="none")
    await hall.sim("pay", provider="wechatpay", out_trade_no=first.id, outcome="success")
    async with asyncio.timeout(10):
        while True:
            await hall.payments.sweep(hall.now())
            hall.offset += timedelta(seconds=20)
            found = await hall.payments.get_order(order.id, resident)
            if found.refunds and found.refunds[0].state == "succeeded":
                break
            await asyncio.sleep(0.05)
    assert hall.offset < timedelta(minutes=5)
    assert found.state == "paid" and [r.attempt_id for r in found.refunds] == [first.id]
    names = await hall.events(order)
    assert [name for name in names if name in ("order.overpaid", "refund.succeeded")] == ["order.overpaid", "refund.succeeded"]
    assert await is_proven(hall)
