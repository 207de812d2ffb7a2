"""The clerks' console for money, by plain links and forms: a payment that does not fit, a refund, a difference; who may do what."""

import asyncio
import re
from datetime import timedelta

import pytest

from app.kernel.clock import today, utc_now
from app.kernel.ids import new_id
from payments.ledger.verify import verify
from payments.refunds import Refunds
from payments.store import OrderStore
from tests.handlers.pages_world import PASSWORD, World, clerk, paid, sign_in, submitted, world  # noqa: F401


async def head(world: World, agency: str = "sg-gaj"):  # noqa: F811
    browser = world.browser()
    page = await browser.get("/staff/money")
    page = await browser.submit(page, "/staff/sign-in", account=f"head.{agency}", password=PASSWORD)
    assert page.path == "/staff/money/payments"
    return browser


async def held(world: World):  # noqa: F811
    """A resident pays one fen less than was asked for; return the resident's browser, the order's path and the payment's number."""
    browser = await sign_in(world)
    order = await browser.submit(await submitted(world, browser), "/orders")
    page = await browser.submit(order, "/pay", button=("provider", "wechatpay"))
    number = re.search(r"out_trade_no=(\w+)", next(link for link in page.links if "/_sim/cashier" in link))[1]
    body = {"provider": "wechatpay", "out_trade_no": number, "outcome": "success_wrong_amount"}
    async with browser.http.post(f"{world.sandbox_url}/_sim/pay", json=body) as answer:
        assert answer.status == 200
    assert "付款有疑问" in (await browser.get(order.path)).text
    return browser, order.path, number


async def audited(world: World, subject: str):  # noqa: F811
    return [row["action"] for row in await world.hall.database["audit"].find({"subject": subject}).to_list()]


async def test_a_payment_that_does_not_fit_is_given_back_and_the_resident_pays_again(world):  # noqa: F811
    resident, order_path, number = await held(world)
    officer = await clerk(world)
    listed = await officer.get("/staff/money/payments")
    assert "39.99" in listed.text and "对不上，已冻结" in listed.text and "刚刚" in listed.text
    path = f"/staff/money/payments/{number}"
    page = await officer.get(path)
    assert "订单应收 40.00 元，微信支付说缴款人付了 39.99 元" in page.text and "登记：已在平台后台退回" not in page.text
    assert await audited(world, number) == ["payment.read"]
    # Asked once more, the provider says the same.
    assert "对不上，已冻结" in (await officer.submit(page, "/ask")).text
    refused = await officer.submit(page, "/return", reason="")
    assert refused.status == 422 and "没有办成" in refused.text
    await sim(world, officer, "refunds", mode="success", seconds=0)
    page = await officer.submit(page, "/return", reason="金额不符退回")
    assert page.path == path and "多付，正在退回" in page.text and "金额不符退回" in page.text
    refund = next(link for link in page.links if "/staff/money/refunds/" in link)
    again = await officer.post(f"{path}/return", {"_xsrf": "x"}, follow=False)
    assert again.status == 403  # a form that is not ours
    page = await settled(world, officer, refund, "已退到账", step_s=1)
    assert "39.99 元 已经退回缴款人的支付账户" in page.text and "金额不符退回" in page.text
    # The order is open again, and is paid as it should be.
    page = await resident.submit(await resident.get(order_path), "/pay", button=("provider", "wechatpay"))
    fresh = re.search(r"out_trade_no=(\w+)", next(link for link in page.links if "/_sim/cashier" in link))[1]
    assert fresh != number
    body = {"provider": "wechatpay", "out_trade_no": fresh, "outcome": "success_without_notice"}
    async with resident.http.post(f"{world.sandbox_url}/_sim/pay", json=body) as answer:
        assert answer.status == 200
    assert "已付款" in (await resident.get(order_path)).text
    assert (await verify(world.hall.database)).problems == []


async def test_the_head_records_what_went_back_outside(world):  # noqa: F811
    _resident, _order, number = await held(world)
    chief = await head(world)
    page = await chief.get(f"/staff/money/payments/{number}")
    page = await chief.submit(page, "/returned", note="财务在商户后台退款，流水 5030")
    assert "已在平台后台退回" in page.text and "流水 5030" in page.text and "现在没有您要做的" in page.text
    assert not any(form.action.startswith("/staff/money") for form in page.forms)


async def a_refund(world: World, *, is_large: bool):  # noqa: F811
    """A clerk asks for all of a paid order back; return the path of the refund's page."""
    browser = await sign_in(world)
    order = await paid(world, browser, await submitted(world, browser))
    token = (await world.hall.staff.login("clerk.sg-gaj", PASSWORD))[0]
    staff = await world.hall.staff.authenticate(token)
    desk = Refunds(
        OrderStore(world.hall.database), approval_fen=1000 if is_large else 50_000, clock=utc_now, confirm=world.hall.payments.held.confirm_of
    )
    refund_id = new_id("rfd")
    await desk.request(order.path.rsplit("/", 1)[1], staff, amount_fen=4000, reason="重复缴费", refund_id=refund_id)
    return f"/staff/money/refunds/{refund_id}"


async def test_a_large_refund_waits_for_the_head(world):  # noqa: F811
    path = await a_refund(world, is_large=True)
    officer, chief = await clerk(world), await head(world)
    waiting = await officer.get("/staff/money/refunds?state=requested")
    assert path in waiting.links and "等负责人审批" in waiting.text
    page = await officer.get(path)
    assert "现在没有您要做的" in page.text and await audited(world, path.rsplit("/", 1)[1]) == ["refund.read"]
    refused = await officer.post(f"{path}/approve", [(name, value) for name, value in page.forms[0].values if name == "_xsrf"])
    assert refused.status == 403 and "没有办成" in refused.text
    page = await chief.submit(await chief.get(path), "/reject", reason="先核实")
    assert "没有批准" in page.text and "先核实" in page.text
    other = await a_refund(world, is_large=True)
    page = await chief.submit(await chief.get(other), "/approve")
    assert "马上发出" in page.text and "head.sg-gaj" in page.text


