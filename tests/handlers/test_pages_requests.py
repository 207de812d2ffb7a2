"""The pages beside the straight way, without script: a material promised and brought later, an answer put right, a refusal, once more."""

import re
from datetime import timedelta
from typing import Any

from app.catalogue.model import visible_fields
from app.kernel.clock import utc_now
from commands.story import picture, sample_value
from tests.app.cases.handled import set_clock
from tests.handlers.pages_world import World, clerk, prove, sign_in, until, world

__all__ = ["world"]  # the fixture


async def food_draft(world: World) -> tuple[Any, Any]:
    """A filled-in draft for a food licence, at its materials; and the resident's browser."""
    resident = await sign_in(world)
    await prove(world, resident)
    page = await resident.get("/apply/food_licence")
    page = await resident.submit(page, page.forms[-1].action, q__form="sale", q__agent="no", division="440203")
    item = world.hall.catalogue.item("food_licence")
    answers: dict[str, Any] = {}
    for field in visible_fields(item, {"form": "sale", "agent": "no"}):
        value = sample_value(field)
        answers[f"f__{field['key']}"] = value if isinstance(value, list) else str(value)
    page = await resident.submit(page, "/edit", button=("do", "next"), **answers)
    assert page.path.endswith("/materials"), page.text
    return resident, page


async def with_files(resident: Any, page: Any, leave_out: tuple[str, ...]) -> Any:
    path = page.path
    for key in ("licence", "layout", "rules", "manager"):
        if key in leave_out:
            continue
        page = await resident.get(path)
        page.forms = [form for form in page.forms if ("key", key) in form.values and form.multipart]
        await resident.submit(page, "/materials", upload=(f"{key}.png", picture(len(key))))
    return await resident.get(path)


async def test_promised_accepted_brought_later_corrected_refused_and_once_more(world: World) -> None:
    resident, page = await food_draft(world)
    page.forms = [form for form in page.forms if form.action.endswith("/promises") and ("key", "rules") in form.values]
    assert len(page.forms) == 1, "only what may come later can be promised"
    page = await resident.submit(page, "/promises")
    assert "承诺后补" in page.text
    page = await with_files(resident, page, ("rules",))
    check = await resident.get(page.path.replace("/materials", "/check"))
    assert "承诺后补" in check.text
    case = await resident.submit(check, "/check")
    assert "等待受理" in case.text

    # A correction: only what differs is asked for.
    page = await resident.get(case.path + "/correction")
    page = await resident.submit(page, "/correction", f__place="韶关市武江区改正路2号", reason="门牌写错了")
    assert "更正申请已交" in page.text, page.text
    staff = await clerk(world, "sg-scjg")
    link = f"/staff/cases/{case.path.split('/')[-1]}"
    desk = await staff.get(link)
    assert "改正路2号" in desk.text and "门牌写错了" in desk.text
    desk = await staff.submit(desk, "/correct", approve="true")
    assert "已按申请更正" in desk.text
    desk = await staff.submit(desk, "/pre_review")
    assert "预审通过" in desk.text
    desk = await staff.submit(desk, "/accept")
    page = await until(resident, case.path, "您承诺以后补的，请按时交来")
    assert "改正路2号" not in page.text, "a case's page shows no answers"
    refused = await staff.submit(desk, "/decide", outcome="approved", opinion="")
    assert refused.status == 409 and "容缺" in refused.text

    page.forms = [form for form in page.forms if form.multipart]
    page = await resident.submit(page, "/materials", upload=("制度.png", picture(50)))
    page = await resident.get(case.path)
    assert "您承诺以后补的" not in page.text and "已补交承诺的材料" in page.text
    desk = await staff.submit(await staff.get(link), "/decide", outcome="denied", opinion="场所不符合要求")
    page = await until(resident, case.path, "不同意的")
    assert "韶关市人民政府" in page.text and "60日" in page.text

    draft = await resident.submit(page, "/again")
    assert re.fullmatch(r"/cases/case_\w+/edit", draft.path), draft.path
    assert any(given.get("value") == "韶关市武江区改正路2号" for tag, given in draft.tags if tag == "input")
    assert "layout.png" in (await resident.get(draft.path.replace("/edit", "/materials"))).text


