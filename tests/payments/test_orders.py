"""Orders from the hall's side: the same one comes back, one payer wins, and how an order is closed or expires."""

import asyncio
from datetime import timedelta

import pytest

from app.kernel.errors import NotFound, ValidationFailed
from app.kernel.ids import new_id
from payments import errors

PROVIDERS = ("wechatpay", "alipay")
both = pytest.mark.parametrize("provider", PROVIDERS)


async def test_the_same_order_comes_back(hall):
    resident = await hall.resident()
    case = hall.cases.owe(resident)
    answers = await asyncio.gather(*(hall.order(resident, case) for _ in range(5)))
    assert len({order.id for order in answers}) == 1
    assert await hall.database["orders"].count_documents({}) == 1
    assert await hall.events(answers[0]) == ["order.created"]
    with pytest.raises(errors.PayableBusy):
        await hall.order(resident, case, hall.cases.owe(resident))


async def test_a_crashed_create_finds_its_order(hall):
    resident = await hall.resident()
    payables = [{"kind": "case", "id": hall.cases.owe(resident)}]
    order_id = new_id("ord")
    first = await hall.payments.create_order(resident, payables, order_id=order_id)
    assert (await hall.payments.create_order(resident, payables, order_id=order_id)).id == first.id == order_id


async def test_two_payers_race_for_one_payable(hall):
    one, two = await hall.resident("张三"), await hall.resident("李四")
    case = hall.cases.owe(one, two)
    results = await asyncio.gather(
        *(hall.order(who, case) for who in (one, two) * 4), return_exceptions=True
    )
    orders = {result.id for result in results if not isinstance(result, Exception)}
    refused = [result for result in results if isinstance(result, Exception)]
    assert len(orders) == 1 and len(refused) == 4
    assert all(isinstance(error, errors.PayableBusy) for error in refused)
    winner = next(result for result in results if not isinstance(result, Exception))
    loser = two if winner.owner_id == one else one
    attempt, _ = await hall.pay(winner)
    await hall.sim("pay", provider="wechatpay", out_trade_no=attempt.out_trade_no)
    await hall.until(winner, "paid")
    for who in (one, two):
        with pytest.raises(errors.OrderAlreadyPaid):
            await hall.order(who, case)
    assert loser != winner.owner_id


async def test_a_strangers_payable_does_not_exist(hall):
    owner, stranger = await hall.resident("张三"), await hall.resident("李四")
    case = hall.cases.owe(owner)
    order = await hall.order(owner, case)
    with pytest.raises(NotFound):
        await hall.order(stranger, case)
    for call in (
        hall.payments.get_order(order.id, stranger),
        hall.payments.close_order(order.id, stranger),
        hall.payments.receipt(order.id, stranger),
        hall.payments.receipt_pdf(order.id, stranger),
    ):
        with pytest.raises(errors.OrderNotFound):
            await call


async def test_what_cannot_be_ordered(hall):
    resident = await hall.resident()
    case = hall.cases.owe(resident)
    for payables in (
        [],
        [{"kind": "gift", "id": "x"}],
        [{"kind": "case", "id": case}] * 2,
        [{"kind": "case", "id": hall.cases.owe(resident, amount_fen=0)}],
        [{"kind": "case", "id": hall.cases.owe(resident)} for _ in range(21)],
    ):
        with pytest.raises(ValidationFailed):
            await hall.payments.create_order(resident, payables, order_id=new_id("ord"))
    assert await hall.database["payable_locks"].count_documents({}) == 0


async def test_pages_of_orders(hall):
    resident = await hall.resident()
    orders = [await hall.order(resident) for _ in range(5)]
    first, cursor = await hall.payments.list_orders(resident, limit=3)
    rest, end = await hall.payments.list_orders(resident, limit=3, cursor=cursor)
    assert [order.id for order in first + rest] == [order.id for order in reversed(orders)]
    assert end is None
    assert await hall.payments.list_orders(resident, states=["paid"]) == ([], None)


# --- closing and expiry ---


