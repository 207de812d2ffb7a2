"""Every route, taken from the hall's own description: the wrong person, nobody, and garbage. Never a 500, never somebody else's data."""

import asyncio
import re

import orjson
import pytest

from app.kernel.ids import ulid
from tests.journeys.stories import LOST, paid_attempt, someone, submitted

METHODS = ("get", "post", "put", "patch", "delete")
GARBAGE = [
    b"", b"{", b"null", b"[]", b'"text"', b"{}", b'{"unknown":1}', b"\xff\xfe\x00", b'{"a":' * 2000,
    b'{"phone":{"$gt":""},"code":[],"form":[],"version":"1","payables":"all","answers":7,"items":null}',
    '{"phone":"１３８","code":"\\u0000","name":"\\ud800","id_number":"' .encode() + b"9" * 5000 + b'"}',
]  # fmt: skip
# Answers that are no JSON problem by design: the platforms' own callbacks.
CALLBACKS = ("/callbacks/",)


async def operations(anyone):
    spec = await anyone.get("/openapi.json")
    return [
        (method, path, spec["paths"][path][method])
        for path in spec["paths"]
        for method in METHODS
        if method in spec["paths"][path]
    ]


def filled(path, ids):
    return re.sub(r"\{(\w+)\}", lambda match: ids.get(match[1], "nothing"), path)


@pytest.fixture
async def story(hall, anyone, clerk):
    """A resident with one of everything, and the ids of it."""
    resident, _name = await someone(anyone)
    case = await submitted(resident, "id_card_lost", {"age": "adult"}, LOST)
    order, _attempt = await paid_attempt(resident, hall.sandbox_url, "case", case["id"])
    await resident.until(f"/v1/cases/{case['id']}", lambda answer: answer["state"] == "submitted")
    case = await resident.get(f"/v1/cases/{case['id']}")
    inbox = await resident.until("/v1/notifications", lambda answer: bool(answer["items"]))
    sessions = await resident.get("/v1/me/sessions")
    hukou = next(material for material in case["materials"] if material["key"] == "hukou")
    return resident, {
        "case_id": case["id"],
        "order_id": order["id"],
        "message_id": inbox["items"][0]["id"],
        "notification_id": inbox["items"][0]["id"],
        "session_id": sessions["items"][0]["id"],
        "key": "hukou",
        "file_id": hukou["files"][0]["id"],
        "action": "accept",
    }


async def send(person, method, path, body, content_type="application/json"):
    headers = {"Idempotency-Key": ulid(), "Content-Type": content_type}
    if person.token:
        headers["Authorization"] = f"Bearer {person.token}"
    async with person.http.request(
        method.upper(), person.base_url + path, data=body, headers=headers, allow_redirects=False
    ) as response:
        return response.status, response.headers.get("Content-Type", ""), await response.read()


BODIES = {
    "/v1/cases/{case_id}": {"form": {}, "version": 1},
    "/v1/cases/{case_id}/evaluation": {"level": 1},
    "/v1/cases/{case_id}/promise": {"keys": []},
    "/v1/cases/{case_id}/hearing": {"wanted": True},
    "/v1/cases/{case_id}/correction": {"fields": {"mobile": "13800000002"}, "reason": "打错了"},
    "/v1/cases/{case_id}/materials/{key}": {"licence_id": "lic_1"},
    "/v1/cases/{case_id}/materials/{key}/uploads": {"name": "a.jpg", "size": 10},
    "/v1/orders/{order_id}/pay": {"provider": "wechatpay", "scene": "mini_program"},
}


async def test_what_belongs_to_another_resident_answers_404(anyone, story):
    owner, ids = story
    stranger, _name = await someone(anyone)
    tried = 0
    for method, path, declared in await operations(anyone):
        if declared.get("security") != [{"resident": []}] or not re.search(r"\{(case|order|message|notification|session)_id\}", path):
            continue
        status, _kind, body = await stranger_call(stranger, method, path, ids)
        assert status == 404, (method, path, status, body[:300])
        tried += 1
    assert tried >= 15
    assert (await owner.get(f"/v1/cases/{ids['case_id']}"))["state"] == "submitted", "and nothing was changed"
    assert (await owner.get("/v1/me/sessions"))["items"]


async def stranger_call(person, method, path, ids):
    body = orjson.dumps(BODIES.get(path, {})) if method in ("post", "put", "patch") else None
    return await send(person, method, filled(path, ids), body)


async def test_a_clerk_of_another_agency_finds_nothing(anyone, clerk, story):
    _owner, ids = story
    other = await clerk("sg-jj")
    for method, path, _declared in await operations(anyone):
        if path.startswith("/staff/v1/cases/"):
            status, _kind, body = await send(other, method, filled(path, ids), b"{}" if method == "post" else None)
            assert status == 404, (method, path, status, body[:300])
    assert ids["case_id"] not in [task["id"] for task in (await other.get("/staff/v1/tasks?limit=100"))["items"]]


