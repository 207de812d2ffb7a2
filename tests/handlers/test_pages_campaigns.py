"""群发通知 on the staff pages and over the API, without script: written, previewed, tried, approved by another, watched, paused, resumed."""

import asyncio
from typing import Any

import aiohttp

from app.identity import store as identity_store
from app.kernel.clock import utc_now
from app.kernel.ids import new_id, ulid
from tests.handlers.pages_browser import Page
from tests.handlers.pages_world import PASSWORD, World, sign_in, world

__all__ = ["world"]  # the fixture


async def staff(world: World, account: str) -> Any:
    browser = world.browser()
    page = await browser.get("/staff/sign-in")
    page = await browser.submit(page, "/staff/sign-in", account=account, password=PASSWORD)
    assert page.path == "/staff/tasks", page.text
    return browser


async def crowd(world: World, count: int) -> list[str]:
    ids = [new_id("res") for _ in range(count)]
    await world.hall.database["residents"].insert_many([identity_store.new_resident(each, utc_now()) for each in ids])
    for each in ids:
        await world.hall.subscriptions.put(each, "theme", "教育科研")
    return ids


FORM = {
    "title": "入学报名开始", "text": "2027年小学入学报名3月1日开始，请在大厅里报名。\n报名不收费。", "link": "/items/school_enrol", "kind": "subscribers",
    "subscribers__themes": ["教育科研"], "subscribers__items": [], "subscribers__divisions": [], "channels": ["sms"], "rate": "4",
}  # fmt: skip


async def written(world: World, browser: Any, **changes: Any) -> Page:
    page = await browser.get("/staff/campaigns/new")
    return await browser.submit(page, "/new", **{**FORM, **changes})


async def test_written_by_one_approved_by_another_and_watched(world: World) -> None:
    people = await crowd(world, 12)
    writer, head = await staff(world, "clerk.sg-jyj"), await staff(world, "head.sg-jyj")
    page = await writer.get("/staff/campaigns")
    assert "写一个群发通知" in page.text
    page = await written(world, writer)
    where = page.path
    assert where.startswith("/staff/campaigns/cpn_"), page.text
    assert "草稿" in page.text and "教育科研" in page.text and "12人" in page.text
    assert "【韶关办事】入学报名开始" in page.text and "按1条计费" in page.text
    edit = await writer.get(f"{where}/edit")
    assert 'value="入学报名开始"' in edit.html and ">2027年小学入学报名" in edit.html and 'value="教育科研" selected' in edit.html
    page = await writer.submit(edit, "/edit", title="小学入学报名开始", **{name: value for name, value in FORM.items() if "__" in name})
    assert page.path == where and "小学入学报名开始" in page.text
    stale = await writer.submit(edit, "/edit", title="旧页面", **{name: value for name, value in FORM.items() if "__" in name})
    assert stale.status == 409 and 'value="旧页面"' in stale.html, "what was typed is kept"
    page = await writer.get(where)
    unknown = await writer.submit(page, "/test", phone="13700001111")
    assert unknown.status == 422 and "还没有在大厅登录过" in unknown.text
    page = await writer.submit(page, "/submit")
    assert "等待批准" in page.text and not any(form.action.endswith("/approve") for form in page.forms)

    assert "1个通知等您批准" in (await head.get("/staff/tasks")).text and "等您批准" not in (await writer.get("/staff/tasks")).text
    page = await head.get(where)
    refused = await head.submit(page, "/refuse", note="")
    assert refused.status == 422 and "请写明原因" in refused.text
    page = await head.submit(page, "/approve")
    assert "已批准" in page.text and "head.sg-jyj" in page.text

    await world.hall.campaigns.sending.run(0.2)
    page = await writer.get(where)
    assert "正在发送" in page.text and ("meta", {"http-equiv": "refresh", "content": "3"}) in page.tags
    assert any(tag == "progress" for tag, _given in page.tags)
    page = await writer.submit(page, "/pause")
    assert "已暂停" in page.text and not any(given.get("http-equiv") == "refresh" for _tag, given in page.tags)
    assert not any(form.action.endswith("/resume") for form in page.forms), "going on is the head's"
    before = await world.hall.database["messages"].count_documents({"event_id": where.rsplit("/", 1)[-1]})
    await world.hall.campaigns.sending.run(0.5)
    assert await world.hall.database["messages"].count_documents({"event_id": where.rsplit("/", 1)[-1]}) == before < 12
    await head.submit(await head.get(where), "/resume")
    for _ in range(20):
        await world.hall.campaigns.sending.run(1.0)
        await world.hall.push.deliver_due(lane="campaign")
        page = await writer.get(where)
        if "已发完" in page.text:
            break
    assert "已发完" in page.text and "100%" in page.text and not page.forms[1:], page.text
    told = await world.hall.database["messages"].distinct("owner_id", {"event_id": where.rsplit("/", 1)[-1]})
    assert sorted(told) == people
    page = await writer.get("/staff/campaigns?state=finished")
    assert "小学入学报名开始" in page.text