@both
async def test_the_resident_closes(hall, provider):
    resident = await hall.resident()
    case = hall.cases.owe(resident)
    order = await hall.order(resident, case)
    attempt, _ = await hall.pay(order, provider)
    closed = await hall.payments.close_order(order.id, resident)
    assert closed.state == "closed"
    assert (await hall.payments.close_order(order.id, resident)).state == "closed"
    assert (await hall.trade(attempt.out_trade_no))["trade_state"] in ("CLOSED", "TRADE_CLOSED")
    assert (await hall.events(order))[-1] == "order.closed"
    with pytest.raises(errors.OrderClosed):
        await hall.pay(order, provider)
    assert (await hall.order(resident, case)).id != order.id


async def test_closing_something_paid_settles_it(hall):
    resident = await hall.resident()
    order = await hall.order(resident)
    attempt, _ = await hall.pay(order)
    await hall.sim("pay", provider="wechatpay", out_trade_no=attempt.out_trade_no, outcome="success_without_notice")
    with pytest.raises(errors.OrderAlreadyPaid):
        await hall.payments.close_order(order.id, resident)
    assert await hall.state(order) == "paid"


@both
async def test_expiry_closes_at_the_provider_too(hall, provider):
    resident = await hall.resident()
    case = hall.cases.owe(resident)
    order = await hall.order(resident, case)
    attempt, _ = await hall.pay(order, provider)
    hall.offset = timedelta(minutes=31)
    await hall.payments.sweep(hall.now())
    assert await hall.state(order) == "closed"
    assert (await hall.trade(attempt.out_trade_no))["trade_state"] in ("CLOSED", "TRADE_CLOSED")
    assert (await hall.events(order))[-1] == "order.closed"
    assert await hall.database["payable_locks"].count_documents({}) == 0
    hall.offset = timedelta()
    assert (await hall.order(resident, case)).id != order.id


async def test_an_order_nobody_tried_to_pay_expires(hall):
    order = await hall.order(await hall.resident())
    assert await hall.payments.sweep(order.expires_at - timedelta(seconds=1)) == 0
    assert await hall.payments.sweep(order.expires_at) == 1
    assert await hall.state(order) == "closed"
    assert await hall.payments.sweep(order.expires_at + timedelta(days=1)) == 0


@both
async def test_an_unsure_attempt_outlives_the_deadline(hall, provider):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, provider)
    await hall.sim("faults", provider=provider, mode="error500")
    hall.offset = timedelta(minutes=31)
    with pytest.raises(errors.CloseUnsure):
        await hall.payments.close_order(order.id, order.owner_id)
    await hall.payments.sweep(hall.now())
    assert await hall.state(order) == "paying"
    assert await hall.payments.sweep(hall.now()) == 0  # not asked again at once
    await hall.sim("faults", provider=provider, mode="none")
    await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no, outcome="success_without_notice")
    hall.offset = timedelta(minutes=45)
    await hall.payments.sweep(hall.now())
    assert await hall.state(order) == "paid"


async def test_a_new_order_replaces_an_expired_one_at_once(hall):
    resident = await hall.resident()
    case = hall.cases.owe(resident)
    order = await hall.order(resident, case)
    await hall.pay(order)
    hall.offset = timedelta(minutes=31)
    with pytest.raises(errors.OrderExpired):
        await hall.pay(order)
    fresh = await hall.order(resident, case)
    assert fresh.id != order.id
    assert await hall.state(order) == "closed"


async def test_too_little_time_left_to_pay(hall):
    resident = await hall.resident()
    case = hall.cases.owe(resident)
    order = await hall.order(resident, case)
    hall.offset = timedelta(minutes=29)
    with pytest.raises(errors.OrderExpired):
        await hall.pay(order)
    assert await hall.state(order) == "closed"
    hall.offset = timedelta()
    assert (await hall.order(resident, case)).id != order.id


async def test_a_payable_that_is_owed_no_more(hall):
    resident = await hall.resident()
    case = hall.cases.owe(resident)
    order = await hall.order(resident, case)
    attempt, _ = await hall.pay(order)
    await hall.payments.close_payable("case", case)
    assert await hall.state(order) == "closed"
    assert (await hall.trade(attempt.out_trade_no))["trade_state"] == "CLOSED"
    await hall.payments.close_payable("case", case)


async def test_two_residents_become_one(hall):
    old, new = await hall.resident("张三"), await hall.resident("张三丰")
    order = await hall.order(old)
    await hall.payments.reassign(old, new)
    assert (await hall.payments.get_order(order.id, new)).owner_id == new
    with pytest.raises(errors.OrderNotFound):
        await hall.payments.get_order(order.id, old)
