"""The window for all agencies, and what a notice asks for brought to a window: who may take in what, and what they see afterwards."""

from datetime import timedelta
from types import SimpleNamespace

import aiohttp
import pytest

from app.cases.errors import ActionNotAllowed
from app.cases.model import State
from app.identity import store as identity_store
from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from commands.story import id_number, picture
from tests.app.cases.handled import staff_of, submitted
from tests.handlers.pages_browser import Page
from tests.handlers.pages_world import PASSWORD, World, world
from tests.handlers.serving import Site
from tests.handlers.test_pages_desk import posted, staff
from tests.handlers.test_staff_desk import _seeds, at_window

__all__ = ["world"]  # the fixture

AGENCY = "sg-gaj"


@pytest.fixture
async def window(world: World) -> SimpleNamespace:
    """Clerks of two agencies, and one of the agency that runs the hall, whose window is for all."""
    site = Site(world.url, world.browser().http)
    accounts = {"police": "clerk.sg-gaj", "head": "head.sg-gaj", "traffic": "clerk.sg-jj", "general": "clerk.sg-zsj"}
    tokens = {who: (await world.hall.staff.login(account, PASSWORD))[0] for who, account in accounts.items()}

    async def call(who, method, path, body=None, **more):
        headers = {"Idempotency-Key": more.pop("key", new_id("key"))}
        return await site.call(method, path, token=tokens[who], headers=headers, **({} if body is None else {"json": body}), **more)

    return SimpleNamespace(call=call, hall=world.hall, world=world)


async def owed(window: SimpleNamespace) -> SimpleNamespace:
    """A case that waits for a supplement: its id, number, and the card of its applicant, who has proven their number."""
    case = await submitted(window.hall, "id_card_lost")
    card = {"name": "张示例", "id_number": id_number(next(_seeds))}
    sealed = identity_store.sealed_fields(window.hall.keys, case.owner_id, card)
    await window.hall.database["residents"].update_one({"_id": case.owner_id}, {"$set": sealed})
    missing = [{"key": "hukou", "reason": "看不清"}]
    await window.hall.review.act(case.id, "request_supplement", staff_of(AGENCY), {"missing": missing})
    return SimpleNamespace(id=case.id, owner_id=case.owner_id, body={"number": case.number, **card})


def files():
    data = aiohttp.FormData()
    data.add_field("file", picture(7), filename="户口簿.png", content_type="image/png")
    return data


async def test_what_a_notice_asks_for_is_brought_to_a_window_with_the_card(window: SimpleNamespace) -> None:
    case = await owed(window)
    path, opening = f"/staff/v1/intake/{case.id}", "/staff/v1/intake/supplements"
    assert (await window.call("police", "GET", path)).status == 404, "nobody's before the card was seen"
    for changes, status, code in (
        ({"id_number": id_number(next(_seeds))}, 404, "intake.no_such_supplement"),
        ({"name": "李示例"}, 404, "intake.no_such_supplement"),
        ({"number": "0"}, 404, "intake.no_such_supplement"),
        ({"id_number": "440203199001010010"}, 422, "validation.failed"),
        ({"number": ""}, 422, "validation.failed"),
    ):
        refused = await window.call("police", "POST", opening, case.body | changes)
        assert (refused.status, refused.json["code"]) == (status, code), changes
    other = await window.call("traffic", "POST", opening, case.body)
    assert (other.status, other.json["code"]) == (404, "intake.no_such_supplement"), "another agency's window"
    opened = await window.call("police", "POST", opening, case.body)
    assert opened.status == 200 and opened.json["state"] == "supplement_required", opened.json
    assert (await window.call("head", "GET", path)).status == 404, "the clerk who saw the card, nobody else"
    early = await window.call("police", "POST", f"{path}/submit", {"confirmed": True})
    assert early.status == 422 and [row["pointer"] for row in early.json["errors"]] == ["/materials/hukou"]
    assert (await window.call("police", "PUT", f"{path}/materials/hukou", data=files())).status == 200
    key = new_id("key")
    assert (await window.call("police", "POST", f"{path}/submit", {"confirmed": False})).status == 422
    first, again = [await window.call("police", "POST", f"{path}/submit", {"confirmed": True}, key=key) for _ in range(2)]
    assert (first.status, first.json["state"]) == (200, "submitted") and first.json == again.json
    stored = await window.hall.cases.store.load({"_id": case.id})
    assert stored.supplement["taken_in_by"] == "clerk.sg-gaj" and stored.window_accounts == {"clerk.sg-gaj"}
    assert [entry.title for entry in stored.timeline][-2:] == ["窗口收件", "已补交材料"]
    assert "clerk.sg-gaj" not in str(await window.hall.cases.view(stored)), "the applicant sees the agency, no person"
    assert (await window.call("police", "PATCH", path, {"form": {}, "version": 1})).status == 404, "the window has closed"
    assert (await window.call("police", "GET", f"{path}/receipt")).status == 200
    rows = await window.hall.database["audit"].find({"subject": case.id, "actor": "clerk.sg-gaj"}).to_list()
    actions = {row["action"] for row in rows}
    assert {"intake.supplement_refused", "intake.supplement", "intake.material", "intake.submit", "intake.receipt"} <= actions


