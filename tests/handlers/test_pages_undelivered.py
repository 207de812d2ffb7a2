"""The desk's pages of notices that reached nobody: list, one with the number to ring, the note; and the fate of each on the case's page."""

from types import SimpleNamespace

import aiohttp
import pytest

from app.kernel.clock import utc_now
from app.kernel.events import new_event
from app.kernel.ids import new_id
from tests.app.cases.handled import submitted
from tests.handlers.pages_world import World, sign_in, world
from tests.handlers.test_pages_desk import posted, staff

__all__ = ["world"]  # the fixture


@pytest.fixture
async def office(world: World) -> SimpleNamespace:
    return SimpleNamespace(
        hall=world.hall,
        clerk=await staff(world, "clerk.sg-rsj"),
        other=await staff(world, "clerk.sg-mzj"),
        superior=await staff(world, "head.sg-zsj"),
        world=world,
    )


async def failed(office: SimpleNamespace) -> SimpleNamespace:
    """Return a submitted case and a notice of it that every channel lost."""
    case = await submitted(office.hall, "injury_identify")
    data = {
        "number": case.number, "item_code": case.item_code, "item_name": case.item_name, "agency_id": case.agency_id,
        "agency_name": case.agency_name, "state": "accepted", "version": case.version, "deadline_on": "2027-01-08", "deadline_estimated": False,
    }  # fmt: skip
    event = new_event("case.accepted", subject=("case", case.id), owner_id=case.owner_id, data=data, at=utc_now())
    await office.hall.push.tell(event)
    # As the worker leaves it when the last channel has refused; the way there is shown by tests/push.
    attempt = {"channel": "wechat", "outcome": "refused", "code": "43101", "at": utc_now()}
    changes = {"state": "failed", "is_open": False, "is_undelivered": True, "failed_at": utc_now(), "attempts": [attempt]}
    await office.hall.database["deliveries"].update_one({"event_id": event.id}, {"$set": changes})
    delivery = await office.hall.database["deliveries"].find_one({"event_id": event.id})
    return SimpleNamespace(case=case, id=delivery["_id"], path=f"/staff/undelivered/{delivery['_id']}")


async def test_a_notice_that_reached_nobody_is_rung_up_and_noted_once(office: SimpleNamespace) -> None:
    notice = await failed(office)
    page = await office.clerk.get("/staff/undelivered")
    assert notice.path in page.links and "微信" in page.text and "条通知没跟进" in page.text, "counted in the navigation"
    assert notice.path not in (await office.other.get("/staff/undelivered")).links
    assert (await office.other.get(notice.path)).status == 404
    assert (await posted(office.other, notice.path, note="不是我们的")).status == 404
    assert (await office.world.browser().get(notice.path)).path.startswith("/staff/sign-in")
    assert (await (await sign_in(office.world)).get(notice.path)).path.startswith("/staff/sign-in"), "a resident is no clerk"

    of_case = await office.clerk.get(f"/staff/cases/{notice.case.id}")
    assert "通知送达" in of_case.text and "没有送达" in of_case.text and notice.path in of_case.links and "43101" in of_case.text

    seen = await office.superior.get(notice.path)
    assert seen.status == 200 and f"/staff/cases/{notice.case.id}" not in seen.links and "要告知的内容" not in seen.text
    shown = await office.clerk.get(notice.path)
    assert "要告知的内容" in shown.text and "对方拒收" in shown.text and "43101" in shown.text
    read = await office.hall.database["audit"].find_one({"action": "undelivered.read", "subject": notice.id, "actor": "clerk.sg-rsj"})
    assert read["owner_id"] == notice.case.owner_id

    for note in ("", " ", "x", "长" * 501):
        refused = await office.clerk.submit(shown, notice.path, note=note)
        assert refused.status == 422 and note.strip()[:400] in refused.html
    done = await office.clerk.submit(shown, notice.path, note="<b>已电话告知</b>")
    assert done.path == "/staff/undelivered" and notice.path not in done.links
    handled = await office.clerk.get("/staff/undelivered?tab=handled")
    assert "<b>已电话告知</b>" in handled.text and "&lt;b&gt;" in handled.html
    again = await posted(office.clerk, notice.path, note="再记一次")
    assert again.status == 409 and "已经有人跟进" in again.text
    assert "没有送达，已跟进" in (await office.clerk.get(f"/staff/cases/{notice.case.id}")).text


async def test_one_whose_person_and_agency_are_gone_can_still_be_noted(office: SimpleNamespace) -> None:
    notice = await failed(office)
    changes = {"agency_id": "sg-gone", "owner_id": new_id("res")}
    await office.hall.database["deliveries"].update_one({"_id": notice.id}, {"$set": changes})
    assert "sg-gone" in (await office.superior.get("/staff/undelivered")).text
    page = await office.superior.get(notice.path)
    assert page.status == 200 and "没有验证过手机号" in page.text
    assert (await office.superior.submit(page, notice.path, note="已注销，无法联系")).path == "/staff/undelivered"


async def test_garbage_in_the_address_is_taken_calmly(office: SimpleNamespace) -> None:
    for query in ("?tab=x&cursor=%27", "?cursor=dlv_1", "?tab=handled&cursor=%00", "?cursor=" + new_id("dlv")):
        assert (await office.clerk.get("/staff/undelivered" + query)).status == 200
    for path in ("/staff/undelivered/" + new_id("dlv"), "/staff/undelivered/dlv_x"):
        assert (await office.clerk.get(path)).status == 404


async def test_the_api_shows_one_with_the_number_to_its_agency_alone(office: SimpleNamespace) -> None:
    notice = await failed(office)
    tokens = {name: (await office.hall.staff.login(name, "page-password"))[0] for name in ("clerk.sg-rsj", "clerk.sg-mzj")}
    async with aiohttp.ClientSession(base_url=office.world.url) as http:

        async def get(path: str, who: str) -> tuple[int, dict]:
            async with http.get(path, headers={"Authorization": f"Bearer {tokens[who]}"}) as answer:
                return answer.status, await answer.json(content_type=None)

        status, one = await get(f"/staff/v1/undelivered/{notice.id}", "clerk.sg-rsj")
        assert status == 200 and set(one) >= {"phone", "body", "attempts", "title"} and "owner_id" not in one
        status, problem = await get(f"/staff/v1/undelivered/{notice.id}", "clerk.sg-mzj")
        assert (status, problem["code"]) == (404, "undelivered.not_found")
        status, _problem = await get("/staff/v1/undelivered?state=both", "clerk.sg-rsj")
        assert status == 422
        status, notices = await get(f"/staff/v1/cases/{notice.case.id}/notices", "clerk.sg-rsj")
        assert status == 200 and notices["items"][-1]["title"]
