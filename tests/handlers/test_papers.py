"""Papers over HTTP: the owner, the agency, a stranger with the paper in hand, and everybody else; progress without sign-in."""

import re

import pytest

from handlers.guesses import WRONG_AT_MOST
from tests.app.cases.test_papers import read
from tests.handlers.pages_world import World, clerk, prove, sign_in, submitted, world
from tests.handlers.serving import Site

__all__ = ["world"]  # the fixture


async def fetched(browser, path):
    async with browser.http.get(browser.base_url + path, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("Content-Type", ""), await answer.read()


async def test_whose_paper_it_is_and_who_can_check_it(world: World) -> None:
    resident = await sign_in(world)
    await prove(world, resident)
    page = await submitted(world, resident)
    link = re.search(rf'href="({page.path}/papers/[\w-]+-SQ1\.pdf)"', page.html)
    assert link and "收件凭证" in page.text and "下一步：" in page.text and "12345" in page.text, page.text
    status, kind, pdf = await fetched(resident, link[1])
    text, check_url = read(pdf)
    assert (status, kind) == (200, "application/pdf") and "申请表" in text and "陈阿婆" in text
    assert (await fetched(await sign_in(world, "alipay"), link[1]))[0] == 404
    assert (await fetched(world.browser(), link[1]))[0] in (302, 303)
    assert (await fetched(await clerk(world), "/staff" + link[1]))[::2] == (200, pdf)
    assert (await fetched(await clerk(world, "sg-jj"), "/staff" + link[1]))[0] == 404

    stranger = world.browser()
    path = check_url.removeprefix(world.url)
    checked = await stranger.get(path)
    assert checked.status == 200 and "已核验" in checked.text and "有效" in checked.text and "陈" not in checked.text
    number, code = re.match(r"/papers/([\w-]+)\?code=(\w+)", path).groups()
    site = Site(world.url, stranger.http)
    public = await site.get(f"/v1{path}")
    assert (public.status, public.json["title"], public.json["state"]) == (200, "申请表", "in_force") and "陈" not in str(public.json)
    asked = await stranger.get(f"/papers/{number}")
    assert asked.status == 200 and "核验码" in asked.text
    wrong = [await site.get(f"/v1/papers/{number}?code={'A' * 8}"), await site.get("/v1/papers/nothing?code=AAAAAAAA")]
    shapes = [{key: value for key, value in answer.json.items() if key not in ("request_id", "instance")} for answer in wrong]
    assert [answer.status for answer in wrong] == [404, 404] and shapes[0] == shapes[1]
    assert (await stranger.get(f"/papers/{number}?code=AAAAAAAA")).status == 404


@pytest.mark.parametrize("kind", ["paper-codes", "query-codes"])
async def test_whoever_guesses_is_stopped(world: World, kind: str) -> None:
    browser = world.browser()
    site, redis, key = Site(world.url, browser.http), world.hall.redis, f"limit:{kind}:{{127.0.0.1}}"

    async def guess():
        if kind == "paper-codes":
            return (await site.get("/v1/papers/1-SQ1?code=AAAAAAAA")).status
        return (await site.call("POST", "/v1/progress", json={"case_number": "1", "query_code": "AAAAAAAA"})).status

    await redis.delete(key)
    try:
        assert {await guess() for _ in range(WRONG_AT_MOST)} == {404}
        assert await guess() == 429
        shown = await browser.get("/papers/1-SQ1?code=AAAAAAAA") if kind == "paper-codes" else None
        if shown is None:
            shown = await browser.submit(await browser.get("/progress"), "/progress", number="1", code="AAAAAAAA")
        assert shown.status == 429 and "十分钟后再试" in shown.text
    finally:
        await redis.delete(key)


async def test_number_and_query_code_are_taken_as_they_are_copied(world: World) -> None:
    case = await submitted(world, await sign_in(world))
    stored = await world.hall.database["cases"].find_one({"_id": case.path.rsplit("/", 1)[-1]})
    browser = world.browser()
    site, number, code = Site(world.url, browser.http), stored["number"], stored["query_code"]
    for given in ((number, code), (f" {number[:20]} {number[20:]}\n", f" {code.lower()} "), (number.lower(), f"{code[:4]} {code[4:]}")):
        answer = await site.call("POST", "/v1/progress", json={"case_number": given[0], "query_code": given[1]})
        assert (answer.status, answer.json["number"]) == (200, number), given
    await world.hall.redis.delete("limit:query-codes:{127.0.0.1}")