async def test_the_window_for_a_supplement_closes_at_the_end_of_the_day(window: SimpleNamespace) -> None:
    case = await owed(window)
    assert (await window.call("police", "POST", "/staff/v1/intake/supplements", case.body)).status == 200
    window.hall.intake._clock = lambda: utc_now() + timedelta(days=1)
    try:
        for method, path, body in (("GET", "", None), ("POST", "/submit", {"confirmed": True}), ("GET", "/receipt", None)):
            assert (await window.call("police", method, f"/staff/v1/intake/{case.id}{path}", body)).status == 404, path
    finally:
        window.hall.intake._clock = utc_now
    # At home they may go on at any time, and then nothing says that a window took it in.
    await window.hall.cases.put_material(case.id, case.owner_id, "hukou", "a.png", picture(8))
    returned = await window.hall.cases.supplement(case.id, case.owner_id)
    assert "taken_in_by" not in returned.supplement and returned.window_accounts == frozenset()


async def test_who_has_proven_no_number_is_known_by_the_one_on_the_form(window: SimpleNamespace) -> None:
    case = await owed(window)
    await window.hall.database["residents"].update_one({"_id": case.owner_id}, {"$unset": {"id_number": "", "id_index": ""}})
    assert not (await window.hall.identity.resident(case.owner_id)).id_number
    form = (await window.hall.cases.store.load({"_id": case.id})).form
    assert (await window.call("police", "POST", "/staff/v1/intake/supplements", case.body)).status == 404
    card = {"name": form["name"], "id_number": form["id_number"]}
    assert (await window.call("police", "POST", "/staff/v1/intake/supplements", case.body | card)).status == 200