@pytest.mark.parametrize(("mode", "shown"), [("closed", "没有退成"), ("abnormal", "退不到账户，要人处理")])
async def test_a_refund_that_does_not_arrive(world, mode, shown):  # noqa: F811
    officer = await clerk(world)
    await sim(world, officer, "refunds", mode=mode, seconds=0)
    try:
        path = await a_refund(world, is_large=False)
        page = await settled(world, officer, path, shown)
    finally:
        await sim(world, officer, "refunds", mode="success")
    if mode == "abnormal":
        assert "改退到缴款人的其他银行卡" in page.text and path.rsplit("/", 1)[1] in page.text
        assert "没有这样的退款" not in (await officer.get("/staff/money/refunds?state=abnormal")).text
        assert not any(form.action.endswith("/to_card") for form in page.forms)  # for the head alone
        chief = await head(world)
        wrong = await chief.submit(await chief.get(path), "/to_card", bank="ICBC_DEBIT", account="62220212", holder="")
        assert wrong.status == 422 and "62220212" not in wrong.html
        page = await chief.submit(await chief.get(path), "/to_card", bank="ICBC_DEBIT", account="6222021234567890123", holder="张三")
        assert "平台处理中" in page.text or "已退到账" in page.text
        return
    once = next(value for name, value in page.form("/again").values if name == "once")
    again = await officer.submit(page, "/again", reason="再退一次")
    assert again.path == path
    listed = await officer.get("/staff/money/refunds")
    assert f"/staff/money/refunds/rfd_{once}" in listed.links
    await officer.submit(page, "/again", reason="再退一次")  # the button pressed twice: one refund
    assert (await officer.get("/staff/money/refunds")).links.count(f"/staff/money/refunds/rfd_{once}") == 1
    rows = await world.hall.database["orders"].find_one({"refunds.id": path.rsplit("/", 1)[1]})
    assert len(rows["refunds"]) == 2


async def sim(world: World, browser, what: str, **body):  # noqa: F811
    async with browser.http.post(f"{world.sandbox_url}/_sim/{what}", json=body) as answer:
        assert answer.status == 200


async def settled(world: World, browser, path: str, text: str, *, step_s: int = 61):  # noqa: F811
    """Let the worker work until a page says something; its clock goes ahead by `step_s` each time."""
    for turn in range(60):
        await world.hall.payments.sweep(utc_now() + timedelta(seconds=turn * step_s))
        page = await browser.get(path)
        if text in page.text:
            return page
        await asyncio.sleep(0.05)  # a notice may be under way
    raise AssertionError(page.text)


async def test_a_difference_is_settled_by_the_head_with_a_reason(world):  # noqa: F811
    async with world.browser().http.post(
        f"{world.sandbox_url}/_sim/bills",
        json={"provider": "alipay", "day": today().isoformat(), "ready": True, "foreign": 1},
    ) as answer:
        assert answer.status == 200
    await world.hall.reconcile.run("alipay", today())
    officer, chief = await clerk(world, "sg-zsj"), await head(world, "sg-zsj")
    listed = await officer.get("/staff/money/findings")
    path = next(link for link in listed.links if link.startswith("/staff/money/findings/fnd_"))
    page = await officer.get(path)
    assert "账单上有一笔收款 1.00 元，我方系统里没有这个单号。" in page.text and "现在没有您要做的" in page.text
    short = await chief.submit(await chief.get(path), "/settle", note="x")
    assert short.status == 422
    page = await chief.submit(await chief.get(path), "/settle", note="食堂收款")
    assert "已核清" in page.text and "食堂收款" in page.text and "head.sg-zsj" in page.text
    assert path not in (await officer.get("/staff/money/findings")).links
    assert path in (await officer.get("/staff/money/findings?state=settled")).links
    assert (await audited(world, path.rsplit("/", 1)[1])).count("finding.read") == 5


@pytest.mark.parametrize("path", ["/staff/money", "/staff/money/refunds", "/staff/money/payments/pay_01KB2M3N4P5Q6R7S8T9V0W1X2Y"])
async def test_nobody_is_led_to_sign_in(world, path):  # noqa: F811
    page = await world.browser().get(path, follow=False)
    assert page.status == 303 and page.headers["Location"].startswith("/staff/sign-in?next=")


async def test_another_agency_finds_nothing(world):  # noqa: F811
    _resident, _order, number = await held(world)
    stranger = await clerk(world, "sg-jj")
    assert "没有对不上的付款" in (await stranger.get("/staff/money/payments")).text
    assert (await stranger.get(f"/staff/money/payments/{number}")).status == 404
    assert await audited(world, number) == []
    for path in ("refunds/rfd_" + "0" * 26, "findings/fnd_" + "0" * 26, "payments/pay_" + "0" * 26):
        assert (await stranger.get(f"/staff/money/{path}")).status == 404
    page = await stranger.get("/staff/money/payments")
    xsrf = [(name, value) for name, value in page.forms[0].values if name == "_xsrf"]
    for action in ("ask", "return", "returned", "nothing"):
        typed = [("reason", "退回"), ("note", "退回"), ("once", "0" * 26)]
        assert (await stranger.post(f"/staff/money/payments/{number}/{action}", xsrf + typed)).status == 404, action