async def test_not_accepted_says_why_by_which_rule_and_where_to_go(world: World) -> None:
    resident, page = await food_draft(world)
    await with_files(resident, page, ())
    case = await resident.submit(await resident.get(page.path.replace("/materials", "/check")), "/check")
    staff = await clerk(world, "sg-scjg")
    desk = await staff.get(f"/staff/cases/{case.path.split('/')[-1]}")
    await staff.submit(
        desk,
        "/reject",
        reason="经营场所不在本市",
        rule="食品经营许可和备案管理办法第七条",
        right_body="清远市市场监督管理局",
    )
    page = await until(resident, case.path, "不予受理")
    for said in ("经营场所不在本市", "第七条", "清远市市场监督管理局", "行政复议", "重新申请"):
        assert said in page.text, said


async def test_others_can_neither_correct_nor_repeat_a_case(world: World) -> None:
    resident, page = await food_draft(world)
    stranger = await sign_in(world)
    path = page.path.replace("/materials", "")
    assert (await stranger.get(path + "/correction")).status == 404
    own = await stranger.get("/me")
    token = next(value for form in own.forms for name, value in form.values if name == "_xsrf")
    for action in ("/correction", "/again", "/promises"):
        answer = await stranger.post(path + action, {"_xsrf": token, "once": "0" * 26, "key": "rules"})
        assert answer.status == 404, action


async def test_a_hearing_is_told_asked_for_and_held_with_its_record(world: World) -> None:
    resident, page = await food_draft(world)
    page = await with_files(resident, page, ())
    case = await resident.submit(await resident.get(page.path.replace("/materials", "/check")), "/check")
    case_id = case.path.split("/")[-1]
    await world.hall.database["cases"].update_one({"_id": case_id}, {"$set": {"rules.hearing": "on_application"}})
    staff = await clerk(world, "sg-scjg")
    desk = await staff.submit(await staff.get(f"/staff/cases/{case_id}"), "/accept")
    refused = await staff.submit(desk, "/decide", outcome="denied", opinion="场所不符合要求")
    assert refused.status == 409 and "要求听证" in refused.text
    desk = await staff.submit(await staff.get(f"/staff/cases/{case_id}"), "/tell_hearing", reason="拟不予许可：场所不符合要求")

    page = await resident.get(case.path)
    assert "您有权要求听证" in page.text and "拟不予许可" in page.text and "您不用做什么" not in page.text
    page = await resident.submit(page, "/hearing", button=("wanted", "1"))
    assert "您已要求听证" in page.text
    desk = await staff.submit(desk, "/suspend", kind="hearing", days="8", reason="市民中心三楼，上午9时")
    assert "听证笔录" in desk.text
    refused = await staff.submit(desk, "/resume", record="申请人陈述了意见")
    assert refused.status == 422 and "才能举行" in refused.text
    set_clock(world.hall, utc_now() + timedelta(days=20))
    desk = await staff.submit(desk, "/resume", record="申请人陈述了意见")
    page = await resident.get(case.path)
    assert "听证已举行" in page.text and "申请人陈述了意见" in page.text


async def test_a_draft_of_an_item_that_was_withdrawn_says_so_and_shows_what_was_filled_in(world: World, monkeypatch) -> None:
    resident, page = await food_draft(world)
    check = page.path.replace("/materials", "/check")
    before = await resident.get(check)
    by_name = world.hall.catalogue.snapshot.by_name
    for name in (by_name["food_licence"]["code"], "food_licence"):
        monkeypatch.delitem(by_name, name)  # as after a publication without it
    refused = await resident.submit(before, "/check")
    assert refused.status == 409 and "已经停办" in refused.text and "12345" in refused.text
    assert "韶关市武江区" in (await resident.get(check)).text
