"""The desk's pages beside the list: leave, handing over, samples, supervision; each with the API's own guards, without script."""

from datetime import timedelta
from types import SimpleNamespace

import pytest

from app.cases import auto_decision
from app.cases.drafts import Save
from app.cases.model import State
from app.kernel.clock import today, utc_now
from app.kernel.events import new_event
from tests.app.cases import test_routing_auto as rules
from tests.app.cases.handled import opened, staff_of, submitted
from tests.handlers.pages_browser import Browser, Page
from tests.handlers.pages_world import PASSWORD, World, prove, sign_in, world

__all__ = ["world"]  # the fixture

HEADS_ALONE = ("/staff/hand-over", "/staff/samples", "/staff/supervision/measures")


async def staff(world: World, account: str) -> Browser:
    browser = world.browser()
    page = await browser.get("/staff/tasks")
    page = await browser.submit(page, "/staff/sign-in", account=account, password=PASSWORD)
    assert page.path == "/staff/tasks", page.text
    return browser


async def posted(browser: Browser, path: str, **fields: str) -> Page:
    """Send fields that no form of the page holds: what somebody would who knows the address."""
    page = await browser.get("/staff/leave")
    token = next(value for form in page.forms for name, value in form.values if name == "_xsrf")
    return await browser.post(path, {"_xsrf": token, **fields})


@pytest.fixture
async def office(world: World) -> SimpleNamespace:
    return SimpleNamespace(
        hall=world.hall,
        clerk=await staff(world, "clerk.sg-rsj"),
        head=await staff(world, "head.sg-rsj"),
        other=await staff(world, "head.sg-mzj"),
        superior=await staff(world, "head.sg-zsj"),
        world=world,
    )


async def test_every_page_is_for_whom_the_api_is_and_takes_garbage_calmly(office: SimpleNamespace) -> None:
    for path in ("/staff/leave", "/staff/supervision", *HEADS_ALONE):
        stranger = await office.world.browser().get(path)
        assert stranger.path.startswith("/staff/sign-in"), path
        assert (await office.head.get(path)).status == 200, path
        assert (await office.clerk.get(path)).status == (403 if path in HEADS_ALONE else 200), path
    shown = await office.clerk.get("/staff/leave")
    assert not set(HEADS_ALONE) & set(shown.links) and "/staff/supervision" in shown.links, "navigation by role"
    assert set(HEADS_ALONE) <= set((await office.head.get("/staff/leave")).links)
    for path, status in (
        ("/staff/supervision?tab=x&card=blue&cursor=%27%22", 200),
        ("/staff/samples?state=x&cursor=card_1", 200),
        ("/staff/hand-over?from=%3Cb%3E", 200),
        ("/staff/hand-over?from=clerk.sg-mzj", 200),
        ("/staff/supervision/measures?from=2026-02-30", 422),
        ("/staff/supervision/measures?from=2026-03-02&to=2026-03-01", 422),
        ("/staff/supervision/measures?from=2020-01-01&to=2026-01-01", 422),
        ("/staff/supervision/measures?agency=sg-mzj", 403),
        ("/staff/samples/case_00000000000000000000000000", 200),  # a form's address in the browser's bar: back to the list
    ):
        page = await office.head.get(path)
        assert page.status == status, (path, page.status)
        assert "<b>" not in page.text
    assert "本单位没有这个账号" in (await office.head.get("/staff/hand-over?from=clerk.sg-mzj")).text


