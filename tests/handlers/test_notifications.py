"""The inbox and the preferences over HTTP: mine and only mine."""

from collections.abc import AsyncIterator

import pytest

from push.model import CHANNELS, SWITCH_OF
from tests.push.conftest import desk, stand_in_keys  # noqa: F401
from tests.push.desk import Desk
from tests.push.web import Web, open_web


@pytest.fixture
async def web(desk: Desk, keys) -> AsyncIterator[Web]:  # noqa: F811
    async with open_web(desk, keys) as web:
        yield web


async def test_the_inbox_shows_what_happened(web: Web):
    login = await web.sign_in("inbox")
    for name in ("case.submitted", "case.accepted", "order.paid"):
        await web.desk.push.tell(web.desk.event(login.resident.id, name))

    status, page, _ = await web.call("GET", "/v1/notifications?limit=2", login)
    assert status == 200 and [item["event"] for item in page["items"]] == ["order.paid", "case.accepted"]
    assert page["unread_count"] == 3
    assert set(page["items"][1]) >= {"id", "at", "kind", "title", "body", "link", "read_at", "case_id", "state"}
    status, rest, _ = await web.call("GET", f"/v1/notifications?limit=2&cursor={page['next_cursor']}", login)
    assert [item["event"] for item in rest["items"]] == ["case.submitted"] and rest["next_cursor"] is None

    status, read, _ = await web.call("POST", f"/v1/notifications/{page['items'][0]['id']}/read", login)
    assert status == 200 and read["read_at"] is not None
    _, unread, _ = await web.call("GET", "/v1/notifications?unread=1", login)
    assert [item["event"] for item in unread["items"]] == ["case.accepted", "case.submitted"]
    status, done, _ = await web.call("POST", "/v1/notifications/read-all", login)
    assert (status, done) == (200, {"read": 2, "unread_count": 0})


async def test_somebody_elses_message_and_device_are_not_there(web: Web):
    mine, other = await web.sign_in("mine"), await web.sign_in("other")
    await web.desk.push.tell(web.desk.event(mine.resident.id))
    _, page, _ = await web.call("GET", "/v1/notifications", mine)
    message_id = page["items"][0]["id"]
    device = f"/v1/me/devices/reg{mine.resident.id[-8:]}"
    assert (await web.call("PUT", device, mine, {"platform": "android", "vendor": "huawei"}))[0] == 204

    for status, problem, answer in (
        await web.call("POST", f"/v1/notifications/{message_id}/read", other),
        await web.call("POST", "/v1/notifications/msg_none/read", mine),
        await web.call("DELETE", device, other),
    ):
        assert status == 404 and problem["code"] == "resource.not_found"
        assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert (await web.call("GET", "/v1/notifications", other))[1]["items"] == []
    assert (await web.call("DELETE", device, mine))[0] == 204
    assert (await web.call("DELETE", device, mine))[0] == 404


async def test_preferences_change_only_what_is_named(web: Web):
    login = await web.sign_in("wishes")
    status, before, _ = await web.call("GET", "/v1/me/notification-preferences", login)
    switches = {one: one != "voice" for one in CHANNELS if one not in SWITCH_OF}
    assert status == 200 and before["kinds"]["case"] == switches
    assert before["quiet_hours"] is None and before["elder_mode"] is False

    change = {"kinds": {"case": {"sms": False}}, "quiet_hours": {"from": "22:00", "to": "07:00"}}
    status, after, _ = await web.call("PUT", "/v1/me/notification-preferences", login, change)
    assert status == 200 and after["kinds"]["case"]["sms"] is False and after["kinds"]["order"]["sms"] is True
    status, last, _ = await web.call("PUT", "/v1/me/notification-preferences", login, {"quiet_hours": None})
    assert last["quiet_hours"] is None and last["kinds"]["case"]["sms"] is False
    status, quiet, _ = await web.call("PUT", "/v1/me/notification-preferences", login, {"quiet_cases": ["case_1"], "quiet_items": ["x_2"]})
    assert status == 200 and (quiet["quiet_cases"], quiet["quiet_items"]) == (["case_1"], ["x_2"])
    _, last, _ = await web.call("PUT", "/v1/me/notification-preferences", login, {"quiet_items": []})
    assert last["quiet_cases"] == ["case_1"] and last["quiet_items"] == []
    # What was read can be put back as it is.
    assert (await web.call("PUT", "/v1/me/notification-preferences", login, last))[1] == last


