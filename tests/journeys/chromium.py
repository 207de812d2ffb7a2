"""A real Chromium for the tests of what the scripts of the pages do; `HALL_CHROMIUM` names one that is not on PATH."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.journeys.stories import a_name

PHONE = {"width": 360, "height": 740}


def path() -> str | None:
    """Return where Chromium is, or None."""
    found = (os.environ.get("HALL_CHROMIUM"), *(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")))
    return next((one for one in found if one), None)


needed = pytest.mark.skipif(path() is None, reason="no Chromium on PATH, and HALL_CHROMIUM names none")


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path(), args=["--no-sandbox"])
        yield browser
        await browser.close()


async def phone(browser: Browser) -> BrowserContext:
    """Return a phone of a new person: 360 pixels, touch, its own cookies and storage."""
    context = await browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, locale="zh-CN")
    context.set_default_timeout(20_000)
    return context


async def draft(context: BrowserContext, url: str, alias: str, **answers: str) -> Page:
    """Sign somebody new in at the stand-in, begin an application as its page asks, and return the page with the form."""
    page = await context.new_page()
    await page.goto(f"{url}/sign-in/wechat/start?next=/apply/{alias}")
    await page.fill("#name", a_name())
    await page.click("button.main")
    await page.wait_for_url(f"{url}/apply/*")
    for key, value in answers.items():
        await page.check(f'[name="q.{key}"][value="{value}"]')
    await page.select_option("#division", "440203")
    await page.click("form.card button.btn")
    await page.wait_for_url(f"{url}/cases/*/edit")
    return page


async def until(page: Page, script: str) -> None:
    """Wait until an expression holds on the page. (The pages forbid `eval`, which wait_for_function of the library would need.)"""
    for _ in range(200):
        if await page.evaluate(script):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{script} did not come: {await page.text_content('main')}")


async def says(page: Page, text: str) -> None:
    """Wait until the line under the form says something."""
    await until(page, f"document.getElementById('saved').textContent.includes('{text}')")


async def saved(page: Page) -> None:
    """Wait until the server has everything that stands on the form: nothing of this tab lies in the browser any more."""
    await until(
        page,
        "document.getElementById('saved').textContent.startsWith('已保存') && !localStorage.getItem("
        "'hall.draft.' + document.querySelector('[data-form]').dataset.form + '.' + sessionStorage.getItem('hall.tab'))",
    )


async def on_server(page: Page) -> dict[str, list[str]]:
    """Return by name what a browser without script and storage would find in the form now: what the server has."""
    html = await page.evaluate("fetch(location.pathname).then((answer) => answer.text())")
    read = """(html) => {
        const form = new DOMParser().parseFromString(html, 'text/html').querySelector('[data-form]');
        const found = {};
        for (const [name, value] of new FormData(form)) if (/^[fq][.]/.test(name)) (found[name] ??= []).push(value);
        return found;
    }"""
    return dict(await page.evaluate(read, html))