async def test_the_hall_s_window_takes_in_for_every_agency_and_then_sees_progress_alone(window: SimpleNamespace) -> None:
    case = await at_window(window, "general")
    path = f"/staff/v1/intake/{case['id']}"
    for who in ("police", "head", "traffic"):
        assert (await window.call(who, "GET", path)).status == 404, "a draft is the clerk's who took it in"
    done = await window.call("general", "POST", f"{path}/submit", {"confirmed": True})
    assert done.status == 200, done.json
    stored = await window.hall.cases.store.load({"_id": case["id"]})
    assert (stored.agency_id, stored.taken_in_by) == (AGENCY, "clerk.sg-zsj")
    assert {entry.by for entry in stored.timeline if entry.title == "窗口收件"} == {window.hall.catalogue.agency("sg-zsj")["name"]}
    if stored.state is State.AWAITING_PAYMENT:
        await window.hall.cases.fee_paid(stored.id, new_id("ord"))
    # From now on it is the police's: the window has its receipt and how far it is.
    assert (await window.call("police", "GET", f"/staff/v1/cases/{case['id']}")).status == 200
    for method, closed in (("GET", f"/staff/v1/cases/{case['id']}"), ("POST", f"/staff/v1/cases/{case['id']}/accept"), ("GET", path)):
        assert (await window.call("general", method, closed)).status == 404, closed
    assert (await window.call("general", "GET", f"{path}/receipt")).json["number"] == stored.number
    rows = (await window.call("general", "GET", "/staff/v1/intake/handed-in")).json["items"]
    mine = next(row for row in rows if row["id"] == stored.id)
    assert not {"form", "applicant_masked", "query_code", "materials"} & set(mine) and mine["agency"]["id"] == AGENCY
    assert stored.id not in str((await window.call("police", "GET", "/staff/v1/intake/handed-in")).json)
    assert (await window.call("general", "GET", "/staff/v1/intake/handed-in?cursor=x")).status == 422
    body = {"item_code": "driver_renew", "division_code": "440203", "name": "李示例", "id_number": id_number(next(_seeds)), "answers": {}}
    assert (await window.call("police", "POST", "/staff/v1/intake", body)).status == 403, "other windows: their own agency's items"


async def test_the_pages_of_the_window(window: SimpleNamespace) -> None:
    case = await owed(window)
    general, police = await staff(window.world, "clerk.sg-zsj"), await staff(window.world, "clerk.sg-gaj")
    start = await police.get("/staff/intake")
    assert offices(start) == {window.hall.catalogue.agency(AGENCY)["name"]}
    wide = await general.get("/staff/intake")
    assert len(offices(wide)) > 20
    wrong = await general.submit(wide, "/supplements", **case.body | {"name": "李示例"})
    assert wrong.status == 404 and "请核对编号、姓名和身份证号码" in wrong.text and case.body["number"] in wrong.html
    page = await general.submit(wide, "/supplements", **case.body)
    assert page.path == f"/staff/intake/{case.id}" and "看不清" in page.text and "要补交" in page.text
    page.forms = [form for form in page.forms if form.multipart]
    page = await general.submit(page, "/materials/hukou", upload=("户口簿.png", picture(9)))
    receipt = await posted(general, f"/staff/intake/{case.id}", **sent(page, case.id), do="submit", confirmed="1")
    assert receipt.path.endswith("/receipt") and "补交时间" in receipt.text and f"/staff/cases/{case.id}" not in receipt.links
    assert (await general.get("/staff/intake/handed-in")).status == 200
    assert (await posted(police, "/staff/intake/supplements", number="x")).status == 422


def offices(page: Page) -> set[str]:
    """The agencies whose items are offered; the other groups are the towns of a county."""
    return {given["label"] for tag, given in page.tags if tag == "optgroup" and not given["label"].endswith("乡镇街道")}


def sent(page: Page, case_id: str) -> dict[str, str]:
    """What the form of the case would send, its button apart: that stands outside of the form on this page."""
    return {name: value for name, value in page.form(f"/staff/intake/{case_id}").values if name != "_xsrf"}


async def test_who_took_a_supplement_in_is_no_second_person(window: SimpleNamespace) -> None:
    case = await owed(window)
    await window.call("police", "POST", "/staff/v1/intake/supplements", case.body)
    await window.call("police", "PUT", f"/staff/v1/intake/{case.id}/materials/hukou", data=files())
    assert (await window.call("police", "POST", f"/staff/v1/intake/{case.id}/submit", {"confirmed": True})).status == 200
    await window.hall.database["cases"].update_one({"_id": case.id}, {"$set": {"rules.four_eyes": ["denied"]}})
    clerk, head = staff_of(AGENCY), staff_of(AGENCY, "head")
    await window.hall.review.act(case.id, "accept", head, {})
    deny = {"outcome": "denied", "opinion": "不符合条件"}
    await window.hall.review.act(case.id, "propose", head, deny)
    with pytest.raises(ActionNotAllowed, match="窗口收件的人"):
        await window.hall.review.act(case.id, "decide", clerk, deny)
