"""The pages on real servers, without script: the whole story, forgery, foreign text, other people's pages."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tornado.httpserver import HTTPServer

from app.kernel.ids import ulid
from commands.assembly import assemble, make_application
from commands.defaults import fill_in
from commands.dev import sandbox_settings
from commands.migrate import prepare
from commands.servers import die_with_parent, free_port
from commands.story import id_number, picture
from config.settings import ROOT, read_settings
from tests.handlers.pages_browser import Browser, Page

PASSWORD = "page-password"
FIRST_SCREEN_BYTES = 30_000
NASTY = "<script>alert(1)</script>\"'&{{7*7}}"


@dataclass
class World:
    """A whole hall in this process, and where its stand-ins listen."""

    hall: Any
    url: str
    sandbox_url: str
    browsers: list[Browser]

    def browser(self) -> Browser:
        self.browsers.append(Browser(self.url))
        return self.browsers[-1]

    async def sms_code(self, browser: Browser, phone: str) -> str:
        async with browser.http.get(f"{self.sandbox_url}/_sim/sent", params={"channel": "sms", "to": phone}) as answer:
            return str([row for row in (await answer.json())["items"] if row.get("code")][-1]["code"])


@pytest.fixture(scope="module")
async def world(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("pages")
    port, sandbox_port = free_port(), free_port()
    environment = {
        "HALL_ENV": "test",
        "HALL_PORT": str(port),
        "HALL_SANDBOX_PORT": str(sandbox_port),
        "HALL_DATA_DIR": str(folder),
        "HALL_MONGODB_URI": servers["mongodb"],
        "HALL_MONGODB_DATABASE": f"pages_{ulid().lower()}",
        "HALL_REDIS_URL": servers["redis"],
        "HALL_DEMO_PASSWORD": PASSWORD,
        "HALL_SMS_INTERVAL_S": "0",
    }
    environment = fill_in(environment, sandbox_settings(folder, sandbox_port), folder)
    settings = read_settings(environment, env_file=None)
    stand_ins = subprocess.Popen(
        [sys.executable, "-m", "sandbox", "--port", str(sandbox_port), "--data-dir", str(folder / "sandbox")],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    await prepare(settings, with_demo=True)
    hall = await assemble(settings)
    server = HTTPServer(make_application(hall), max_body_size=12 * 1024 * 1024)
    server.listen(port, "127.0.0.1")
    stop = asyncio.Event()
    relay = asyncio.create_task(hall.relay.run(stop))
    world = World(hall, settings.public_url, settings.sandbox_url, [])
    yield world
    stop.set()
    hall.relay.wake()
    await relay
    for browser in world.browsers:
        await browser.close()
    server.stop()
    await hall.database.client.drop_database(hall.database.db.name)
    await hall.close()
    stand_ins.terminate()
    stand_ins.wait(10)


_numbers = iter(range(200, 10_000))


async def sign_in(world: World, provider: str = "wechat", path: str = "/me") -> Browser:
    """Sign in as somebody new, through the stand-in's sign-in page as a browser goes there."""
    browser = world.browser()
    start = await browser.get(f"/sign-in/{provider}/start?next={path}", follow=False)
    sheet = start.headers["Location"]
    page = await browser.get(sheet + f"&name=p{ulid().lower()}")
    assert page.path == path
    return browser


async def prove(world: World, browser: Browser, name: str = "陈阿婆", back: str = "/me") -> Page:
    """Phone, real name, face: the three steps on the way to L4."""
    number = next(_numbers)
    phone = f"139{number:08d}"
    page = await browser.get(f"/me/identity?level=4&next={back}")
    assert page.path.startswith("/me/phone")
    page = await browser.submit(page, "", phone=phone)
    page = await browser.submit(page, "", code=await world.sms_code(browser, phone))
    assert page.path.startswith("/me/real-name"), page.text
    page = await browser.submit(page, "", name=name, id_number=id_number(number))
    assert page.path.startswith("/me/face"), page.text
    return await browser.submit(page, "", agree="1")


async def draft(browser: Browser) -> Page:
    """Open a draft for a lost ID card; return its first step."""
    page = await browser.get("/apply/id_card_lost")
    return await browser.submit(page, page.forms[-1].action, q__age="adult", division="440203")


ANSWERS = {
    "f__name": "陈阿婆", "f__mobile": "13800000001", "f__photo_code": "SG20261100001", "f__lost_date": "2026-11-01",
    "f__use_old_photo": "true", "f__delivery": "express", "f__address": "武江区新华南路1号",
}  # fmt: skip


