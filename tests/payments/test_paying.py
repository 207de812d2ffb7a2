"""The way from an order to paid, through both providers, with the stand-ins over real HTTP."""

import asyncio
import json
from datetime import timedelta

import pytest

from app.kernel.errors import NotFound, ProviderUnavailable
from app.kernel.ids import new_id
from payments import errors
from payments.model import AttemptState

PROVIDERS = ("wechatpay", "alipay")
both = pytest.mark.parametrize("provider", PROVIDERS)


@both
async def test_paid_by_notice(hall, provider):
    order = await hall.order(await hall.resident())
    attempt, client_params = await hall.pay(order, provider)
    assert set(client_params) == (
        {"timeStamp", "nonceStr", "package", "signType", "paySign"} if provider == "wechatpay" else {"tradeNO"}
    )
    # The stand-in's cashier checks client_params as the SDK would.
    told = await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no, client_params=client_params)
    assert told["status"] == 200
    paid = await hall.until(order, "paid")
    assert paid.paid_attempt.provider_trade_no == told["trade_no"]
    assert await hall.events(order) == ["order.created", "order.paying", "order.paid"]
    assert paid.receipts
    event = await hall.database["events"].find_one({"name": "order.paid"})
    assert event["data"]["payables"] == [{"kind": "case", "id": order.payables[0].id, "amount_fen": 4000, "agency_id": "sg-gaj"}]
    assert event["data"]["provider_trade_no"] == told["trade_no"] and event["data"]["paid_at"]
    with pytest.raises(errors.OrderAlreadyPaid):
        await hall.pay(order, provider)


@both
@pytest.mark.parametrize("outcome", ["success_notice_twice", "success_notice_late"])
async def test_notice_twice_or_late_has_one_effect(hall, provider, outcome):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, provider)
    await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no, outcome=outcome)
    if outcome == "success_notice_late":
        hall.offset = timedelta(minutes=1)
        await hall.payments.sweep(hall.now())  # a query knows first
        assert await hall.state(order) == "paid"
        hall.offset = timedelta()
    await hall.until(order, "paid")
    await _delivered(hall, attempt, 2 if outcome == "success_notice_twice" else 1)
    assert (await hall.events(order)).count("order.paid") == 1
    assert await hall.database["receipts"].count_documents({"order_id": order.id}) == 1


async def _delivered(hall, attempt, count):
    async with asyncio.timeout(5):
        while True:
            notices = (await hall.trade(attempt.out_trade_no))["notices"]
            if sum(1 for notice in notices if notice["delivered_at"]) >= count:
                return
            await asyncio.sleep(0.05)


@both
async def test_many_at_once_have_one_effect(hall, provider):
    """The same news from notices and queries at once, as when a storm of retries meets an impatient resident."""
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, provider)
    await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no, outcome="success_without_notice")
    report = await hall.payments.providers[provider].query(attempt)
    settling = hall.payments._settling
    await asyncio.gather(*(settling.apply_report(report, "notice", hall.now()) for _ in range(20)))
    assert (await hall.events(order)).count("order.paid") == 1
    assert await hall.database["receipts"].count_documents({}) == 1


@both
async def test_without_notice_the_resident_may_ask(hall, provider):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, provider)
    assert (await hall.payments.get_order(order.id, order.owner_id, refresh=True)).state == "paying"
    await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no, outcome="success_without_notice")
    # At once again: the answer is never older than the question.
    assert (await hall.payments.get_order(order.id, order.owner_id, refresh=True)).state == "paid"


@both
async def test_without_notice_the_sweep_finds_it(hall, provider):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, provider)
    await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no, outcome="success_without_notice")
    assert await hall.payments.sweep(hall.now()) == 0  # not due yet
    hall.offset = timedelta(seconds=6)
    assert await hall.payments.sweep(hall.now()) == 1
    assert await hall.state(order) == "paid"
    assert await hall.payments.sweep(hall.now() + timedelta(days=1)) == 0  # nothing is asked about for ever


async def test_the_sweep_asks_at_5_15_30_seconds_and_then_every_30(hall):
    order = await hall.order(await hall.resident())
    began = hall.now()
    await hall.pay(order)
    asked = []
    for second in range(0, 150):
        now = began + timedelta(seconds=second + 0.5)
        if await hall.payments.sweep(now):
            asked.append(second)
    gaps = [later - earlier for earlier, later in zip([0, *asked], asked, strict=False)]
    assert asked[0] <= 6 and asked[1] <= 17 and asked[2] <= 33
    assert max(gaps) <= 31, asked


async def test_several_workers_ask_once(hall):
    orders = [await hall.order(await hall.resident()) for _ in range(6)]
    for order in orders:
        await hall.pay(order)
    now = hall.now() + timedelta(seconds=6)
    counts = await asyncio.gather(*(hall.build().sweep(now) for _ in range(3)))
    assert sum(counts) == 6


