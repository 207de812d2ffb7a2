"""The script of the form in a real browser, on a phone: what is typed is never lost, whatever tab, network or process goes away meanwhile."""

import asyncio
import io
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import Browser, Page, Route

from tests.journeys import chromium
from tests.journeys.chromium import draft, on_server, open_browser, phone, saved, says, until
from tests.journeys.conftest import RunningHall
from tests.journeys.stories import an_id_number

pytestmark = chromium.needed


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


async def fits(page: Page) -> bool:
    return bool(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


async def test_the_form_saves_itself_shows_what_is_asked_and_answers_what_it_computes(hall: RunningHall, browser: Browser) -> None:
    context = await phone(browser)
    page = await draft(context, hall.url, "id_card_first")
    bugs: list[str] = []
    page.on("pageerror", lambda error: bugs.append(str(error)))

    assert not await page.is_visible("#field-guardian_name"), "asked of minors alone"
    await page.fill('[name="f.name"]', "陈示例")
    await page.check('[name="f.age_group"][value="minor"]')
    assert await page.is_visible("#field-guardian_name")
    await page.fill('[name="f.guardian_name"]', "陈家长")
    number = an_id_number()
    await page.fill('[name="f.id_number"]', number)
    await saved(page)

    stored = await on_server(page)
    assert (stored["f.name"], stored["f.id_number"], stored["f.guardian_name"]) == (["陈示例"], [number], ["陈家长"])
    assert await page.text_content('[data-computed="birth_date"]') == f"{number[6:10]}-{number[10:12]}-{number[12:14]}"
    assert await page.text_content('[data-computed="sex"]') == ("男" if int(number[16]) % 2 else "女")
    left = str(await page.text_content("#left"))
    assert "手机" in left and "监护人姓名" not in left, "what is still to be filled in follows"

    await page.check('[name="f.age_group"][value="adult"]')
    assert not await page.is_visible("#field-guardian_name")
    await page.reload()
    assert await page.input_value('[name="f.name"]') == "陈示例"
    assert await fits(page) and not bugs
    await context.close()


async def test_rows_are_added_as_they_are_needed_and_kept_in_their_order(hall: RunningHall, browser: Browser) -> None:
    context = await phone(browser)
    page = await draft(context, hall.url, "dibao")
    rows = page.locator('[data-table="f.members"] .tablerow')
    assert await rows.count() == 1, "empty rows are for those without script"
    for number in range(3):
        if number:
            await page.click("text=加一行")
        await page.fill(f'[name="f.members.{number}.0"]', f"家人{number}")
    await saved(page)
    await page.reload()
    assert await rows.count() in (3, 4)
    assert [await page.input_value(f'[name="f.members.{number}.0"]') for number in range(3)] == ["家人0", "家人1", "家人2"]
    await page.fill('[name="f.members.1.0"]', "")
    for cell in await page.locator('[name^="f.members.1."]').all():
        await cell.fill("")
    await saved(page)
    stored = await on_server(page)
    assert [stored.get(f"f.members.{number}.0") for number in range(2)] == [["家人0"], ["家人2"]], "an empty row in the middle is gone"
    assert await fits(page)
    await context.close()


async def test_two_tabs_merge_what_they_can_and_ask_field_by_field_where_they_cannot(hall: RunningHall, browser: Browser) -> None:
    context = await phone(browser)
    one = await draft(context, hall.url, "id_card_lost", age="adult")
    other = await context.new_page()
    await other.goto(one.url)

    # Different fields: both are there, and the later tab follows.
    await one.fill('[name="f.name"]', "陈阿婆")
    await saved(one)
    await other.fill('[name="f.mobile"]', "13800000001")
    await saved(other)
    assert await other.input_value('[name="f.name"]') == "陈阿婆"
    stored = await on_server(other)
    assert (stored["f.name"], stored["f.mobile"]) == (["陈阿婆"], ["13800000001"])

    # The same field: nothing is overwritten, the choice stands at the field, and other fields are saved meanwhile.
    await one.fill('[name="f.photo_code"]', "SG20261100001")
    await saved(one)
    await other.fill('[name="f.photo_code"]', "SG20261100002")
    await other.fill('[name="f.lost_date"]', "2026-11-01")
    box = other.locator('#field-photo_code .conflict[data-name="f.photo_code"]')
    await box.wait_for()
    assert "SG20261100001" in str(await box.text_content())
    assert (await on_server(other))["f.photo_code"] == ["SG20261100001"]
    await other.fill('[name="f.lost_date"]', "2026-11-02")
    await says(other, "已保存")
    stored = await on_server(other)
    assert (stored["f.photo_code"], stored["f.lost_date"]) == (["SG20261100001"], ["2026-11-02"])
    assert await other.input_value('[name="f.photo_code"]') == "SG20261100002", "what was typed here is still here"
    assert await fits(other)

    await box.locator('[value="mine"]').click()
    await saved(other)
    assert (await on_server(other))["f.photo_code"] == ["SG20261100002"]

    # And the other way round: theirs is taken over.
    await one.reload()
    await other.fill('[name="f.name"]', "陈阿婆（曾用名）")
    await saved(other)
    await one.fill('[name="f.name"]', "陈婆婆")
    await one.locator('.conflict[data-name="f.name"] [value="theirs"]').click()
    await saved(one)
    assert await one.input_value('[name="f.name"]') == "陈阿婆（曾用名）"
    assert (await on_server(one))["f.name"] == ["陈阿婆（曾用名）"]
    await context.close()


async def test_offline_and_back_and_a_tab_that_died_offline(hall: RunningHall, browser: Browser) -> None:
    context = await phone(browser)
    page = await draft(context, hall.url, "id_card_lost", age="adult")
    await context.set_offline(True)
    await page.fill('[name="f.name"]', "何示例")
    await says(page, "网络不通")
    await context.set_offline(False)
    await saved(page)
    assert (await on_server(page))["f.name"] == ["何示例"]

    url = page.url
    await context.set_offline(True)
    await page.fill('[name="f.mobile"]', "13800000009")
    await page.close()
    await context.set_offline(False)
    again = await context.new_page()
    await again.goto(url)
    await saved(again)
    stored = await on_server(again)
    assert (stored["f.name"], stored["f.mobile"]) == (["何示例"], ["13800000009"])
    await context.close()


async def test_no_answer_is_lost_while_web_dies_and_comes_back_under_the_typing(hall: RunningHall, browser: Browser) -> None:
    context = await phone(browser)
    page = await draft(context, hall.url, "id_card_lost", age="adult")
    typed: dict[str, str] = {}
    deaths = random.Random(7)  # noqa: S311
    texts = {"name": "陈阿婆", "mobile": "13800000001", "photo_code": "SG20261100001", "lost_date": "2026-11-01"}
    is_up = True
    for turn in range(2):
        for key, text in texts.items():
            if deaths.random() < 0.5:
                if is_up:
                    hall.kill("web")
                else:
                    await asyncio.to_thread(hall.start, "web")
                is_up = not is_up
            value = text if key == "lost_date" else f"{text[:-1]}{turn}"
            await page.fill(f'[name="f.{key}"]', value)
            typed[f"f.{key}"] = value
            await asyncio.sleep(deaths.uniform(0, 1.6))  # now and then long enough for a save to be under way
    if is_up:
        hall.kill("web")
    await page.fill('[name="f.name"]', "最后一笔")
    typed["f.name"] = "最后一笔"
    await asyncio.to_thread(hall.start, "web")
    await saved(page)
    stored = await on_server(page)
    assert {name: stored[name] for name in typed} == {name: [value] for name, value in typed.items()}
    await context.close()


async def test_an_upload_goes_on_after_a_break_and_after_the_page_was_closed(hall: RunningHall, browser: Browser, tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.frombytes("RGB", (640, 480), random.Random(1).randbytes(640 * 480 * 3)).save(picture, "PNG")  # noqa: S311
    file = tmp_path / "户口簿.png"
    file.write_bytes(picture.getvalue())
    pieces = -(-len(picture.getvalue()) // (256 * 1024))
    assert pieces >= 3
    context = await phone(browser)
    url = (await draft(context, hall.url, "id_card_lost", age="adult")).url.replace("/edit", "/materials")
    sent: list[str] = []
    arrived = 0

    async def cut(route: Route) -> None:
        nonlocal arrived
        if route.request.method == "PUT":
            if arrived == 2:
                return await route.abort("internetdisconnected")
            arrived += 1
            sent.append(route.request.url)
        await route.continue_()

    page = await context.new_page()
    await page.goto(url)
    await page.route("**/pieces/*", cut)
    await page.set_input_files("#file-hukou", file)
    await until(page, "document.querySelector('#material-hukou .progress').textContent.includes('正在重试')")
    await page.close()

    page = await context.new_page()
    await page.goto(url)
    page.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    await page.set_input_files("#file-hukou", file)
    await until(page, "document.querySelector('#material-hukou').textContent.includes('户口簿.png')")
    assert len(sent) == len(set(sent)) == pieces, "each piece went once, over both pages"
    assert "已上传" in str(await page.text_content("#material-hukou h2"))
    assert await fits(page)
    await context.close()
