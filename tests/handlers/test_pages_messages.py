"""The pages and the API of the message texts: for the agency that runs the hall, everything shown, nothing broken by a wrong address."""

import pytest

from push.model import EVENTS
from tests.handlers.pages_browser import Browser
from tests.handlers.pages_world import PASSWORD, World, world  # noqa: F401


async def _signed_in(world: World, account: str) -> Browser:  # noqa: F811
    browser = world.browser()
    page = await browser.get("/staff/sign-in")
    page = await browser.submit(page, "/staff/sign-in", account=account, password=PASSWORD)
    assert page.path.startswith("/staff/tasks"), page.text
    return browser


async def test_whoever_runs_the_hall_sees_every_message_on_every_channel(world: World):  # noqa: F811
    browser = await _signed_in(world, "head.sg-zsj")
    page = await browser.get("/staff/messages")
    assert page.status == 200 and 'href="/staff/messages"' in (await browser.get("/staff/tasks")).html
    for names in EVENTS.values():
        for name in names:
            assert f'href="/staff/messages/{name}"' in page.html
    page = await browser.get("/staff/messages/case.accepted")
    for word in ("站内消息", "微信订阅消息", "公众号", "支付宝", "邮件", "短信", "电话", "居民身份证丢失补领", "韶关市公安局", "/20"):
        assert word in page.html, word
    assert "缺少" in (await browser.get("/staff/messages/case.accepted?sample=least")).text
    assert "截短或改写" in (await browser.get("/staff/messages/case.accepted?sample=long")).text
    mail = await browser.get("/staff/messages/case.accepted/mail?language=en")
    assert mail.status == 200 and '<html lang="en">' in mail.html and "script" not in mail.headers["Content-Security-Policy"]
    for path, status in (
        ("/staff/messages/case.flew", 404), ("/staff/messages/case.fee_paid/mail", 404), ("/staff/messages/case.accepted?sample=%00", 200),
    ):  # fmt: skip
        assert (await browser.get(path)).status == status, path


async def test_another_agency_does_not(world: World):  # noqa: F811
    browser = await _signed_in(world, "head.sg-gaj")
    assert 'href="/staff/messages"' not in (await browser.get("/staff/tasks")).html
    for path in ("/staff/messages", "/staff/messages/case.accepted", "/staff/messages/case.accepted/mail"):
        assert (await browser.get(path)).status == 403
    stranger = world.browser()
    assert (await stranger.get("/staff/messages", follow=False)).status == 303


@pytest.mark.parametrize(("account", "status"), [("clerk.sg-zsj", 200), ("head.sg-gaj", 403)])
async def test_the_api_says_the_same(world: World, account: str, status: int):  # noqa: F811
    http = world.browser().http
    async with http.post(f"{world.url}/staff/v1/login", json={"account": account, "password": PASSWORD}) as answer:
        headers = {"Authorization": f"Bearer {(await answer.json())['access_token']}"}
    async with http.get(f"{world.url}/staff/v1/message-templates", headers=headers) as answer:
        body = await answer.json(content_type=None)
        assert answer.status == status
        assert len(body["items"]) == sum(map(len, EVENTS.values())) if status == 200 else body["code"] == "message_template.not_yours"
    if status == 200:
        async with http.get(f"{world.url}/staff/v1/message-templates/order.paid?sample=long", headers=headers) as answer:
            assert (await answer.json())["languages"]["zh"]["shown"]["email"]["subject"].startswith("【韶关办事】")
        for path, code in (("case.flew", 404), ("case.accepted?sample=huge", 422)):
            async with http.get(f"{world.url}/staff/v1/message-templates/{path}", headers=headers) as answer:
                assert answer.status == code
