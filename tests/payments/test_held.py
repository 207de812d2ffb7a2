"""Payments of another amount than was asked for: in suspense while they are held, and exactly one way out, whoever comes first."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from app.identity.model import StaffSession
from app.kernel.errors import ProviderUnavailable
from app.kernel.ids import new_id
from app.storage import outbox
from payments import errors
from payments.ledger import store as ledger
from payments.ledger.verify import verify
from payments.model import AttemptState
from payments.provider import PaymentReport, PaymentState
from payments.refund import RefundState
from tests.payments.test_late import settling

CLERK = StaffSession("clerk.sg-gaj", "经办员", "clerk", "sg-gaj")
HEAD = StaffSession("head.sg-gaj", "负责人", "head", "sg-gaj")
STRANGER = StaffSession("head.sg-rsj", "负责人", "head", "sg-rsj")


async def held(hall, provider="wechatpay", *, amount_fen=4000):
    """Let a resident pay another amount than was asked for; return the order and the attempt's number."""
    resident = await hall.resident()
    order = await hall.order(resident, hall.cases.owe(resident, amount_fen=amount_fen))
    attempt, _ = await hall.pay(order, provider)
    await hall.sim("pay", provider=provider, out_trade_no=attempt.id, outcome="success_wrong_amount")
    order = await hall.payments.get_order(order.id, resident, refresh=True)
    assert order.is_held
    return order, attempt.id


def told(order, number, **changes):
    """Return the true news of a payment, as a notice brings it."""
    attempt = order.attempt(number)
    paid = {"amount_fen": attempt.amount_fen, "currency": "CNY", "merchant_id": attempt.merchant_id, "app_id": attempt.app_id}
    return PaymentReport(attempt.provider, number, PaymentState.PAID, **paid | {"provider_trade_no": "4200"} | changes)


async def give_back(hall, number, staff=CLERK, refund_id=""):
    return await hall.payments.held.give_back(number, staff, reason="金额不符退回", refund_id=refund_id or new_id("rfd"))


async def order_of(hall, number):
    return await hall.payments._store.load_of_attempt(number)


async def is_proven(hall):
    assert (await verify(hall.database)).problems == []
    await hall.payments.seal_ledger()
    assert (await verify(hall.database)).problems == []
    return True


async def balances(hall):
    return await ledger.balances(hall.database)


@pytest.mark.parametrize("provider", ["wechatpay", "alipay"])
async def test_what_came_is_in_suspense_until_the_true_news(hall, provider):
    order, number = await held(hall, provider)
    assert await balances(hall) == {f"provider:{provider}": 3999, f"suspense:{provider}": -3999}
    assert await is_proven(hall)
    await settling(hall).apply_report(told(order, number), "notice", hall.now())
    assert await balances(hall) == {f"provider:{provider}": 4000, "agency:sg-gaj": -4000}
    assert await hall.state(order) == "paid" and await is_proven(hall)


@pytest.mark.parametrize("provider", ["wechatpay", "alipay"])
async def test_it_was_paid_when_the_provider_says_however_late_somebody_decides(hall, provider):
    order, number = await held(hall, provider)
    paid_at = order.attempt(number).paid_at
    hall.offset = timedelta(days=2)
    await give_back(hall, number)
    # Reconciliation looks for it in the bill of this day, and would miss it in that of the decision.
    assert (await order_of(hall, number)).attempt(number).paid_at == paid_at < hall.now() - timedelta(days=1)


@pytest.mark.parametrize("provider", ["wechatpay", "alipay"])
async def test_given_back_as_it_came_and_then_paid_again(hall, provider):
    order, number = await held(hall, provider)
    refund_id = new_id("rfd")
    _, refund = await give_back(hall, number, refund_id=refund_id)
    assert (refund.state, refund.amount_fen, refund.kind) == (RefundState.APPROVED, 3999, "held")
    assert await balances(hall) == {f"provider:{provider}": 3999, "refund_out": -3999}
    assert (await give_back(hall, number, refund_id=refund_id))[1].id == refund_id  # sent twice, one refund
    async with asyncio.timeout(10):
        while (await order_of(hall, number)).refund(refund_id).state is not RefundState.SUCCEEDED:
            hall.offset += timedelta(seconds=61)
            await hall.payments.sweep(hall.now())
            await asyncio.sleep(0.05)
    assert await balances(hall) == {} and await is_proven(hall)
    names = await hall.events(order)
    assert names.count("order.payment_returned") == 1 and "order.paid" not in names
    hall.offset = timedelta()
    attempt, _ = await hall.pay(order, provider)
    await hall.sim("pay", provider=provider, out_trade_no=attempt.id, outcome="success")
    paid = await hall.until(order, "paid")
    assert paid.paid_attempt.id == attempt.id != number
    assert await balances(hall) == {f"provider:{provider}": 4000, "agency:sg-gaj": -4000} and await is_proven(hall)


