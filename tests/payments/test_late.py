"""Money that comes for an order that is closed already."""

from datetime import timedelta

import pytest

from app.kernel.ids import new_id
from payments.model import AttemptState
from payments.provider import PaymentReport, PaymentState
from payments.settling import Settling, UnknownNumber
from payments.store import OrderStore


async def closed_order(hall, resident, case):
    order = await hall.order(resident, case)
    attempt, _ = await hall.pay(order)
    await hall.payments.close_order(order.id, resident)
    paid = PaymentReport(
        provider="wechatpay",
        out_trade_no=attempt.id,
        state=PaymentState.PAID,
        provider_trade_no="4200",
        amount_fen=order.amount_fen,
        currency="CNY",
        merchant_id=hall.credentials.wechatpay_mch_id,
        app_id=hall.credentials.wechat_app_id,
    )
    return order, attempt, paid


def settling(hall):
    return Settling(OrderStore(hall.database), {"case": hall.cases})


async def test_still_owed_and_free_is_settled(hall):
    resident = await hall.resident()
    case = hall.cases.owe(resident)
    order, attempt, paid = await closed_order(hall, resident, case)
    for _ in range(2):
        await settling(hall).apply_report(paid, "notice", hall.now())
    found = await hall.payments.get_order(order.id, resident)
    assert found.state == "paid" and found.receipts
    assert (await hall.events(order))[-2:] == ["order.closed", "order.paid"]
    lock = await hall.database["payable_locks"].find_one({"_id": f"case:{case}"})
    assert lock["order_id"] == order.id


async def test_taken_by_another_order_is_flagged(hall):
    resident = await hall.resident()
    case = hall.cases.owe(resident)
    order, attempt, paid = await closed_order(hall, resident, case)
    other = await hall.order(resident, case)
    assert other.id != order.id
    await settling(hall).apply_report(paid, "notice", hall.now())
    found = await hall.payments.get_order(order.id, resident)
    assert found.state == "closed"
    assert found.attempts[0].state is AttemptState.PAID and found.attempts[0].is_overpaid
    assert (await hall.events(order))[-2:] == ["order.overpaid", "refund.approved"]
    assert await hall.state(other) == "open"


@pytest.mark.parametrize("what", ["withdrawn", "dearer", "paid elsewhere"])
async def test_not_owed_any_more_is_flagged(hall, what):
    resident = await hall.resident()
    case = hall.cases.owe(resident)
    order, attempt, paid = await closed_order(hall, resident, case)
    if what == "withdrawn":
        del hall.cases.owed[case]
    elif what == "dearer":
        other = hall.cases.owe(resident, amount_fen=5000)
        hall.cases.owed[case] = hall.cases.owed[other]
    else:
        hall.cases.paid.add(case)
    await settling(hall).apply_report(paid, "notice", hall.now())
    assert await hall.state(order) == "closed"
    assert (await hall.events(order))[-2:] == ["order.overpaid", "refund.approved"]


async def test_a_mismatch_after_closing_is_held(hall):
    resident = await hall.resident()
    order, attempt, paid = await closed_order(hall, resident, hall.cases.owe(resident))
    from dataclasses import replace

    await settling(hall).apply_report(replace(paid, amount_fen=1), "notice", hall.now())
    found = await hall.payments.get_order(order.id, resident)
    assert found.state == "closed" and found.attempts[0].state is AttemptState.HELD


async def test_unknown_number(hall):
    with pytest.raises(UnknownNumber):
        await settling(hall).apply_report(
            PaymentReport("wechatpay", new_id("pay"), PaymentState.PAID), "notice", hall.now()
        )


async def test_close_loses_the_race(hall):
    """Paid between our query and our close: the close fails, the next query tells, and the money settles."""
    resident = await hall.resident()
    order = await hall.order(resident)
    attempt, _ = await hall.pay(order, "alipay")
    await hall.sim("pay", provider="alipay", out_trade_no=attempt.id, outcome="success_without_notice")
    hall.offset = timedelta(minutes=31)
    await hall.payments.sweep(hall.now())
    assert await hall.state(order) == "paid"
