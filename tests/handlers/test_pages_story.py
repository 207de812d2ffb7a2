"""The pages on real servers, without script: the whole story, forgery, foreign text, other people's pages."""

import asyncio
import re
from typing import Any

from app.catalogue.model import visible_fields
from app.kernel.ids import ulid
from commands.story import id_number, picture, sample_value
from tests.handlers.pages_world import ANSWERS, World, checked, clerk, draft, numbers, paid, prove, sign_in, submitted, until, world

__all__ = ["world"]  # the fixture

FIRST_SCREEN_BYTES = 30_000
NASTY = "<script>alert(1)</script>\"'&{{7*7}}"


async def test_the_whole_story_without_script(world: World) -> None:
    resident = await sign_in(world)
    case = await submitted(world, resident)
    assert "等待缴费" in case.text
    order = await paid(world, resident, case)
    assert "付款成功" in order.text and "刷新" not in order.text
    assert order.text.index("回到办件") < order.text.index("看收据")
    receipt = await resident.get(order.path + "/receipt")
    assert "<svg" in receipt.html and "40.00" in receipt.text and "丢失补领工本费" in receipt.text and "付款单号" in receipt.text
    code = re.search(r"核验码\s*([A-Z0-9]{8})", receipt.text)
    number = re.search(r"收据号\s*(R[A-Z0-9]+)", receipt.text)
    assert code and number
    stranger = world.browser()
    checked = await stranger.get(f"/receipts/{number[1]}?code={code[1]}")
    assert "已核验" in checked.text and "陈" not in checked.text
    unknown = await stranger.get(f"/receipts/{number[1]}?code=AAAAAAAA")
    assert unknown.status == 404 and "核验码" in unknown.text and "校验码" not in unknown.text

    await until(resident, case.path, "等待受理")
    staff = await clerk(world)
    tasks = await staff.get("/staff/tasks")
    link = next(link for link in tasks.links if link.endswith(case.path.split("/")[-1]))
    desk = await staff.get(link)
    assert "SG20261100001" in desk.text and desk.text.index("受理", desk.text.index("可以做的")) < desk.text.index("一次性告知补正")
    asked = [given["value"] for tag, given in desk.tags if tag == "input" and given.get("name") == "key"]
    assert "hukou" in asked and "form" not in asked  # nobody can hand in what the hall makes itself
    refused = await staff.submit(desk, "/request_supplement", key=[], reason__hukou="看不清")
    assert refused.status == 422
    desk = await staff.submit(desk, "/request_supplement", key="hukou", reason__hukou="照片看不清，请重拍")
    page = await until(resident, case.path, "照片看不清，请重拍")
    assert "要重交" in page.text
    check = await resident.get(case.path + "/check")
    assert "40 元（已缴，不用再缴）" in check.text and "要重交" in check.text and "通知您缴费" not in check.text
    unready = await resident.submit(check, "/check")
    assert unready.status == 422 and "请补交" in unready.text
    page.forms = [form for form in page.forms if form.multipart]
    await resident.submit(page, "/materials", upload=("重拍.png", picture(90)))
    check = await resident.get(case.path + "/check")
    assert "要重交" not in check.text
    page = await resident.submit(check, "/check")
    assert "等待受理" in page.text

    desk = await staff.submit(await staff.get(link), "/accept")
    assert "开始审查" in desk.text and "经办：我" in desk.text
    desk = await staff.submit(desk, "/decide", outcome="approved", opinion="材料齐全")
    assert ("method", "express") in desk.form("/deliver").values  # as the resident wished on the form
    assert "送达方式窗口领取邮寄邮件单号" in desk.text  # the ways of the item and no other: it has no electronic licence
    desk = await staff.submit(desk, "/deliver", method="express", tracking="EMS123")
    page = await until(resident, case.path, "EMS123")
    assert "已办结" in page.text
    assert (await resident.post(case.path + "/evaluation", {})).status == 403  # no token
    page = await resident.submit(page, "/evaluation", level="1", text="很快")
    assert "您评价了“非常满意”" in page.text and "已办结，谢谢您的评价。" in page.text and "有人核实" not in page.text
    assert "已结束" in (await staff.get("/staff/tasks?state=completed")).text
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
    assert "第二个窗口" in older.text and "另一台设备上填的是" in older.text
    saved = await browser.submit(older, "/edit", button=("do", "save"))
    assert dict(saved.form("/edit").values)["f.name"] == "第一个窗口"
    given_up = await browser.submit(older, "/edit", button=("do", "save"), f__name="第三次", use__f__name="theirs")
    assert dict(given_up.form("/edit").values)["f.name"] == "第一个窗口"