async def test_notices_of_agencies_can_be_refused_and_are_texted_only_to_those_who_ask(web: Web):
    login = await web.sign_in("notices")
    path = "/v1/me/notification-preferences"
    _, before, _ = await web.call("GET", path, login)
    assert before["kinds"]["notice"] == {"inbox": True, **{one: one != "sms" for one in CHANNELS if one not in ("apns", "voice")}}
    assert "inbox" not in before["kinds"]["case"], "what is decided about a person always stands in the inbox"

    _, after, _ = await web.call("PUT", path, login, {"kinds": {"notice": {"sms": True, "inbox": False}}})
    assert after["kinds"]["notice"]["sms"] is True and after["kinds"]["notice"]["inbox"] is False
    kept = await web.desk.push.preferences(login.resident.id)
    assert kept.refuses("notice") and kept.allows("notice", "sms") and not kept.refuses("case")
    assert (await web.call("PUT", path, login, after))[1] == after
    assert (await web.call("PUT", path, login, {"kinds": {"case": {"inbox": False}}}))[0] == 422
    _, back, _ = await web.call("PUT", path, login, {"kinds": {"notice": {"sms": False, "inbox": True}}})
    assert back == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/notifications?limit=0", None, 422),
        ("GET", "/v1/notifications?limit=x", None, 422),
        ("GET", "/v1/notifications?unread=perhaps", None, 422),
        ("GET", "/v1/notifications?cursor=../etc", None, 400),
        ("GET", "/v1/notifications?what=ever", None, 422),
        ("PUT", "/v1/me/notification-preferences", {"quiet_cases": ["a b"]}, 422),
        ("PUT", "/v1/me/notification-preferences", {"quiet_cases": "case_1"}, 422),
        ("PUT", "/v1/me/notification-preferences", {"quiet_items": [f"i{n}" for n in range(201)]}, 422),
        ("PUT", "/v1/me/notification-preferences", {"kinds": {"notice": {"voice": True}}}, 422),
        ("PUT", "/v1/me/notification-preferences", {"kinds": {"case": {"apns": True}}}, 422),
        ("PUT", "/v1/me/notification-preferences", {"kinds": {"weather": {"sms": True}}}, 422),
        ("PUT", "/v1/me/notification-preferences", {"kinds": {"case": {"pigeon": True}}}, 422),
        ("PUT", "/v1/me/notification-preferences", {"quiet_hours": {"from": "25:00", "to": "07:00"}}, 422),
        ("PUT", "/v1/me/notification-preferences", {"quiet_hours": {"from": "22:00\n", "to": "07:00"}}, 422),
        ("PUT", "/v1/me/notification-preferences", {"quiet_hours": {"from": "22:00", "to": "22:00"}}, 422),
        ("PUT", "/v1/me/notification-preferences", {"quiet_hours": {"from": "22:00"}}, 422),
        ("PUT", "/v1/me/notification-preferences", {"quiet_hours": {"from": 22, "to": []}}, 422),
        ("PUT", "/v1/me/notification-preferences", {"language": "tlh"}, 422),
        ("PUT", "/v1/me/devices/abc", {"platform": "ios", "vendor": "a\n"}, 422),
        ("PUT", "/v1/me/notification-preferences", ["no object"], 422),
        ("PUT", "/v1/me/devices/abc", {"platform": "toaster"}, 422),
        ("DELETE", "/v1/notifications", None, 405),
    ],
)
async def test_garbage_is_refused_as_a_problem(web: Web, method, path, body, status):
    login = await web.sign_in("garbage")

    found, problem, answer = await web.call(method, path, login, body)

    assert found == status and answer.headers["Content-Type"].startswith("application/problem+json")
    assert problem["status"] == status


@pytest.mark.parametrize("path", ["/v1/notifications", "/v1/me/notification-preferences"])
async def test_nobody_reads_without_signing_in(web: Web, path):
    status, problem, _ = await web.call("GET", path)

    assert (status, problem["code"]) == (401, "auth.required")