async def test_given_back_the_order_can_expire(hall):
    order, number = await held(hall)
    hall.offset = timedelta(minutes=31)
    await hall.payments.sweep(hall.now())
    assert await hall.state(order) == "paying"  # not while a person has to look
    await give_back(hall, number)
    hall.offset = timedelta(minutes=45)
    await hall.payments.sweep(hall.now())
    assert await hall.state(order) == "closed" and await is_proven(hall)


async def test_a_second_person_above_the_threshold(hall):
    order, number = await held(hall, amount_fen=60_000)
    _, refund = await give_back(hall, number)
    assert refund.state is RefundState.REQUESTED and (await order_of(hall, number)).is_held
    assert (await balances(hall))["suspense:wechatpay"] == -59_999
    with pytest.raises(errors.ReturnAsked):
        await give_back(hall, number, HEAD)
    for staff, refusal in [(CLERK, errors.SecondPersonNeeded), (STRANGER, errors.RefundNotFound)]:
        with pytest.raises(refusal):
            await hall.payments.refunds.approve(refund.id, staff)
    order, agreed = await hall.payments.refunds.approve(refund.id, HEAD)
    assert (agreed.state, agreed.approved_by) == (RefundState.APPROVED, HEAD.account)
    assert order.attempt(number).decided_by == HEAD.account and not order.is_held
    assert (await hall.payments.refunds.approve(refund.id, HEAD))[1] == agreed
    assert await balances(hall) == {"provider:wechatpay": 59_999, "refund_out": -59_999} and await is_proven(hall)


async def test_the_asker_cannot_agree_even_as_head_and_a_refusal_leaves_it_held(hall):
    _, number = await held(hall, amount_fen=60_000)
    _, refund = await give_back(hall, number, HEAD)
    with pytest.raises(errors.SecondPersonNeeded):
        await hall.payments.refunds.approve(refund.id, HEAD)
    other = replace(HEAD, account="head2.sg-gaj")
    await hall.payments.refunds.reject(refund.id, other, "先联系缴款人")
    assert (await order_of(hall, number)).is_held
    _, again = await give_back(hall, number, CLERK)
    assert again.state is RefundState.REQUESTED and await is_proven(hall)


async def test_true_news_ends_what_waits_for_the_second_person(hall):
    order, number = await held(hall, amount_fen=60_000)
    _, refund = await give_back(hall, number)
    await settling(hall).apply_report(told(order, number), "notice", hall.now())
    found = await order_of(hall, number)
    assert (found.state, found.refund(refund.id).state, found.refund(refund.id).failure) == ("paid", RefundState.REJECTED, "payment_fits")
    with pytest.raises(errors.RefundDecided):
        await hall.payments.refunds.approve(refund.id, HEAD)
    assert await balances(hall) == {"provider:wechatpay": 60_000, "agency:sg-gaj": -60_000} and await is_proven(hall)


async def test_true_news_and_a_person_at_once_have_one_outcome(hall):
    seen = set()
    for turn in range(8):
        order, number = await held(hall)
        work = [settling(hall).apply_report(told(order, number), "notice", hall.now()), give_back(hall, number), give_back(hall, number)]
        results = await asyncio.gather(*(work if turn % 2 else reversed(work)), return_exceptions=True)
        assert all(isinstance(r, errors.NotHeld) for r in results if isinstance(r, Exception)), results
        found = await order_of(hall, number)
        attempt = found.attempt(number)
        facts = {row["fact"].split(":")[0] for row in await hall.database["ledger_entries"].find({"order_id": order.id}).to_list()}
        if attempt.is_overpaid:
            assert len(found.refunds) == 1 and found.state == "open"
            assert facts == {"held", "held_released", "overpaid", "refund_reserved"}
        else:
            assert found.refunds == () and found.state == "paid" and facts == {"held", "held_released", "settled"}
        seen.add(attempt.is_overpaid)
    assert await is_proven(hall)