async def submitted(world: World, browser: Browser, **changes: Any) -> Page:
    """Apply from the first question to the case's page (which then waits for the fee)."""
    page = await draft(browser)
    page = await browser.submit(
        page, "/edit", button=("do", "next"), f__id_number=id_number(next(_numbers)), **{**ANSWERS, **changes}
    )
    assert page.path.endswith("/materials"), page.text
    forms = [form for form in page.forms if ("key", "hukou") in form.values and form.multipart]
    page.forms = forms
    page = await browser.submit(page, "/materials", upload=("户口簿.png", picture()))
    assert "户口簿.png" in page.text
    check = await browser.get(page.path.split("#")[0].replace("/materials", "/check"))
    if "去核验身份" in check.text:
        check = await prove(world, browser, back=check.path)
    assert "陈阿婆" in check.text
    return await browser.submit(check, "/check")


async def clerk(world: World, agency: str = "sg-gaj") -> Browser:
    browser = world.browser()
    page = await browser.get("/staff/tasks")
    assert page.path.startswith("/staff/sign-in")
    page = await browser.submit(page, "/staff/sign-in", account=f"clerk.{agency}", password=PASSWORD)
    assert page.path == "/staff/tasks"
    return browser


async def paid(world: World, browser: Browser, case: Page) -> Page:
    """Pay the fee of a case with WeChat Pay in the stand-in's cashier; return the order's page."""
    order = await browser.submit(case, "/orders")
    assert "40.00" in order.text and "韶关市公安局" in order.text
    page = await browser.submit(order, "/pay", button=("provider", "wechatpay"))
    cashier = next(link for link in page.links if "/_sim/cashier" in link)
    number = re.search(r"out_trade_no=(\w+)", cashier)
    assert number
    body = {"provider": "wechatpay", "out_trade_no": number[1], "outcome": "success_without_notice"}
    async with browser.http.post(f"{world.sandbox_url}/_sim/pay", json=body) as answer:
        assert answer.status == 200
    return await browser.get(order.path)  # no notice comes: opening the page asks the provider


async def until(browser: Browser, path: str, text: str) -> Page:
    for _ in range(60):
        page = await browser.get(path)
        if text in page.text:
            return page
        await asyncio.sleep(0.1)
    raise AssertionError(f"{text!r} did not come on {path}: {page.text[:800]}")


async def test_the_whole_story_without_script(world: World) -> None:
    resident = await sign_in(world)
    case = await submitted(world, resident)
    assert "等待缴费" in case.text
    order = await paid(world, resident, case)
    assert "付款成功" in order.text
    receipt = await resident.get(order.path + "/receipt")
    assert "<svg" in receipt.html and "40.00" in receipt.text
    code = re.search(r"核验码\s*([A-Z0-9]{8})", receipt.text)
    number = re.search(r"收据号\s*(R[A-Z0-9]+)", receipt.text)
    assert code and number
    stranger = world.browser()
    checked = await stranger.get(f"/receipts/{number[1]}?code={code[1]}")
    assert "已核验" in checked.text and "陈" not in checked.text
    assert (await stranger.get(f"/receipts/{number[1]}?code=AAAAAAAA")).status == 404

    await until(resident, case.path, "等待受理")
    staff = await clerk(world)
    tasks = await staff.get("/staff/tasks")
    link = next(link for link in tasks.links if link.endswith(case.path.split("/")[-1]))
    desk = await staff.get(link)
    assert "SG20261100001" in desk.text
    refused = await staff.submit(desk, "/request_supplement", key=[], reason__hukou="看不清")
    assert refused.status == 422
    desk = await staff.submit(desk, "/request_supplement", key="hukou", reason__hukou="照片看不清，请重拍")
    page = await until(resident, case.path, "照片看不清，请重拍")
    assert "要重交" in page.text
    unready = await resident.submit(await resident.get(case.path + "/check"), "/check")
    assert unready.status == 422 and "请补交" in unready.text
    page.forms = [form for form in page.forms if form.multipart]
    await resident.submit(page, "/materials", upload=("重拍.png", picture(90)))
    page = await resident.submit(await resident.get(case.path + "/check"), "/check")
    assert "等待受理" in page.text

    desk = await staff.submit(await staff.get(link), "/accept")
    desk = await staff.submit(desk, "/decide", outcome="approved", opinion="材料齐全")
    desk = await staff.submit(desk, "/deliver", method="express", tracking="EMS123")
    page = await until(resident, case.path, "EMS123")
    assert "已办结" in page.text
    assert (await resident.post(case.path + "/evaluation", {})).status == 403  # no token
    page = await resident.submit(page, "/evaluation", level="1", text="很快")
    assert "您评价了“非常满意”" in page.text
    inbox = await until(resident, "/inbox", "已办结")
    assert "没看" in inbox.text
    read = await resident.submit(inbox, next(form.action for form in inbox.forms if "/inbox/msg_" in form.action))
    assert read.path == case.path

    found = re.search(r"办件编号\s*([0-9A-Z]+)\s*查询码\s*([0-9A-Z]{8})", page.text)
    assert found
    progress = await stranger.submit(await stranger.get("/progress"), "/progress", number=found[1], code=found[2].lower())
    assert "已办结" in progress.text and "陈" not in progress.text
    wrong = await stranger.submit(await stranger.get("/progress"), "/progress", number=found[1], code="AAAAAAAA")
    assert wrong.status == 404 and found[1] in wrong.html