async def test_an_older_page_takes_nothing_back_that_another_device_has_saved(world: World) -> None:
    browser = await sign_in(world)
    page = await draft(browser)
    older = await browser.get(page.path)
    await browser.submit(page, "/edit", button=("do", "save"), f__name="甲", f__lost_date="2026-11-01")
    # The older page shows neither; it adds one answer, and what it never touched stays as the other has saved it.
    merged = await browser.submit(older, "/edit", button=("do", "save"), f__photo_code="SG1")
    values = dict(merged.form("/edit").values)
    assert (values["f.name"], values["f.lost_date"], values["f.photo_code"]) == ("甲", "2026-11-01", "SG1")
    # The page's script is told the same, so that its inputs follow.
    sent = [(name, "SG2" if name == "f.photo_code" else value) for name, value in older.form("/edit").values]
    async with browser.http.post(f"{world.url}{page.path}", data=sent, headers={"X-Hall-Autosave": "1"}) as answer:
        told = await answer.json()
    assert answer.status == 409 and [row["name"] for row in told["conflicts"]] == ["f.photo_code"]
    assert told["elsewhere"]["f.name"] == ["甲"] and "SG1" in told["conflicts"][0]["html"]
    sent = [("use.f.photo_code", "theirs"), *sent]
    async with browser.http.post(f"{world.url}{page.path}", data=sent, headers={"X-Hall-Autosave": "1"}) as answer:
        assert (answer.status, (await answer.json())["version"]) == (200, told["version"])


async def test_a_case_that_is_open_elsewhere_is_shown_before_another_is_begun_and_before_it_is_handed_in(world: World) -> None:
    browser = await sign_in(world)
    first_tab, second_tab = await browser.get("/apply/id_card_lost"), await browser.get("/apply/id_card_lost")
    third_tab = await browser.get("/apply/id_card_lost")
    begun, same = await asyncio.gather(
        *(browser.submit(tab, tab.forms[-1].action, q__age="adult", division="440203") for tab in (first_tab, second_tab))
    )
    assert begun.path == same.path and begun.path.endswith("/edit"), "two tabs at once begin one draft"
    asked = await browser.submit(third_tab, third_tab.forms[-1].action, q__age="adult", division="440204")
    assert asked.status == 409 and "没交的草稿" in asked.text and begun.path in asked.links
    another = await browser.submit(asked, asked.forms[-1].action, q__age="adult", division="440203")
    assert another.path != begun.path and another.path.endswith("/edit")
    check = await browser.get(another.path.replace("/edit", "/check"))
    assert "还有一件没办完" in check.text
    assert begun.path.removesuffix("/edit") in check.links


async def test_two_taps_hand_in_one_case_and_what_was_handed_in_meanwhile_is_shown_first(world: World) -> None:
    browser = await sign_in(world)
    await prove(world, browser)
    checks = [await checked(world, browser) for _ in range(2)]
    taps = await asyncio.gather(*(browser.submit(checks[0], "/check") for _ in range(3)))
    case_path = checks[0].path.removesuffix("/check")
    assert {(tap.status, tap.path) for tap in taps} == {(200, case_path)}
    case_id = case_path.split("/")[-1]
    told = await world.hall.database["events"].count_documents({"subject_id": case_id, "name": "case.submitted"})
    case = await world.hall.cases.store.load({"_id": case_id})
    assert told == 1 and [entry.event for entry in case.timeline].count("case.submitted") == 1
    # The other page stood open before that: it asks once more, and a second tap is an answer.
    asked = await browser.submit(checks[1], "/check")
    assert asked.status == 409 and "刚刚已经交过一件" in asked.text and case_path in asked.links
    assert (await browser.submit(asked, "/check")).path == checks[1].path.removesuffix("/check")