async def test_another_currency_is_for_the_providers_own_pages(hall):
    resident = await hall.resident()
    order = await hall.order(resident)
    attempt, _ = await hall.pay(order)
    foreign = told(await hall.payments.get_order(order.id, resident), attempt.id, currency="USD")
    await settling(hall).apply_report(foreign, "notice", hall.now())
    assert await balances(hall) == {}  # nobody knows how many fen that is
    with pytest.raises(errors.HeldUnclear):
        await give_back(hall, attempt.id)
    with pytest.raises(errors.SecondPersonNeeded):
        await hall.payments.held.given_back_outside(attempt.id, CLERK, "已在商户后台退款")
    shown = await hall.payments.held.given_back_outside(attempt.id, HEAD, "已在商户后台退款，流水号 5030")
    assert (shown["kind"], shown["decision_note"]) == ("returned", "已在商户后台退款，流水号 5030")
    assert await hall.payments.held.given_back_outside(attempt.id, HEAD, "再点一次") == shown
    # The notice that was never acknowledged comes again, and does not hold the order a second time.
    await settling(hall).apply_report(foreign, "notice", hall.now())
    found = await order_of(hall, attempt.id)
    assert found.attempt(attempt.id).state is AttemptState.RETURNED and not found.is_held
    assert (await hall.pay(found))[0].id != attempt.id  # payable again
    assert await is_proven(hall)


async def test_returned_outside_leaves_nothing_in_suspense(hall):
    _, number = await held(hall)
    with pytest.raises(errors.OrderNotFound):
        await hall.payments.held.given_back_outside(number, STRANGER, "不是我的")
    await hall.payments.held.given_back_outside(number, HEAD, "已在商户后台退款")
    assert await balances(hall) == {} and await is_proven(hall)
    with pytest.raises(errors.NotHeld):
        await give_back(hall, number)


@pytest.mark.parametrize("mode", ["down", "error500", "garbage"])
async def test_nothing_goes_back_while_the_provider_is_unclear(hall, mode):
    _, number = await held(hall)
    await hall.sim("faults", provider="wechatpay", mode=mode, count=5)
    with pytest.raises(ProviderUnavailable):
        await give_back(hall, number)
    found = await order_of(hall, number)
    assert found.is_held and found.refunds == () and await is_proven(hall)


async def test_asking_first_finds_the_payment_that_fits(hall):
    """A notice told another amount, the provider itself knows better: nothing goes back, the order is settled."""
    resident = await hall.resident()
    order = await hall.order(resident)
    attempt, _ = await hall.pay(order)
    await hall.sim("pay", provider="wechatpay", out_trade_no=attempt.id, outcome="success_without_notice")
    order = await hall.payments.get_order(order.id, resident)
    await settling(hall).apply_report(told(order, attempt.id, amount_fen=1), "notice", hall.now())
    assert (await order_of(hall, attempt.id)).is_held
    with pytest.raises(errors.NotHeld):
        await give_back(hall, attempt.id)
    assert await hall.state(order) == "paid"
    assert await balances(hall) == {"provider:wechatpay": 4000, "agency:sg-gaj": -4000} and await is_proven(hall)
    with pytest.raises(errors.OrderNotFound):
        await hall.payments.held.ask(attempt.id, STRANGER)
    assert (await hall.payments.held.ask(attempt.id, CLERK))["kind"] == "paid"


async def test_death_before_the_commit_leaves_it_held(hall, monkeypatch):
    _, number = await held(hall)

    async def killed(*_args):
        raise RuntimeError("killed")

    refund_id = new_id("rfd")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(outbox, "append", killed)  # entries and order are written, the commit has not come
        await give_back(hall, number, refund_id=refund_id)
    assert (await order_of(hall, number)).is_held and await is_proven(hall)
    await give_back(hall, number, refund_id=refund_id)
    assert not (await order_of(hall, number)).is_held and await is_proven(hall)