async def test_a_leave_is_said_for_oneself_and_by_the_head_for_colleagues_and_taken_back(office: SimpleNamespace) -> None:
    days = {"from": today().isoformat(), "until": (today() + timedelta(days=3)).isoformat()}
    page = await office.clerk.get("/staff/leave")
    assert "account" not in page.form("/staff/leave").names, "a clerk's own alone"
    refused = await office.clerk.submit(page, "/staff/leave", cover="clerk.sg-rsj", **days)
    assert refused.status == 422 and "不能由本人代理" in refused.text and days["until"] in refused.html
    page = await office.clerk.submit(page, "/staff/leave", cover="head.sg-rsj", **days)
    assert page.status == 200 and "收回" in page.text
    assert (await posted(office.clerk, "/staff/leave", account="head.sg-rsj", cover="clerk.sg-rsj", **days)).status == 403
    assert (await posted(office.clerk, "/staff/leave/end", account="head.sg-rsj")).status == 403
    assert (await posted(office.head, "/staff/leave/end", account="clerk.sg-mzj")).status == 422
    assert (await posted(office.head, "/staff/leave", cover="clerk.sg-mzj", **days)).status == 422, "another office's"
    assert (await posted(office.head, "/staff/leave", cover="clerk.sg-rsj", **{"from": "x", "until": ""})).status == 422
    assert "收回" not in (await office.other.get("/staff/leave")).text
    ended = await office.head.submit(await office.head.get("/staff/leave"), "/staff/leave/end")
    assert "现在没有人离岗" in ended.text
    assert await office.hall.staff.absences("sg-rsj") == []


async def test_what_a_colleague_has_is_given_to_another(office: SimpleNamespace) -> None:
    cases = [await submitted(office.hall, "injury_identify") for _ in range(3)]
    for case in cases:
        await office.hall.review.act(case.id, "claim", staff_of("sg-rsj"), {})
    page = await office.head.get("/staff/hand-over?from=clerk.sg-rsj")
    assert "名下有3件" in page.text.replace(" ", "")
    ticked = await office.head.submit(page, "/staff/hand-over", button=("only", "ticked"), account="head.sg-rsj", id=[cases[0].id])
    assert "转了1件" in ticked.text and "名下有2件" in ticked.text.replace(" ", "")
    nothing = await office.head.submit(ticked, "/staff/hand-over", button=("only", "ticked"), account="head.sg-rsj")
    assert nothing.status == 422, "nothing is ticked"
    outside = await office.head.submit(ticked, "/staff/hand-over", button=("only", ""), account="")
    assert outside.status == 422
    done = await office.head.submit(ticked, "/staff/hand-over", button=("only", ""), account="head.sg-rsj")
    assert "转了2件" in done.text and "没有没办结的办件" in done.text
    stored = [await office.hall.cases.store.load({"_id": case.id}) for case in cases]
    assert {case.assignee for case in stored} == {"head.sg-rsj"}
    fields = {"from": "head.sg-rsj", "account": "clerk.sg-rsj", "only": ""}
    assert (await posted(office.clerk, "/staff/hand-over", **fields)).status == 403
    other = await posted(office.other, "/staff/hand-over", **{**fields, "account": "clerk.sg-mzj"})
    assert "转了0件" in other.text, "of the own office alone"


async def test_a_sample_shows_what_the_rules_saw_to_the_head_and_to_the_applicant(
    office: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_decision, "SAMPLE_PERCENT", 100)
    draft = await rules.ready(office.hall)
    case = await office.hall.cases.submit(draft.id, draft.owner_id)
    assert case.state is State.COMPLETED
    page = await office.head.get("/staff/samples")
    number = draft.form["id_number"]
    assert case.number in page.text and "与实名认证的一致" in page.text
    assert number not in page.html and "张示例" not in page.html, "masked"
    assert case.number not in (await office.other.get("/staff/samples")).text
    path = f"/staff/samples/{case.id}"
    refused = await office.head.submit(page, path, finding="wrong", note="")
    assert refused.status == 422 and "请写明问题" in refused.text
    assert (await posted(office.clerk, path, finding="in_order")).status == 403
    assert (await posted(office.other, path, finding="in_order")).status == 404
    assert (await posted(office.head, path, finding="perhaps")).status == 422
    await office.head.submit(page, path, finding="wrong", note="年龄要再核")
    assert case.number not in (await office.head.get("/staff/samples")).text
    done = await office.head.get("/staff/samples?state=done")
    assert "年龄要再核" in done.text and "有问题" in done.text
    assert (await posted(office.head, path, finding="in_order")).status == 409, "once"
    read = await office.hall.database["audit"].find_one({"action": "sample.list", "actor": "head.sg-rsj"})
    assert read is not None

    # The applicant: by which rules, on which data, and that a person can look again.
    resident = await sign_in(office.world)
    view = await office.hall.cases.view(await office.hall.cases.get(case.id, case.owner_id))
    assert view["automatic"]["version"] == 1 and len(view["automatic"]["facts"]) == 4 and "auto" not in view
    await office.hall.database["cases"].update_one({"_id": case.id}, {"$set": {"owner_id": await owner_of(office, resident)}})
    seen = await resident.get(f"/cases/{case.id}")
    assert "是怎样自动办好的" in seen.text and "重新核对" in seen.text and number not in seen.html


