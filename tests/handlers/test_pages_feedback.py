"""评价, 回访 and 投诉 on the pages, without script: a bad rating is called back and settled, a complaint is answered, strangers see nothing."""

import re
from typing import Any

from tests.handlers.pages_world import PASSWORD, World, sign_in, submitted, until, world

__all__ = ["world"]  # the fixture


async def signed_in_staff(world: World, account: str) -> Any:
    browser = world.browser()
    page = await browser.get("/staff/sign-in")
    page = await browser.submit(page, "/staff/sign-in", account=account, password=PASSWORD)
    assert page.path == "/staff/tasks", page.text
    return browser


async def test_a_bad_rating_is_called_back_and_a_complaint_is_answered(world: World) -> None:
    resident, stranger = await sign_in(world), await sign_in(world)
    case = await submitted(world, resident)
    case_id = case.path.rsplit("/", 1)[-1]
    rated = await until(resident, "/ratings", "还没评")
    contact = next(link for link in rated.links if link.startswith("/ratings/con_"))
    page = await resident.get(contact)
    assert all(name in page.html for name in ("非常满意", "满意", "基本满意", "不满意", "非常不满意"))
    page = await resident.get(contact + "?level=4")
    bare = await resident.submit(page, contact, level="")
    assert bare.status == 422 and "请先选一个满意度" in bare.text
    page = await resident.submit(page, contact, tag=["办得慢"], text="<b>等了两个小时</b>")
    assert "您评价了“不满意”" in page.text and "<b>等了" not in page.html
    page = await resident.submit(page, "/follow-up", follow_up="后来又等了一小时")
    assert "后来又等了一小时" in page.text and "补充评价" not in page.text
    call_back = next(link for link in page.links if link.startswith("/call-backs/"))
    assert (await stranger.get(contact)).status == 404 and (await stranger.get(call_back)).status == 404

    handling = await signed_in_staff(world, "clerk.sg-gaj")
    assert "回访投诉" not in (await handling.get("/staff/tasks")).text
    assert (await handling.get("/staff/feedback")).status == 403
    head = await signed_in_staff(world, "head.sg-gaj")
    page = await head.get("/staff/feedback?kind=call_back")
    desk = await head.get(next(link for link in page.links if "/cbk_" in link))
    assert "等了两个小时" in desk.text
    empty = await head.submit(desk, "/contact", text="")
    assert empty.status == 422 and "请写明情况" in empty.html
    desk = await head.submit(desk, "/contact", text="已电话道歉")
    desk = await head.submit(desk, "/answer", text="窗口加了人")
    assert "等待整改" in desk.text
    page = await resident.get(call_back)
    assert "窗口加了人" in page.text
    page = await resident.submit(page, "/settle")
    assert "您说已经解决了" in page.text
    assert "后来又等了一小时" in (await head.get("/staff/feedback/ratings")).text

    page = await resident.get(f"/complaints/new?target=case:{case_id}")
    nothing = await resident.submit(page, "/complaints", target="")
    assert nothing.status == 422 and "请选择要投诉什么" in nothing.text
    page = await resident.submit(page, "/complaints", text="窗口中午没有人")
    assert page.path.startswith("/complaints/cmp_") and "等待受理" in page.text
    page = await resident.submit(page, "/add", text="下午也没有")
    assert (await stranger.get(page.path)).status == 404
    desk = await head.get("/staff/feedback/" + page.path.rsplit("/", 1)[-1])
    desk = await head.submit(desk, "/accept")
    await head.submit(desk, "/answer", text="已安排中午值班")
    page = await until(resident, "/inbox", "投诉有答复了")
    page = await resident.get(next(link for link in (await resident.get("/complaints")).links if "/cmp_" in link))
    page = await resident.submit(page, "/appeal", text="还是没有人")
    assert "由上级单位处理" in page.text
    assert (await head.get("/staff/feedback/" + page.path.rsplit("/", 1)[-1])).status == 404


async def test_a_consultation_at_a_window_is_rated_by_its_code(world: World) -> None:
    clerk, anybody = await signed_in_staff(world, "clerk.sg-gaj"), world.browser()
    assert (await anybody.get("/staff/consultations")).path.startswith("/staff/sign-in")
    page = await clerk.get((await clerk.get("/staff/intake")).path)
    assert "/staff/consultations" in page.links
    page = await clerk.get("/staff/consultations")
    page = await clerk.submit(page, "/staff/consultations", item_code="")
    assert "扫码评价" in page.text and "svg" in [tag for tag, _given in page.tags]
    tablet = next(link for link in page.links if link.startswith("/rate/"))
    rating = await anybody.get(tablet)
    assert "咨询" in rating.text
    path = tablet.split("?")[0]
    rating = await anybody.submit(rating, path, button=("level", "5"))
    rating = await anybody.submit(rating, path, text="<i>没说清楚</i>")
    assert "您评价了“非常不满意”" in rating.text and "单位负责人会核查" in rating.text
    kept = await world.hall.database["evaluations"].find_one({"contact_id": f"con_{path[6:32]}"})
    assert kept["channel"] == "tablet", "at the window's tablet from the first tap to the last"
    strange = await clerk.submit(await clerk.get("/staff/consultations"), "/staff/consultations", item_code="no_such")
    assert strange.status == 404
    head = await signed_in_staff(world, "head.sg-gaj")
    desk = await head.get("/staff/feedback?kind=call_back")
    shown = [await head.get(link) for link in desk.links if "/cbk_" in link]
    [order] = [page for page in shown if "没说清楚" in page.text]
    assert order.status == 200 and "没有留" in order.text and "<i>" not in order.html


async def test_one_address_rates_ten_conversations_a_day(world: World) -> None:
    anybody = world.browser()
    statuses = []
    for _ in range(12):
        async with anybody.http.post(f"{world.url}/v1/assistant", json={"text": "身份证丢了怎么办"}) as answer:
            code = (await answer.json())["rating_code"]
        async with anybody.http.post(f"{world.url}/v1/ratings/{code}", json={"level": 1}) as answer:
            statuses.append(answer.status)
    assert statuses == [200] * 10 + [429] * 2


async def test_the_code_on_a_receipt_rates_once_without_sign_in(world: World) -> None:
    resident = await sign_in(world)
    case = await submitted(world, resident)
    await until(resident, "/ratings", "还没评")
    code = await world.hall.feedback.code_of_intake(case.path.rsplit("/", 1)[-1])
    stranger = world.browser()
    page = await stranger.get(f"/rate/{code}?level=1")
    page = await stranger.submit(page, f"/rate/{code}", text="")
    assert "您评价了“非常满意”" in page.text
    again = await stranger.get(f"/rate/{code}")
    assert "您评价了“非常满意”" in again.text and not [form for form in again.forms if "/rate/" in form.action]
    wrong = code[:-1] + ("0" if code[-1] != "0" else "1")
    assert (await stranger.get(f"/rate/{wrong}")).status == 404
    assert re.search(r"非常满意", (await resident.get("/ratings")).text)
