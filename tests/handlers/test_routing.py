"""Leave, handing over, samples and the departments' answers over HTTP, and the clerks' page that shows them."""

from datetime import timedelta
from types import SimpleNamespace

import pytest

from app.kernel.clock import today
from app.kernel.ids import new_id
from handlers.pages_base import STAFF_COOKIE
from tests.app.cases.handled import submitted
from tests.handlers.pages_world import PASSWORD, World, world  # noqa: F401
from tests.handlers.serving import Site


@pytest.fixture
async def office(world: World):  # noqa: F811
    site = Site(world.url, world.browser().http)
    tokens = {}
    for account in (
        "clerk.sg-nyj",
        "head.sg-nyj",
        "clerk.sg-zrzy",
        "clerk.sg-mzj",
        "head.sg-rsj",
    ):
        tokens[account] = (await world.hall.staff.login(account, PASSWORD))[0]

    async def call(who, method, path, body=None):
        more = {} if body is None else {"json": body}
        return await site.call(
            method,
            path,
            token=tokens[who],
            headers={"Idempotency-Key": new_id("key")},
            **more,
        )

    async def page(who, case_id):
        async with world.browser().http.get(
            f"{world.url}/staff/cases/{case_id}",
            headers={"Cookie": f"{STAFF_COOKIE}={tokens[who]}"},
        ) as answer:
            return answer.status, await answer.text()

    return SimpleNamespace(call=call, page=page, hall=world.hall)


async def test_departments_answer_over_http_and_the_page_shows_it(office):
    case = await submitted(office.hall, "homestead")
    path = f"/staff/v1/cases/{case.id}"
    assert (await office.call("clerk.sg-zrzy", "GET", path)).status == 404, (
        "not asked before acceptance"
    )
    assert (await office.call("clerk.sg-nyj", "POST", f"{path}/accept")).status == 200
    assert (await office.call("clerk.sg-mzj", "GET", path)).status == 404
    asked = await office.call("clerk.sg-zrzy", "GET", path)
    assert (asked.status, asked.json["allowed_actions"]) == (200, ["give_opinion"])
    silent = await office.call(
        "clerk.sg-zrzy", "POST", f"{path}/give_opinion", {"answer": "refused"}
    )
    assert (silent.status, silent.json["errors"][0]["pointer"]) == (422, "/opinion")
    assert (
        await office.call(
            "clerk.sg-zrzy",
            "POST",
            f"{path}/decide",
            {"outcome": "approved", "opinion": ""},
        )
    ).status == 409
    answered = await office.call(
        "clerk.sg-zrzy",
        "POST",
        f"{path}/give_opinion",
        {"answer": "refused", "opinion": "占用农田"},
    )
    assert answered.json["joint"]["departments"][0]["answer"] == "refused"
    refused = await office.call(
        "clerk.sg-nyj", "POST", f"{path}/decide", {"outcome": "approved", "opinion": ""}
    )
    assert (refused.status, refused.json["code"]) == (409, "case.action_not_allowed")
    for who, shown in (
        ("clerk.sg-nyj", ("占用农田", "全部同意才能准予", "四到场核查", "完成本环节")),
        ("clerk.sg-zrzy", ("反馈本单位意见",)),
    ):
        status, text = await office.page(who, case.id)
        assert status == 200 and all(words in text for words in shown), [
            words for words in shown if words not in text
        ]
    assert (await office.page("clerk.sg-mzj", case.id))[0] == 404


async def test_leave_is_ones_own_to_say_and_the_heads_for_others(office):
    days = {
        "from": today().isoformat(),
        "until": (today() + timedelta(days=3)).isoformat(),
    }
    own = {"cover": "head.sg-nyj", **days}
    path = "/staff/v1/me/absence"
    assert (await office.call("clerk.sg-nyj", "POST", path, own)).json["items"] == [
        {"account": "clerk.sg-nyj", "cover": "head.sg-nyj", **days}
    ]
    assert (
        await office.call(
            "clerk.sg-nyj", "POST", path, {**own, "account": "head.sg-nyj"}
        )
    ).status == 403
    assert (
        await office.call(
            "head.sg-nyj", "POST", path, {**own, "account": "clerk.sg-nyj"}
        )
    ).status == 200
    for wrong in (
        {"cover": "clerk.sg-mzj"},
        {"cover": "clerk.sg-nyj"},
        {"until": "2020-01-01"},
    ):
        assert (
            await office.call("clerk.sg-nyj", "POST", path, {**own, **wrong})
        ).status == 422
    assert (await office.call("clerk.sg-mzj", "GET", path)).json["items"] == [], (
        "of the own agency"
    )
    assert (
        await office.call("head.sg-nyj", "DELETE", f"{path}?account=clerk.sg-mzj")
    ).status == 422
    assert (await office.call("clerk.sg-nyj", "DELETE", path)).status == 204
    assert (await office.call("clerk.sg-nyj", "GET", path)).json["items"] == []


async def test_many_cases_and_samples_are_the_heads(office):
    body = {"from": "nobody.sg-nyj", "account": "head.sg-nyj"}  # who has nothing
    assert (
        await office.call("clerk.sg-nyj", "POST", "/staff/v1/reassignments", body)
    ).status == 403
    assert (
        await office.call("head.sg-nyj", "POST", "/staff/v1/reassignments", body)
    ).json == {"items": [], "more": False}
    assert (await office.call("clerk.sg-nyj", "GET", "/staff/v1/samples")).status == 403
    assert (await office.call("head.sg-rsj", "GET", "/staff/v1/samples")).json == {
        "items": [],
        "next_cursor": None,
    }
    finding = {"finding": "wrong", "note": "x"}
    assert (
        await office.call(
            "clerk.sg-nyj", "POST", "/staff/v1/samples/case_none", finding
        )
    ).status == 403
    assert (
        await office.call("head.sg-nyj", "POST", "/staff/v1/samples/case_none", finding)
    ).status == 404