async def test_what_follows_from_an_id_number_is_shown_not_asked(world: World) -> None:
    browser = await sign_in(world)
    page = await browser.get("/apply/elder_allowance")
    page = await browser.submit(page, page.forms[-1].action, division="440203")
    assert "f.age" not in page.form("/edit").names
    saved = await browser.submit(page, "/edit", button=("do", "save"), f__id_number=id_number(5))
    assert "还没有满80周岁" in saved.text and 'data-computed="age">' in saved.html


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
        "/pay/traffic_fine", "/me/notices", "/me/notices/quiet", "/staff/sign-in", "/staff/sign-out",
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


async def test_the_next_page_says_once_what_was_proven_and_joined(world: World) -> None:
    phone = f"136{next(numbers):08d}"
    first, second = await sign_in(world), await sign_in(world, "alipay")
    for browser, is_joined in ((first, False), (second, True)):
        page = await browser.submit(await browser.get("/me/phone?level=2&next=/me"), "", phone=phone)
        assert "演示环境：短信在这里看" in page.text
        page = await browser.submit(page, "", code=await world.sms_code(browser, phone))
        assert page.path == "/me" and "✓ 已核验" in page.text and ("账号已合并" in page.text) is is_joined
        again = await browser.get("/me")
        assert "✓ 已核验" not in again.text and "账号已合并" not in again.text


async def test_sms_sign_in_and_a_fine(world: World) -> None:
    browser = world.browser()
    phone = f"137{next(numbers):08d}"
    page = await browser.get("/pay/traffic_fine")
    page = await browser.submit(page, "/sign-in/sms/code", phone=phone)
    bad = await browser.submit(page, "/sign-in/sms", code="000000")
    assert bad.status == 401 and "验证码" in bad.text
    page = await browser.submit(page, "/sign-in/sms", code=await world.sms_code(browser, phone))
    assert page.path == "/pay/traffic_fine" and "去核验身份" in page.text
    page = await browser.get("/me/identity?level=3&next=/pay/traffic_fine")
    page = await browser.submit(page, "", name="张示例", id_number=id_number(next(numbers)))
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
        "/checks/social_insurance", "/halls", "/pay", "/pay/water", "/progress", "/apply/id_card_lost", "/me/phone",
        "/me/real-name", "/me/face",
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


def as_sent(field: dict[str, Any], value: Any) -> dict[str, Any]:
    """Return what a browser sends for an answer to a field."""
    name = f"f.{field['key']}"
    if field["type"] == "boolean":
        return {name: "true" if value else "false"}
    if field["type"] == "table":
        return {f"{name}.0.{place}": value[0][column] for place, column in enumerate(field["columns"])}
    return {name: value if isinstance(value, list) else str(value)}


async def test_the_form_of_every_item_can_be_filled_in(world: World) -> None:
    browser = await sign_in(world)
    kinds = set()
    for item in world.hall.catalogue.snapshot.items:
        if item["service_kind"] != "handle":
            continue
        page = await browser.get(f"/apply/{item['alias']}")
        answers = {f"q.{row['key']}": row["options"][0]["value"] for row in item["situations"]}
        page = await browser.submit(page, page.forms[-1].action, **answers, division="440203")
        fields = visible_fields(item, {key.removeprefix("q."): value for key, value in answers.items()})
        kinds |= {field["type"] for field in fields}
        sent: dict[str, Any] = {}
        for field in fields:
            if "computed" not in field:
                sent |= as_sent(field, sample_value(field, 7))
        done = await browser.submit(page, "/edit", button=("do", "next"), **sent)
        assert done.path.endswith("/materials"), (item["alias"], done.text[:600])
        kept = dict((await browser.get(page.path)).form("/edit").values)
        assert all(kept[name] == value for name, value in sent.items() if isinstance(value, str)), item["alias"]
    assert len(kinds) == 21
