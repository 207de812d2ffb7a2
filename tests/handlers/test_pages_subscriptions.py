"""Following an item, and the days one is reminded of, on pages without script."""

from datetime import timedelta

from app.kernel.clock import today
from app.reminders.model import Dated
from tests.handlers.pages_world import World, sign_in, world  # noqa: F401


async def owner_of(world: World) -> str:  # noqa: F811
    newest = await world.hall.database["residents"].find_one(sort=[("_id", -1)])
    return str(newest["_id"])


async def test_one_follows_an_item_on_its_page_and_stops_on_ones_own(world: World) -> None:  # noqa: F811
    browser = await sign_in(world)
    page = await browser.get("/items/school_enrol")
    assert "新生网上报名：2027年5月6日到2027年5月20日" in page.text
    page = await browser.submit(page, "/subscriptions")
    assert page.path == "/items/school_enrol" and "已订阅" in page.text and "取消订阅" in page.text
    me = await browser.get("/me")
    assert "义务教育阶段新生入学报名" in me.text and "/items/school_enrol" in me.links
    me = await browser.submit(me, "/subscriptions", button=("on", "0"))
    assert me.path == "/me" and "还没有订阅" in me.text
    assert "有消息告诉我" in (await browser.get("/items/school_enrol")).text


async def test_a_theme_and_a_place_can_be_followed(world: World) -> None:  # noqa: F811
    browser = await sign_in(world)
    page = await browser.get("/items?theme=教育科研")
    page = await browser.submit(page, "/subscriptions")
    assert "这类事项有新的会告诉您" in page.text
    assert "“教育科研”类事项" in (await browser.get("/me")).text
    page = await browser.get("/me/reminders")
    page.forms = [form for form in page.forms if ("kind", "notice") in form.values]
    page = await browser.submit(page, "/subscriptions")
    assert "韶关市的通知" in page.text


async def test_who_is_not_signed_in_is_asked_to_and_comes_back(world: World) -> None:  # noqa: F811
    browser = world.browser()
    page = await browser.get("/items/school_enrol")
    assert "有消息告诉我" in page.text
    page = await browser.submit(page, "/subscriptions")
    assert page.path.startswith("/sign-in")
    assert (await browser.get("/me/reminders")).path.startswith("/sign-in")


async def test_what_does_not_exist_and_what_has_no_token_is_refused(world: World) -> None:  # noqa: F811
    browser = await sign_in(world)
    page = await browser.get("/items/school_enrol")
    refused = await browser.submit(page, "/subscriptions", key="nothing")
    assert refused.status == 404 and "没有这个事项" in refused.text
    assert (await browser.post("/subscriptions", {"kind": "item", "key": "school_enrol", "on": "1"})).status == 403


async def test_the_days_are_shown_and_reminders_can_be_switched_off(world: World) -> None:  # noqa: F811
    browser = await sign_in(world)
    owner = await owner_of(world)
    await world.hall.reminders.put(owner, Dated("licence:x", "licence", "护士执业证书", today() + timedelta(days=40), item="nurse_register"))
    page = await browser.get("/me/reminders")
    assert "护士执业证书" in page.text and "/items/nurse_register" in page.links
    page.forms = [form for form in page.forms if ("kind", "reminder") in form.values]
    page = await browser.submit(page, "/me/reminders", button=("on", "0"))
    assert "到期和预约提醒 已关闭" in page.text
    assert (await world.hall.push.preferences(owner)).refuses("reminder")
    assert not (await world.hall.push.preferences(owner)).refuses("news")
    page.forms = [form for form in page.forms if ("kind", "reminder") in form.values]
    page = await browser.submit(page, "/me/reminders", button=("on", "1"))
    assert not (await world.hall.push.preferences(owner)).refuses("reminder")


async def test_the_days_over_the_api_are_ones_own(world: World) -> None:  # noqa: F811
    people = [await world.hall.identity.login_wechat(f"sim-{name}") for name in ("days-a", "days-b")]
    owner = people[0].resident.id
    await world.hall.reminders.put(owner, Dated("licence:y", "licence", "护士执业证书", today() + timedelta(days=40), item="nurse_register"))
    answers = []
    for headers in ({}, *({"Authorization": f"Bearer {login.access_token}"} for login in people)):
        async with world.browser().http.get(f"{world.url}/v1/me/reminders", headers=headers) as answer:
            answers.append((answer.status, await answer.json(content_type=None)))
    assert answers[0][0] == 401 and answers[2] == (200, {"items": []})
    [row] = answers[1][1]["items"]
    assert (row["name"], row["days_left"], row["item"]) == ("护士执业证书", 40, "nurse_register")
    assert row["tell_on"] == [(today() + timedelta(days=days)).isoformat() for days in (10, 33)]


async def test_the_wallet_shows_the_days_left_and_leads_to_the_renewal(world: World) -> None:  # noqa: F811
    browser = await sign_in(world)
    owner = await owner_of(world)
    row = {
        "holder_id": owner, "type": "LIC-NURSE", "name": "护士执业证书", "number": "N1", "issuer_id": "a", "issuer": "卫健局",
        "issued_on": "2021-01-01", "basis": "dated", "state": "valid", "case_id": "case_0",
    }  # fmt: skip
    for number, days in enumerate((12, 0, -3)):
        valid_to = (today() + timedelta(days=days)).isoformat()
        await world.hall.database["licences"].insert_one({**row, "_id": f"lic_{owner}{number}", "event_id": f"{owner}{number}", "valid_to": valid_to})
    page = await browser.get("/me")
    assert "还有12天" in page.text and "今天是最后一天" in page.text and "已过期" in page.text
    assert page.links.count("/items/nurse_register") == 3
