"""A whole hall in the test's process, and the ways through its pages that several tests take."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tornado.netutil import bind_sockets

from app.kernel.ids import ulid
from commands.assembly import assemble
from commands.defaults import fill_in
from commands.dev import sandbox_settings
from commands.migrate import prepare
from commands.routes import make_application
from commands.servers import die_with_parent, free_port
from commands.story import id_number, picture
from config.settings import ROOT, read_settings
from handlers.http_front import Front
from sandbox.credentials import FILE_NAME
from tests.handlers.pages_browser import Browser, Page

PASSWORD = "page-password"


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
async def world(servers: dict[str, str], sandbox_keys: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("pages")
    (folder / "sandbox").mkdir()
    shutil.copy2(sandbox_keys, folder / "sandbox" / FILE_NAME)
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
    server = Front(make_application(hall), max_body_size=12 * 1024 * 1024)
    await server.serve(*bind_sockets(port, "127.0.0.1"))
    stop = asyncio.Event()
    relay = asyncio.create_task(hall.relay.run(stop))
    await _listens(sandbox_port, stand_ins)
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


async def _listens(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process that was just started takes connections."""
    for _ in range(600):
        assert process.poll() is None, "it ended at once"
        try:
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise TimeoutError(port)


numbers = iter(range(200, 10_000))


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
    number = next(numbers)
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
    return await browser.submit(await checked(world, browser, **changes), "/check")


async def checked(world: World, browser: Browser, **changes: Any) -> Page:
    """Apply from the first question to the page with everything on it, before the last tap."""
    page = await draft(browser)
    page = await browser.submit(
        page, "/edit", button=("do", "next"), f__id_number=id_number(next(numbers)), **{**ANSWERS, **changes}
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
    return check


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