async def test_a_resident_sees_it_in_the_inbox_and_another_agency_nothing(world: World) -> None:
    resident = await sign_in(world)
    newest = await world.hall.database["residents"].find_one(sort=[("_id", -1)])
    await world.hall.subscriptions.put(newest["_id"], "theme", "交通出行")
    writer, head, stranger = await staff(world, "clerk.sg-jj"), await staff(world, "head.sg-jj"), await staff(world, "head.sg-jyj")
    page = await written(world, writer, title="<b>封路</b>通知", subscribers__themes=["交通出行"], channels=[])
    where = page.path
    assert "<b>封路" not in page.html
    await writer.submit(page, "/submit")
    await head.submit(await head.get(where), "/approve")
    await world.hall.campaigns.sending.run(1.0)
    inbox = await resident.get("/inbox")
    assert "<b>封路</b>通知" in inbox.text and "<b>封路" not in inbox.html
    for path in (where, f"{where}/edit"):
        assert (await stranger.get(path)).status == 404
    own = await stranger.get("/staff/campaigns?tab=everybody")
    assert "封路" not in own.text and "各单位的" not in own.text
    mayor = await staff(world, "head.sg-zsj")
    assert "封路" in (await mayor.get("/staff/campaigns?tab=everybody")).text
    assert (await mayor.get(where)).status == 200
    assert (await (world.browser()).get(where)).path.startswith("/staff/sign-in")
    assert (await writer.post(f"{where}/pause", {})).status == 403, "forged: without the page's token"


async def test_what_is_wrong_stands_at_its_field_and_nothing_typed_is_lost(world: World) -> None:
    writer = await staff(world, "clerk.sg-jyj")
    page = await written(world, writer, title="一", link="https://evil.example", rate="0", start_at="2026-13-99T10:00")
    assert page.status == 422
    for text in ("标题写 2 到 30 个字", "每秒 1 到 500 人", "应为带时区的时刻"):
        assert text in page.text, page.text
    assert 'value="一"' in page.html and 'value="https://evil.example"' in page.html
    page = await written(world, writer, link="https://evil.example")
    assert page.status == 422 and "应为本大厅里的地址" in page.text
    page = await written(world, writer, kind="applicants", **{"applicants__items": [], "applicants__from_on": "2026-02-02"})
    assert page.status == 422 and "请至少选一个" in page.text
    again = await writer.get("/staff/campaigns/new")
    first = await writer.submit(again, "/new", **FORM)
    assert (await writer.submit(again, "/new", **FORM)).path == first.path, "a double tap makes one"


async def test_the_api_refuses_nobody_the_wrong_role_and_the_wrong_agency(world: World) -> None:
    async def token(account: str) -> str:
        async with http.post(f"{world.url}/staff/v1/login", json={"account": account, "password": PASSWORD}) as answer:
            return str((await answer.json())["access_token"])

    async def call(method: str, path: str, who: str = "", body: Any = None, **headers: str) -> tuple[int, Any]:
        headers |= {"Authorization": f"Bearer {who}"} if who else {}
        async with http.request(method, world.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    body = {
        "title": "停水通知", "text": "明天上午停水检修，请提前储水。", "channels": [], "rate": 100,
        "segment": {"kind": "applicants", "items": ["id_card_lost"], "from_on": "2026-01-01"},
    }  # fmt: skip
    async with aiohttp.ClientSession() as http:
        clerk, head, stranger = [await token(account) for account in ("clerk.sg-gaj", "head.sg-gaj", "head.sg-jj")]
        assert (await call("POST", "/staff/v1/campaigns", "", body))[0] == 401
        assert (await call("POST", "/staff/v1/campaigns", clerk, body))[1]["code"] == "request.malformed", "no key"
        key = {"Idempotency-Key": ulid()}
        status, made = await call("POST", "/staff/v1/campaigns", clerk, body, **key)
        assert status == 201 and made["state"] == "draft" and made["allowed_actions"] == ["edit", "test", "submit", "discard"]
        assert (await call("POST", "/staff/v1/campaigns", clerk, body, **key))[1]["id"] == made["id"]
        path = f"/staff/v1/campaigns/{made['id']}"
        for method, where in (("GET", path), ("GET", f"{path}/preview"), ("POST", f"{path}/submit"), ("POST", f"{path}/discard")):
            assert (await call(method, where, stranger))[0] == 404, where
        assert (await call("PUT", path, stranger, {**body, "version": 1}))[0] == 404
        assert (await call("POST", f"{path}/test", stranger, {"phone": "13800000000"}))[0] == 404
        assert (await call("POST", f"{path}/begin", clerk))[0] == 404, "the worker's step is nobody's"
        assert (await call("PUT", path, clerk, {**body, "rate": 0, "version": 1}))[1]["errors"][0]["pointer"] == "/rate"
        assert (await call("PUT", path, clerk, {**body, "start_at": "2026-12-01T09:00"}))[0] == 422
        submitted = (await call("POST", f"{path}/submit", clerk))[1]
        assert (await call("POST", f"{path}/approve", clerk, {"version": submitted["version"]}))[1]["code"] == "campaign.not_yours_to_do"
        assert (await call("POST", f"{path}/approve", head, {}))[1]["errors"][0]["pointer"] == "/version"
        assert (await call("POST", f"{path}/approve", head, {"version": 1}))[1]["code"] == "campaign.conflict"
        assert (await call("POST", f"{path}/approve", head, {"version": submitted["version"]}))[0] == 200
        again = await call("POST", f"{path}/approve", head, {"version": submitted["version"] + 1})
        assert again[1]["code"] == "campaign.action_not_allowed"
        assert [row["id"] for row in (await call("GET", "/staff/v1/campaigns?state=approved", head))[1]["items"]] == [made["id"]]
        assert (await call("GET", "/staff/v1/campaigns", stranger))[1]["items"] == [] or all(
            row["agency"]["id"] == "sg-jj" for row in (await call("GET", "/staff/v1/campaigns", stranger))[1]["items"]
        )
        await asyncio.gather(*(call("POST", f"{path}/stop", head, {"note": "不发了"}) for _ in range(3)))
        assert (await call("GET", path, head))[1]["state"] == "stopped"
