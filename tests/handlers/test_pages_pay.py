"""Paying on the pages where they are open: in an ordinary phone browser, inside WeChat or Alipay; without script."""

from urllib.parse import urljoin

import pytest

from commands.story import id_number
from tests.handlers.pages_browser import Browser, Page
from tests.handlers.pages_world import World, numbers, prove, sign_in, world  # noqa: F401

WECHAT = {"User-Agent": "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 MicroMessenger/8.0.50 miniProgram"}


async def by_phone_number(world: World) -> Browser:  # noqa: F811
    """Somebody who has signed in by text message alone: no provider's platform knows him."""
    browser = world.browser()
    phone = f"136{next(numbers):08d}"
    page = await browser.get("/sign-in?next=/me")
    page = await browser.submit(page, "/sign-in/sms/code", phone=phone)
    page = await browser.submit(page, "/sign-in/sms", code=await world.sms_code(browser, phone))
    page = await browser.get("/me/identity?level=3&next=/me")
    await browser.submit(page, "", name="张示例", id_number=id_number(next(numbers)))
    return browser


async def fine_order(browser: Browser, plate: str) -> Page:
    page = await browser.get("/pay/traffic_fine")
    page = await browser.submit(page, "/pay/traffic_fine", plate=plate, vin_last6="000001")
    return await browser.submit(page, "/orders")


def button_names(page: Page) -> list[str]:
    return [value for form in page.forms for name, value in form.buttons if name == "provider"]


@pytest.mark.parametrize(("provider", "plate"), [("wechatpay", "粤F40001"), ("alipay", "粤F40002")])
async def test_an_ordinary_browser_goes_to_the_cashier_and_comes_back(world: World, provider: str, plate: str) -> None:  # noqa: F811
    browser = await by_phone_number(world)
    order = await fine_order(browser, plate)
    assert order.path.startswith("/orders/ord_") and button_names(order) == ["wechatpay", "alipay"]
    way = await browser.submit(order, "/pay", button=("provider", provider))
    assert way.status == 200
    [cashier] = [link for link in way.links if link.startswith(world.sandbox_url)]
    # WeChat Pay looks at the referring site, which the pages' own policy would not tell.
    [link] = [given for tag, given in way.tags if tag == "a" and given.get("href") == cashier]
    assert link["referrerpolicy"] == "origin"
    waiting = await browser.get(order.path)
    assert "确认中" in waiting.text or "还没有收到" in waiting.text
    assert any(tag == "meta" and given.get("http-equiv") == "refresh" for tag, given in waiting.tags)
    at_cashier = await browser.get(cashier)
    form = next(form for form in at_cashier.forms if "pay" in form.action)
    button = next(button for button in form.buttons if button[1] == "success_without_notice")
    sent = form.filled({}, button)
    async with browser.http.post(urljoin(cashier, form.action), data=sent, allow_redirects=False) as answer:
        assert answer.status == 303
        back = answer.headers["Location"]
    assert back.startswith(f"{world.url}{order.path}")
    paid = await browser.get(back)
    assert "付款成功" in paid.text
    receipt = await browser.get(f"{order.path}/receipt")
    assert "已缴清" in receipt.text


async def test_paying_on_after_coming_back_unpaid_asks_for_the_cashier_again(world: World) -> None:  # noqa: F811
    browser = await by_phone_number(world)
    order = await fine_order(browser, "粤F40003")
    first = await browser.submit(order, "/pay", button=("provider", "wechatpay"))
    waiting = await browser.get(order.path)
    again = await browser.submit(waiting, "/pay", button=("provider", "wechatpay"))
    assert all(any(link.startswith(world.sandbox_url) for link in page.links) for page in (first, again))
    stored = await world.hall.database["orders"].find_one({"_id": order.path.rsplit("/", 1)[-1]})
    assert [attempt["scene"] for attempt in stored["attempts"]] == ["h5"]  # one attempt, one number
    assert (await browser.get(f"{order.path}/pay")).path == order.path


async def test_inside_wechat_only_wechat_pays_and_knows_who(world: World) -> None:  # noqa: F811
    stranger = await by_phone_number(world)
    order = await fine_order(stranger, "粤F40004")
    inside = await stranger.get(order.path, headers=WECHAT)
    assert button_names(inside) == [] and "先用微信" in inside.text
    browser = await sign_in(world)
    await prove(world, browser)
    order = await fine_order(browser, "粤F40005")
    inside = await browser.get(order.path, headers=WECHAT)
    assert button_names(inside) == ["wechatpay"]
    assert "用微信支付付款" in inside.text
