"""The page of a person's e-mail address, from typing it to the link that stops the mails."""

import re

from tests.handlers.pages_world import World, sign_in, world  # noqa: F401


async def _mails(world: World, browser, email: str) -> list[dict]:  # noqa: F811
    async with browser.http.get(f"{world.sandbox_url}/_sim/sent", params={"channel": "emails", "to": email}) as answer:
        return (await answer.json())["emails"]


async def test_an_address_is_verified_shown_masked_and_stopped_by_the_link(world: World):  # noqa: F811
    browser = await sign_in(world)
    assert "/me/email" in (await browser.get("/me")).html
    page = await browser.get("/me/email")
    page = await browser.submit(page, "", email="not an address")
    assert page.status == 422 and "请填写完整的邮箱地址" in page.text and "not an address" in page.html
    email = "chen.apo@example.com"
    page = await browser.submit(page, "", email=email)
    assert page.status == 200 and "c***o@example.com" in page.text and email not in page.html
    page = await browser.submit(page, "", code="000000")
    assert page.status == 422 and "验证码不对" in page.text

    page = await browser.submit(page, "", code=(await _mails(world, browser, email))[-1]["code"])

    assert page.status == 200 and "邮箱已验证" in page.text and "已验证" in page.text and email not in page.html
    kept = await world.hall.database["emails"].find_one({})
    path = world.hall.emails.stop_path(kept["_id"])
    stranger = world.browser()
    page = await stranger.get(path)
    assert page.status == 200 and not (await world.hall.push.preferences(kept["_id"])).muted, "a scanner that follows links stops nothing"
    page = await stranger.submit(page, "")
    assert "不再给您发邮件了" in page.text
    assert not (await world.hall.push.preferences(kept["_id"])).allows("case", "email")
    assert (await stranger.get(re.sub("mark=.", "mark=x", path))).status == 404
    async with stranger.http.post(world.url + path, data={"List-Unsubscribe": "One-Click"}) as answer:
        assert answer.status == 200, "one click needs neither cookie nor form"

    page = await browser.get("/me/email")
    page = await browser.submit(page, "", forget="1")
    assert "邮箱已删除" in page.text and await world.hall.database["emails"].find_one({}) is None


async def test_the_api_takes_the_same_steps(world: World):  # noqa: F811
    browser = world.browser()
    login = await world.hall.identity.login_wechat("sim-emailapi")
    headers = {"Authorization": f"Bearer {login.access_token}"}
    url, email = f"{world.url}/v1/me/email", "emailapi@example.com"
    async with browser.http.put(url, json={"email": email}, headers=headers) as answer:
        assert answer.status == 202 and (await answer.json())["email_masked"] == "e***i@example.com"
    code = (await _mails(world, browser, email))[-1]["code"]
    async with browser.http.post(f"{url}/confirm", json={"code": "12345"}, headers=headers) as answer:
        assert answer.status == 422 and (await answer.json())["code"] == "validation.failed"
    async with browser.http.post(f"{url}/confirm", json={"code": code}, headers=headers) as answer:
        assert answer.status == 200 and (await answer.json())["verified_at"]
    async with browser.http.get(url, headers=headers) as answer:
        assert (await answer.json()) | {"verified_at": ""} == {"email_masked": "e***i@example.com", "verified_at": "", "is_dead": False}
    async with browser.http.delete(url, headers=headers) as answer:
        assert answer.status == 204
    async with browser.http.delete(url, headers=headers) as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "email.none")
