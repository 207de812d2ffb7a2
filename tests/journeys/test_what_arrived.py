"""What becomes of a text message and a push, told by their vendors to the whole hall: noted once, whatever dies meanwhile."""

import asyncio

import pytest
from pymongo import MongoClient

from app.kernel.ids import ulid
from commands.story import Person, Refused, sent_to
from tests.journeys.stories import LOST, a_name, someone, submitted


async def _notices(officer, case_id, wanted, event="case.submitted"):
    for _ in range(600):  # a gateway that has found nobody twice waits half a minute before it reports again
        rows = [row for row in (await officer.get(f"/staff/v1/cases/{case_id}/notices"))["items"] if row["event"] == event]
        if rows and wanted(rows[0]):
            return rows[0]
        await asyncio.sleep(0.1)
    raise AssertionError(rows)


async def _phone_of(http, hall, name):
    async with http.post(f"{hall.sandbox_url}/_sim/people", json={"name": name}) as answer:
        return (await answer.json())["phone"]


async def test_a_report_that_found_no_hall_comes_again_and_counts_once(hall, http, anyone, clerk):
    resident, name = await someone(anyone)
    officer = await clerk("sg-gaj")
    phone = await _phone_of(http, hall, name)
    script = {"channel": "sms", "to": phone, "statuses": ["ENROUTE", "DELIVRD"], "delay_s": 1, "repeat": 2}
    async with http.post(f"{hall.sandbox_url}/_sim/reports", json=script) as answer:
        assert answer.status == 200
    case = await submitted(resident, "id_card_lost", {"age": "adult"}, LOST)
    for _ in range(100):
        if [row for row in await sent_to(http, hall.sandbox_url, phone) if row.get("template") == "case.submitted"]:
            break
        await asyncio.sleep(0.05)
    hall.kill("web")
    await asyncio.sleep(1.6)
    hall.start("web")

    notice = await _notices(officer, case["id"], lambda row: row["fate"] is not None)

    assert (notice["state"], notice["channel"], notice["fate"]) == ("sent", "sms", "success")


async def test_a_phone_with_the_app_is_known_to_have_it_and_a_killed_worker_changes_nothing(hall, http, anyone, clerk):
    resident, name = await someone(anyone)
    officer = await clerk("sg-gaj")
    await resident.call("PUT", f"/v1/me/devices/{name}", {"platform": "android", "vendor": "huawei"})
    case = await submitted(resident, "id_card_lost", {"age": "adult"}, LOST)
    notice = await _notices(officer, case["id"], lambda row: row["state"] == "sent")
    assert notice["channel"] == "app"
    hall.kill("worker")
    hall.start("worker")

    notice = await _notices(officer, case["id"], lambda row: row["fate"] is not None)

    assert notice["fate"] == "success"
    assert len([row for row in await sent_to(http, hall.sandbox_url, name) if row["channel"] == "jpush"]) >= 1


async def test_the_phone_of_a_stolen_session_is_shown_nothing_more(hall, http, anyone):
    session = await anyone.post("/mp/v1/wechat/login", {"code": f"sim-{a_name()}"})
    resident = Person(http, hall.url, session["access_token"])
    device = f"dev{ulid().lower()}"
    await resident.call("PUT", f"/v1/me/devices/{device}", {"platform": "android", "vendor": "vivo"})
    with MongoClient(hall.environment["HALL_MONGODB_URI"]) as client:
        devices = client[hall.environment["HALL_MONGODB_DATABASE"]]["push_devices"]
        assert devices.count_documents({"_id": device}) == 1
        await anyone.post("/v1/auth/refresh", {"refresh_token": session["refresh_token"]})
        assert devices.count_documents({"_id": device}) == 1
        with pytest.raises(Refused, match="auth.refresh_reused"):
            await anyone.post("/v1/auth/refresh", {"refresh_token": session["refresh_token"]})
        assert devices.count_documents({"_id": device}) == 0