async def test_what_was_typed_stays_when_something_is_wrong(world: World) -> None:
    browser = await sign_in(world)
    page = await draft(browser)
    wrong = await browser.submit(page, "/edit", button=("do", "next"), **{**ANSWERS, "f__id_number": "123", "f__name": NASTY})
    assert wrong.status == 422
    assert 'id="err-id_number"' in wrong.html and 'value="123"' in wrong.html
    assert "<script>alert" not in wrong.html
    again = await browser.get(wrong.path)  # kept in the draft, too
    values = dict(again.form("/edit").values)
    assert values["f.name"] == NASTY and values["f.id_number"] == "123" and values["f.delivery"] == "express"
    # Two windows: the older one is told, its words stay, and saving once more wins.
    await browser.submit(again, "/edit", button=("do", "save"), f__name="第二个窗口")
    older = await browser.submit(again, "/edit", button=("do", "save"), f__name="第一个窗口")
    assert older.status == 409 and 'value="第一个窗口"' in older.html
    saved = await browser.submit(older, "/edit", button=("do", "save"))
    assert dict(saved.form("/edit").values)["f.name"] == "第一个窗口"


async def test_two_taps_make_one_draft_and_one_order(world: World) -> None:
    browser = await sign_in(world)
    page = await browser.get("/apply/id_card_lost")
    sent = [*page.forms[-1].values, ("q.age", "adult")]
    first, second = await asyncio.gather(*(browser.post(page.forms[-1].action, sent) for _ in range(2)))
    assert first.path == second.path and first.status == 200


async def test_a_form_without_its_token_is_refused_everywhere(world: World) -> None:
    browser = await sign_in(world)
    page = await draft(browser)
    paths = [
        "/elder", "/divisions", "/sign-in/sms", "/sign-in/sms/code", "/sign-in/wechat", "/sign-out", "/me/phone", "/me/real-name",
        "/me/face", "/apply/id_card_lost", page.path, page.path.replace("edit", "materials"), page.path.replace("edit", "check"),
        page.path.replace("edit", "withdraw"), "/orders", "/inbox/read-all", "/progress", "/checks/traffic_violation",
        "/pay/traffic_fine", "/staff/sign-in", "/staff/sign-out",
    ]  # fmt: skip
    for path in paths:
        answer = await browser.post(path, {"next": "/", "_xsrf": "2|forged|token|1"}, follow=False)
        assert answer.status == 403, path
        assert "刷新" in answer.text and answer.html.startswith("<!doctype html>")


async def test_other_peoples_pages_do_not_exist(world: World) -> None:
    owner, other = await sign_in(world), await sign_in(world)
    case = await submitted(world, owner)
    order = await owner.submit(case, "/orders")
    edit = await draft(owner)
    for path in (case.path, edit.path, edit.path.replace("edit", "materials"), case.path + "/withdraw", order.path):
        assert (await other.get(path)).status == 404, path
        nobody = await world.browser().get(path, follow=False)
        assert nobody.status == 303 and nobody.headers["Location"].startswith("/sign-in?next=")
    token = dict((await other.get("/me")).form("/sign-out").values)
    for path in (order.path + "/pay", order.path + "/close", case.path + "/withdraw", edit.path):
        assert (await other.post(path, {**token, "provider": "wechatpay", "once": ulid(), "version": "1"})).status == 404, path
    elsewhere = await clerk(world, "sg-rsj")
    assert (await elsewhere.get("/staff/cases/" + case.path.split("/")[-1])).status == 404
    assert (await owner.get("/staff/cases/" + case.path.split("/")[-1], follow=False)).status == 303