@both
async def test_wrong_amount_is_held(hall, provider):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, provider)
    await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no, outcome="success_wrong_amount")
    held = await hall.payments.get_order(order.id, order.owner_id, refresh=True)
    assert held.state == "paying"
    assert held.attempts[0].state is AttemptState.HELD
    assert held.attempts[0].held_for == ("amount",)
    assert await hall.events(order) == ["order.created", "order.paying", "order.payment_held"]
    for way in PROVIDERS:
        with pytest.raises(errors.PaymentHeld):
            await hall.pay(order, way)
    with pytest.raises(errors.PaymentHeld):
        await hall.payments.close_order(order.id, order.owner_id)
    # Neither the deadline nor the sweep frees what a person must look at.
    hall.offset = timedelta(hours=2)
    await hall.payments.sweep(hall.now())
    assert await hall.state(order) == "paying"
    assert await hall.database["payable_locks"].count_documents({"order_id": order.id}) == 1


@both
async def test_a_failed_try_leaves_the_order_payable(hall, provider):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, provider)
    await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no, outcome="fail")
    assert (await hall.payments.get_order(order.id, order.owner_id, refresh=True)).state == "paying"
    again, _ = await hall.pay(order, provider)
    assert again.out_trade_no == attempt.out_trade_no
    await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no)
    await hall.until(order, "paid")


# --- attempts ---


async def test_two_buttons_of_one_form_pressed_at_once_are_two_numbers(hall):
    resident = await hall.resident()
    for _ in range(5):
        order, number = await hall.order(resident), new_id("pay")  # a form has one number, whichever button is pressed
        await asyncio.gather(*(hall.pay(order, name, attempt_id=number) for name in PROVIDERS), return_exceptions=True)
        found = await hall.payments.get_order(order.id, resident)
        numbers = [attempt.id for attempt in found.attempts]
        assert len(set(numbers)) == len(numbers) and number in numbers


@both
async def test_paying_twice_uses_one_attempt(hall, provider):
    order = await hall.order(await hall.resident())
    answers = await asyncio.gather(*(hall.pay(order, provider) for _ in range(4)))
    assert len({attempt.id for attempt, _ in answers}) == 1
    assert len((await hall.payments.get_order(order.id, order.owner_id)).attempts) == 1


async def test_another_way_of_paying_closes_the_first(hall):
    order = await hall.order(await hall.resident())
    first, _ = await hall.pay(order, "wechatpay")
    second, _ = await hall.pay(order, "alipay")
    found = await hall.payments.get_order(order.id, order.owner_id)
    assert [attempt.state for attempt in found.attempts] == ["closed", "waiting"]
    assert (await hall.trade(first.out_trade_no))["trade_state"] == "CLOSED"
    await hall.sim("pay", provider="alipay", out_trade_no=second.out_trade_no)
    await hall.until(order, "paid")


async def test_another_way_of_paying_finds_that_the_first_is_paid(hall):
    order = await hall.order(await hall.resident())
    first, _ = await hall.pay(order, "wechatpay")
    await hall.sim("pay", provider="wechatpay", out_trade_no=first.out_trade_no, outcome="success_without_notice")
    with pytest.raises(errors.OrderAlreadyPaid):
        await hall.pay(order, "alipay")
    assert await hall.state(order) == "paid"


async def test_an_unsure_first_attempt_never_keeps_the_resident_waiting(hall):
    """Both live on; when both are paid, the first settles and the second is flagged."""
    order = await hall.order(await hall.resident())
    first, _ = await hall.pay(order, "wechatpay")
    await hall.sim("faults", provider="wechatpay", mode="error500")
    second, _ = await hall.pay(order, "alipay")
    await hall.sim("faults", provider="wechatpay", mode="none")
    await hall.sim("pay", provider="wechatpay", out_trade_no=first.out_trade_no)
    await hall.until(order, "paid")
    await hall.sim("pay", provider="alipay", out_trade_no=second.out_trade_no)
    await _delivered(hall, second, 1)
    found = await hall.payments.get_order(order.id, order.owner_id)
    assert [(a.state, a.is_overpaid) for a in found.attempts] == [("paid", False), ("paid", True)]
    assert await hall.events(order) == ["order.created", "order.paying", "order.paid", "order.overpaid", "refund.approved"]