async def test_a_campaign_of_another_agency_is_not_there(anyone, clerk):
    officer, other = await clerk("sg-gaj"), await clerk("sg-jj")
    wanted = {"title": "户籍窗口搬迁", "text": "12月1日起搬到新址办理。", "segment": {"kind": "all"}}
    made = await officer.post("/staff/v1/campaigns", wanted, key=ulid())
    ids, tried = {"campaign_id": made["id"], "action": "submit"}, 0
    for method, path, _declared in await operations(anyone):
        if "{campaign_id}" in path:
            body = {"phone": "13800000000"} if path.endswith("/test") else {**wanted, "version": 1} if method == "put" else {}
            status, _kind, answer = await send(other, method, filled(path, ids), orjson.dumps(body) if method != "get" else None)
            assert status == 404, (method, path, status, answer[:300])
            tried += 1
    assert tried == 5 and (await officer.get(f"/staff/v1/campaigns/{made['id']}"))["state"] == "draft"
    assert made["id"] not in [row["id"] for row in (await other.get("/staff/v1/campaigns?everybody=1"))["items"]]


async def test_without_a_token_and_with_the_wrong_kind_of_token_there_is_401(anyone, clerk, story):
    resident, ids = story
    officer = await clerk("sg-gaj")
    for method, path, declared in await operations(anyone):
        wanted = declared.get("security")
        if not wanted:
            continue
        wrong = officer if wanted == [{"resident": []}] else resident
        for person in (anyone, wrong):
            status, kind, _body = await send(person, method, filled(path, ids), b"{}")
            assert (status, kind.partition(";")[0]) == (401, "application/problem+json"), (method, path)


async def test_garbage_is_answered_4xx_as_problem_json_on_every_route(hall, anyone, clerk, story):
    resident, ids = story
    officer = await clerk("sg-gaj")
    bugs_before = hall.log("web").count("http.bug")
    for method, path, declared in await operations(anyone):
        security = declared.get("security")
        person = officer if security == [{"staff": []}] else resident if security else anyone
        if path in ("/v1/auth/logout", "/staff/v1/logout"):
            continue  # it takes no body, and would end the session of the rest of this test
        target = filled(path, ids)
        if method == "get":
            wanted = [send(person, method, f"{target}?{query}", None) for query in
                      ("limit=x", "limit=-1", "cursor=%00", "state=%ff", "division=1&theme=%27", "a=b", "code=%F0%9F%98%80")]  # fmt: skip
        elif method == "delete":
            wanted = [send(person, method, re.sub(r"\{\w+\}", "%24ne", path), None)]
        else:
            wanted = [send(person, method, target, body) for body in GARBAGE]
            wanted += [send(person, method, target, b"<x/>", "text/xml"), send(person, method, target, b"--x", "multipart/form-data")]
        for status, kind, body in await asyncio.gather(*wanted):
            assert status < 500, (method, path, status, body[:300])
            if status >= 400 and not path.startswith(CALLBACKS):
                assert kind.startswith("application/problem+json"), (method, path, status, kind)
    assert hall.log("web").count("http.bug") == bugs_before


async def test_a_wrong_method_answers_405_with_allow(anyone):
    async with anyone.http.delete(anyone.base_url + "/v1/items") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]
        assert (await response.json(content_type=None))["code"] == "request.method_not_allowed"


async def test_an_unknown_address_answers_404_as_problem_json(anyone):
    async with anyone.http.get(anyone.base_url + "/v1/nothing/here") as response:
        assert response.status == 404
        assert response.headers["Content-Type"].startswith("application/problem+json")


async def test_a_body_over_the_limit_answers_413_or_is_cut_off(anyone):
    body = b'{"phone":"' + b"1" * 2_000_000 + b'"}'
    status, kind, _body = await send(anyone, "post", "/v1/auth/sms", body)
    assert (status, kind.partition(";")[0]) == (413, "application/problem+json")


async def test_a_body_over_every_limit_is_refused_before_it_is_read(hall):
    reader, writer = await asyncio.open_connection("127.0.0.1", hall.port)
    writer.write(b"PUT /v1/cases/x/materials/y HTTP/1.1\r\nHost: h\r\nContent-Length: 99000000\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in head
    writer.close()


async def test_the_type_of_a_problem_leads_to_its_explanation(anyone):
    async with anyone.http.get(anyone.base_url + "/v1/me") as response:
        problem = await response.json(content_type=None)
    page, _, anchor = problem["type"].partition("#")
    async with anyone.http.get(page) as response:
        assert response.status == 200
        assert f'id="{anchor}"' in await response.text()


async def test_metrics_tell_of_the_events_that_wait(anyone):
    text = (await anyone.get("/metrics")).decode()
    assert "hall_events_oldest_waiting_seconds" in text
    assert "hall_events_dead 0.0" in text


async def test_the_description_names_the_clerks_actions_and_their_bodies(anyone):
    spec = await anyone.get("/openapi.json")
    act = spec["paths"]["/staff/v1/cases/{case_id}/{action}"]["post"]
    [action] = [parameter for parameter in act["parameters"] if parameter["name"] == "action"]
    assert {"accept", "decide", "deliver"} <= set(action["schema"]["enum"])
    names = [choice["$ref"].rpartition("/")[2] for choice in act["requestBody"]["content"]["application/json"]["schema"]["anyOf"]]
    assert {"staff.DecideRequest", "staff.SuspendRequest"} <= set(names)
    assert set(names) <= set(spec["components"]["schemas"])