async def test_foreign_text_is_shown_as_text(world: World) -> None:
    browser = await sign_in(world)
    case = await submitted(world, browser, f__address=NASTY[:60], f__photo_code="<img src=x>")
    staff_page = await (await clerk(world)).get("/staff/cases/" + case.path.split("/")[-1])
    for page in (case, staff_page, await browser.get(case.path), await browser.get(f"/search?q={NASTY.replace('&', '')}")):
        assert "<script>alert" not in page.html and "<img src=x" not in page.html and "49" not in page.text.split("查询码")[0][:40]
    assert "<script>alert" in staff_page.text  # there, as harmless text
    refused = await browser.get("/sign-in/wechat?code=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert "<script>alert" not in refused.html and "是您自己要登录" in refused.text


async def test_a_sign_in_link_signs_nobody_in_by_itself(world: World) -> None:
    browser = world.browser()
    page = await browser.get("/sign-in/wechat?code=sim-somebody&state=guessed&next=https://evil.example/")
    assert page.path.startswith("/sign-in/wechat") and "hall_page" not in str(list(browser.http.cookie_jar))
    page = await browser.submit(page, "/sign-in/wechat")
    assert page.path == "/me"
    for path in ("//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)"):
        signed = await browser.get(f"/sign-in?next={path}", follow=False)
        assert signed.headers["Location"] == "/me"


async def test_sms_sign_in_and_a_fine(world: World) -> None:
    browser = world.browser()
    phone = f"137{next(_numbers):08d}"
    page = await browser.get("/pay/traffic_fine")
    page = await browser.submit(page, "/sign-in/sms/code", phone=phone)
    bad = await browser.submit(page, "/sign-in/sms", code="000000")
    assert bad.status == 401 and "验证码" in bad.text
    page = await browser.submit(page, "/sign-in/sms", code=await world.sms_code(browser, phone))
    assert page.path == "/pay/traffic_fine" and "去核验身份" in page.text
    page = await browser.get("/me/identity?level=3&next=/pay/traffic_fine")
    page = await browser.submit(page, "", name="张示例", id_number=id_number(next(_numbers)))
    assert page.path == "/pay/traffic_fine"
    own = await browser.submit(page, "/pay/traffic_fine")
    assert own.status == 200 and "没有要缴的" in own.text  # nothing to type: the department asks by the person's own number
    wrong = await browser.submit(page, "/pay/traffic_fine", plate="123")
    assert wrong.status == 422 and 'value="123"' in wrong.html
    away = await browser.submit(page, "/pay/traffic_fine", plate="粤F0DOWN")
    assert away.status == 503 and "不代表没有" in away.text and 'value="粤F0DOWN"' in away.html


async def test_the_first_screen_is_small_and_every_page_says_what_it_is(world: World) -> None:
    browser = await sign_in(world)
    home = await world.browser().get("/")
    needed = [given.get("href") or given.get("src") for tag, given in home.tags if tag in ("link", "script", "img")]
    assert all(address and address.startswith("/static/") and "?v=" in address for address in needed)
    sizes = [(await browser.get(address)).size for address in needed if address]
    assert home.size + sum(sizes) <= FIRST_SCREEN_BYTES, (home.size, dict(zip(needed, sizes, strict=True)))
    case = await submitted(world, browser)
    order = await browser.submit(case, "/orders")
    paths = [
        "/", "/search", "/search?q=sfz", "/search?q=zzzzqqq", "/items", "/items?kind=handle", "/items/id_card_lost",
        "/items/id_card_lost?q.age=minor", "/items/violation_query", "/divisions", "/me", "/cases", "/inbox", "/orders", "/checks",
        "/checks/social_insurance", "/halls", "/pay", "/pay/water", "/progress", "/apply/id_card_lost", "/me/phone", "/me/real-name", "/me/face",
        case.path, order.path, "/nothing", "/staff/sign-in",
    ]  # fmt: skip
    titles = set()
    for path in paths:
        page = await browser.get(path, headers={"Accept": "text/html"})
        assert page.status == (404 if path == "/nothing" else 200), (path, page.text[:300])
        assert re.search(r'<html lang="zh-CN"', page.html) and 'name="viewport"' in page.html, path
        title = re.search(r"<title>(.+?)</title>", page.html)
        assert title, path
        titles.add(title[1])
        assert page.html.count("<h1") == 1 and '<main id="main"' in page.html, path
        assert "style=" not in page.html and "onclick" not in page.html, path  # the policy would refuse them
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        labelled = {given["for"] for tag, given in page.tags if tag == "label" and "for" in given}
        for tag, given in page.tags:
            if tag in ("select", "textarea") or (tag == "input" and given.get("type", "text") in ("text", "tel", "date", "search")):
                assert given.get("id") in labelled or given.get("aria-label") or "name" not in given, (path, given)
    assert len(titles) >= len(paths) - 6
    api = await browser.get("/nothing", headers={"Accept": "application/json"})
    assert api.headers["Content-Type"].startswith("application/problem+json")


async def test_the_elder_version_and_the_place_are_kept(world: World) -> None:
    browser = world.browser()
    page = await browser.submit(await browser.get("/items"), "/elder", button=("on", "1"))
    assert page.path == "/items" and 'class="elder"' in page.html
    page = await browser.submit(page, "/elder", button=("on", "0"))
    assert 'class="elder"' not in page.html
    await browser.submit(await browser.get("/divisions"), "/divisions", button=("division", "440281"))
    assert "乐昌市" in (await browser.get("/")).text