async def test_once_paid_what_else_is_payable_is_closed(hall):
    order = await hall.order(await hall.resident())
    first, _ = await hall.pay(order, "wechatpay")
    await hall.sim("faults", provider="wechatpay", mode="error500")
    second, _ = await hall.pay(order, "alipay")
    await hall.sim("faults", provider="wechatpay", mode="none")
    await hall.sim("pay", provider="alipay", out_trade_no=second.out_trade_no)
    await hall.until(order, "paid")
    await hall.payments.sweep(hall.now())
    assert (await hall.trade(first.out_trade_no))["trade_state"] == "CLOSED"


@both
async def test_everything_is_committed_before_the_call(hall, provider):
    """The process dies between commit and call: here the call finds nobody, and nothing else has happened."""
    order = await hall.order(await hall.resident())
    dead = hall.build(wechatpay_url="http://127.0.0.1:1", alipay_url="http://127.0.0.1:1/gateway.do")
    attempt_id = new_id("pay")
    with pytest.raises(ProviderUnavailable) as caught:
        await dead.pay(order.id, order.owner_id, provider=provider, scene="mini_program", attempt_id=attempt_id)
    assert caught.value.retry_after_s > 0
    left = (await hall.payments.get_order(order.id, order.owner_id)).attempt(attempt_id)
    assert left.state is AttemptState.CREATED
    request = json.loads(left.request)
    terms = request if provider == "wechatpay" else request["biz_content"]
    assert terms["out_trade_no"] == attempt_id
    # The retry, in another process: the same number, the same bytes.
    attempt, _ = await hall.pay(order, provider, attempt_id=attempt_id)
    assert (attempt.id, attempt.request) == (attempt_id, left.request)
    await hall.sim("pay", provider=provider, out_trade_no=attempt_id)
    await hall.until(order, "paid")


@both
@pytest.mark.parametrize("mode", ["lost", "error500", "garbage", "bad_signature", "down"])
async def test_an_unclear_prepay_is_asked_again_under_its_own_number(hall, provider, mode):
    order = await hall.order(await hall.resident())
    await hall.sim("faults", provider=provider, mode=mode, count=2 if mode in ("lost", "down") else 1)
    with pytest.raises(ProviderUnavailable) as caught:
        await hall.pay(order, provider)
    assert "没有被扣款" in caught.value.detail
    left = (await hall.payments.get_order(order.id, order.owner_id)).attempts
    assert [attempt.state for attempt in left] == ["unknown"]
    attempt, _ = await hall.pay(order, provider)
    assert attempt.id == left[0].id
    await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no)
    await hall.until(order, "paid")
    assert await hall.events(order) == ["order.created", "order.paying", "order.paid"]


@both
async def test_a_refused_prepay_says_so(hall, provider):
    resident = await hall.resident()
    order = await hall.order(resident)
    hall.payers[(resident, "wechat")] = {"openid": "o-of-another-app"}
    hall.payers[(resident, "alipay")] = {"open_id": "of-another-app"}
    with pytest.raises(errors.PaymentRefused):
        await hall.pay(order, provider)
    found = await hall.payments.get_order(order.id, order.owner_id)
    assert found.attempts[0].state is AttemptState.FAILED
    assert found.state == "paying"
    assert (await hall.payments.close_order(order.id, resident)).state == "closed"


async def test_what_cannot_be_chosen(hall):
    resident = await hall.resident()
    order = await hall.order(resident)
    for provider, scene in (("wechatpay", "face"), ("alipay", "jsapi"), ("unionpay", "mini_program")):
        with pytest.raises(errors.SceneUnsupported):
            await hall.payments.pay(order.id, resident, provider=provider, scene=scene, attempt_id=new_id("pay"))
    del hall.payers[(resident, "alipay")]
    with pytest.raises(errors.PayerUnknown) as caught:
        await hall.pay(order, "alipay")
    assert "支付宝" in caught.value.detail
    with pytest.raises(NotFound):
        await hall.payments.pay(order.id, new_id("res"), provider="alipay", scene="mini_program", attempt_id=new_id("pay"))


async def test_attempts_are_bounded(hall):
    order = await hall.order(await hall.resident())
    ways = ("wechatpay", "alipay")
    for number in range(10):
        await hall.pay(order, ways[number % 2])
    with pytest.raises(errors.TooManyAttempts):
        await hall.pay(order, ways[0])


@both
async def test_requests_carry_what_the_order_says(hall, provider):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, provider)
    trade = await hall.trade(attempt.out_trade_no)
    assert trade["amount_fen"] == order.amount_fen
    assert trade["title"] == "居民身份证丢失补领"
    assert trade["notify_url"] == f"{hall.url}/callbacks/{provider}"
    request = json.loads(attempt.request)
    told = request["time_expire"] if provider == "wechatpay" else request["biz_content"]["time_expire"]
    assert told.replace("T", " ")[:19] == f"{order.expires_at + timedelta(hours=8):%Y-%m-%d %H:%M:%S}"
