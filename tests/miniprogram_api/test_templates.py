"""What a mini-program may ask for, and what the user's answer leaves."""

from collections.abc import AsyncIterator

import pytest

from push.model import EVENTS
from tests.push.conftest import desk, stand_in_keys  # noqa: F401
from tests.push.desk import Desk
from tests.push.web import Web, open_web

KNOWN = {name for names in EVENTS.values() for name in names}


@pytest.fixture
async def web(desk: Desk, keys) -> AsyncIterator[Web]:  # noqa: F811
    async with open_web(desk, keys) as web:
        yield web


@pytest.mark.parametrize("platform", ["wechat", "alipay"])
async def test_templates_are_listed_for_everybody(web: Web, platform):
    status, rows, _ = await web.call("GET", f"/mp/v1/{platform}/templates")

    assert status == 200 and rows
    for row in rows:
        assert set(row) == {"template_id", "title", "long_term", "events"}
        assert set(row["events"]) <= KNOWN


async def test_accepting_gives_grants_and_sending_uses_them(web: Web):
    login = await web.sign_in("granting")
    _, rows, _ = await web.call("GET", "/mp/v1/wechat/templates")
    template_id = next(row["template_id"] for row in rows if "case.accepted" in row["events"])
    choices = {"template_ids": {template_id: "accept", rows[-1]["template_id"]: "reject"}}

    for left in (1, 2):
        status, answer, _ = await web.call("POST", "/mp/v1/wechat/subscriptions", login, choices)
        assert status == 200
        assert {row["template_id"]: row["left"] for row in answer["grants"]}[template_id] == left
        assert {row["template_id"]: row["left"] for row in answer["grants"]}[rows[-1]["template_id"]] == 0

    await web.desk.push.tell(web.desk.event(login.resident.id, "case.accepted"))
    await web.desk.push.deliver_due()
    assert [item["channel"] for item in await web.desk.sent(login.resident.id)] == ["wechat_subscribe"]
    assert await web.desk.left(login.resident.id, template_id) == 1


async def test_unknown_templates_and_choices_are_refused(web: Web):
    login = await web.sign_in("refusing")
    template_id = web.desk.push.templates.wechat[0].template_id
    for body, pointer in (
        ({"template_ids": {"nobody_knows_this_template": "accept"}}, "/template_ids/nobody_knows_this_template"),
        ({"template_ids": {template_id: "perhaps"}}, None),
        ({"template_ids": {}}, None),
        ({}, "/template_ids"),
    ):
        status, problem, _ = await web.call("POST", "/mp/v1/wechat/subscriptions", login, body)
        assert (status, problem["code"]) == (422, "validation.failed")
        if pointer:
            assert problem["errors"][0]["pointer"] == pointer
    assert (await web.call("POST", "/mp/v1/wechat/subscriptions", None, {"template_ids": {template_id: "accept"}}))[0] == 401


async def test_somebody_without_wechat_is_told_so(web: Web):
    login = await web.sign_in("elsewhere")
    web.desk.town.identities.clear()
    body = {"template_ids": {web.desk.push.templates.wechat[0].template_id: "accept"}}

    status, problem, _ = await web.call("POST", "/mp/v1/wechat/subscriptions", login, body)

    assert (status, problem["code"]) == (409, "notification.no_wechat")
