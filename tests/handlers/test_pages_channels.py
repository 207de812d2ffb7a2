"""The desk's pages of what people write to the mini-program, and of the agency's web hook."""

from tests.handlers.pages_browser import Browser, Page
from tests.handlers.pages_world import PASSWORD, World, world  # noqa: F401


async def _signed_in(world: World, account: str) -> Browser:  # noqa: F811
    browser = world.browser()
    page = await browser.get("/staff/sign-in")
    assert (await browser.submit(page, "/staff/sign-in", account=account, password=PASSWORD)).path.startswith("/staff/tasks")
    return browser


async def _say(world: World, browser: Browser, name: str, text: str) -> None:  # noqa: F811
    async with browser.http.post(f"{world.sandbox_url}/_sim/wechat/say", json={"name": name, "text": text}) as answer:
        assert (await answer.json())["answer"] == "success", await answer.text()


async def test_a_clerk_answers_what_people_wrote(world: World):  # noqa: F811
    browser = await _signed_in(world, "clerk.sg-zsj")
    page = await browser.get("/staff/customer-messages")
    assert "没有等着回复的消息" in page.text
    await _say(world, browser, "pagehuman", "<b>转人工</b>")
    await world.hall.customer_messages.answer_due()
    page = await browser.get("/staff/customer-messages")
    assert "&lt;b&gt;转人工&lt;/b&gt;" in page.html and "要找人工" in page.text

    page = await browser.submit(page, "/reply", text=" ")
    assert page.status == 422 and "回复为 1 到 600 个字" in page.text
    page = await browser.submit(page, "/reply", text="您好，我来帮您。")
    assert page.status == 200 and "没有等着回复的消息" in page.text

    await _say(world, browser, "pageother", "找人工")
    page = await browser.get("/staff/customer-messages")
    page = await browser.submit(page, "/reply", note="x")
    assert page.status == 422 and "请写明怎么处理的" in page.text and 'value="x"' in page.html
    page = await browser.submit(page, "/reply", note="已电话答复")
    assert "没有等着回复的消息" in page.text

    other = await _signed_in(world, "head.sg-gaj")
    assert (await other.get("/staff/customer-messages")).status == 403
    assert "/staff/customer-messages" not in (await other.get("/staff/tasks")).html


async def test_a_head_sets_the_hook_and_sees_the_secret_once(world: World):  # noqa: F811
    browser = await _signed_in(world, "head.sg-mzj")
    await world.hall.redis.delete("limit:hook_pings:{sg-mzj}")
    page = await browser.get("/staff/hook")
    assert page.status == 200 and "开始推送" in page.text
    page = await browser.submit(page, "", url="ftp://10.0.0.1/events", algorithm="hmac-sm3")
    assert page.status == 422 and "ftp://10.0.0.1/events" in page.html and "https://" in page.text
    page = await browser.submit(page, "", url=f"{world.sandbox_url}/hooks/events", algorithm="hmac-sha256")
    hook = await world.hall.database["hooks"].find_one({"_id": "sg-mzj"})
    secret, _previous = world.hall.hooks.secrets_of(hook, hook["secret_at"])
    assert page.status == 200 and secret in page.html and "只显示这一次" in page.text
    assert secret not in (await browser.get("/staff/hook")).html

    page = await _press(browser, "ping")
    assert "测试没有成功" in page.text and "401" in page.text
    async with browser.http.post(f"{world.sandbox_url}/_sim/hooks", json={"app": hook["app"], "secret": secret, "algorithm": "hmac-sha256"}) as told:
        assert told.status == 200
    page = await _press(browser, "ping")
    assert "测试成功" in page.text
    assert "已由负责人暂停" in (await _press(browser, "pause")).text
    assert "已由负责人暂停" not in (await _press(browser, "resume")).text
    page = await _press(browser, "secret")
    assert "只显示这一次" in page.text and secret not in page.html
    page = await _press(browser, "remove")
    assert "开始推送" in page.text and await world.hall.database["hooks"].find_one({"_id": "sg-mzj"}) is None

    clerk = await _signed_in(world, "clerk.sg-mzj")
    assert (await clerk.get("/staff/hook")).status == 403 and "/staff/hook" not in (await clerk.get("/staff/tasks")).html


async def _press(browser: Browser, do: str) -> Page:
    """Press one of the page's buttons."""
    page = await browser.get("/staff/hook")
    assert f'name="do" value="{do}"' in page.html
    return await browser.submit(page, "", do=do)