@pytest.mark.parametrize(("by_person", "state", "said"), [("1", State.SUBMITTED, "您选了请工作人员审核"), ("", State.COMPLETED, "是怎样自动办好的")])
async def test_the_applicant_chooses_between_rules_and_a_person_on_the_last_page(
    office: SimpleNamespace, by_person: str, state: State, said: str
) -> None:
    resident = await sign_in(office.world)
    await prove(office.world, resident, name="何示例")
    hall, owner = office.hall, await owner_of(office, resident)
    person = await hall.identity.resident(owner)
    case = await opened(hall, "unemployment_register", owner)
    form = {"name": person.name, "id_number": person.id_number}
    case = await hall.cases.drafts.save(case.id, owner, Save(form, {}, case.version, merge=True))
    await hall.cases.put_licence(case.id, owner, "id_card", await rules.id_card(hall, owner))
    check = await resident.get(f"/cases/{case.id}/check")
    assert "不会由机器拒绝您" in check.text and "第二十四条" in check.text
    page = await resident.submit(check, "/check", by_person=by_person)
    stored = await hall.cases.store.load({"_id": case.id})
    assert (stored.state, stored.by_person) == (state, bool(by_person)), stored.auto
    assert said in page.text, page.text


async def owner_of(office: SimpleNamespace, resident: Browser) -> str:
    newest = await office.hall.database["residents"].find_one({}, sort=[("_id", -1)])
    assert newest is not None and (await resident.get("/me")).status == 200
    return str(newest["_id"])


async def test_cards_are_counted_settled_by_the_head_and_passed_on(office: SimpleNamespace) -> None:
    case = await submitted(office.hall, "injury_identify")
    red = new_event(
        "case.deemed_accepted",
        subject=("case", case.id),
        owner_id=case.owner_id,
        at=utc_now() - timedelta(days=30),
        data={
            "card": "red", "number": case.number, "item_code": case.item_code, "item_name": case.item_name, "version": case.version,
            "agency_id": case.agency_id, "agency_name": case.agency_name, "due_on": "2026-11-20",
        },
    )  # fmt: skip
    await office.hall.cards.note(red)
    page = await office.head.get("/staff/supervision?card=red")
    assert "逾期没有告知" in page.text and "张监察卡没处理" in page.text, "counted in the navigation"
    assert case.number not in (await office.clerk.get("/staff/supervision")).text, "a red card is the head's"
    card_id = f"card_{red.id.rpartition('_')[2]}"
    path = f"/staff/supervision/{card_id}/handle"
    assert (await posted(office.clerk, path, note="已经处理了")).status == 403
    assert (await posted(office.other, path, note="已经处理了")).status == 404
    short = await office.head.submit(page, path, note="x")
    assert short.status == 422 and short.text.count("处理") > 1
    await office.hall.cards.escalate_due()
    passed = await office.superior.get("/staff/supervision?tab=escalated")
    assert case.number in passed.text and f"/staff/cases/{case.id}" not in passed.links, "another office's case is no link"
    settled = await office.head.submit(page, path, note="已电话说明并补办受理")
    assert settled.path == "/staff/supervision" and case.number not in settled.text
    again = await posted(office.head, path, note="再处理一次")
    assert again.status == 409 and "已经处理过" in again.text
    assert "已电话说明" in (await office.head.get("/staff/supervision?tab=handled")).text
    measures = await office.superior.get("/staff/supervision/measures?agency=sg-rsj&from=2026-10-15")
    assert measures.status == 200 and "逾期视为受理" in measures.text and "meter" in [tag for tag, _given in measures.tags]
