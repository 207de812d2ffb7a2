"""查 over HTTP: sign-in, levels, inputs, honest 503."""

from collections.abc import AsyncIterator

import pytest

from app.identity.service import Identity
from app.identity.store import sealed_fields
from app.platforms.http import HttpClient
from app.platforms.wechat import WeChat
from handlers import checks
from tests.app.checks.conftest import Desk, desk, snapshot, stand_in_keys  # noqa: F401
from tests.handlers.serving import Site, serving


class SignedIn:
    """A resident who has signed in through the WeChat stand-in, with a level as if it had been proven."""

    def __init__(self, site: Site, token: str) -> None:
        self._site, self._token = site, token

    async def post(self, path: str, body):
        return await self._site.call("POST", path, token=self._token, json=body)


@pytest.fixture
async def site(desk: Desk, redis) -> AsyncIterator[Site]:  # noqa: F811
    settings = desk.running.sandbox.credentials.hall_settings(desk.running.url)
    http = HttpClient()
    wechat = WeChat(
        http,
        redis,
        base_url=settings["HALL_WECHAT_API_URL"],
        app_id=settings["HALL_WECHAT_APP_ID"],
        app_secret=settings["HALL_WECHAT_APP_SECRET"],
    )
    desk.identity = Identity(desk.database, desk.keys, wechat=wechat, alipay=None, sms_codes=None, realname=None)
    async with serving(checks.routes, checks=desk.checks, identity=desk.identity, database=desk.database) as site:
        yield site
    await http.close()


async def signed_in(desk: Desk, site: Site, level: int = 3) -> SignedIn:  # noqa: F811
    login = await desk.identity.login_wechat(f"sim-check-{level}")
    known = sealed_fields(desk.keys, login.resident.id, {"name": "张示例", "id_number": "44020019000101001X"})
    await desk.database["residents"].update_one(
        {"_id": login.resident.id}, {"$set": {"level": level, **(known if level >= 3 else {})}}
    )
    return SignedIn(site, login.access_token)


async def test_the_kinds_are_public(site: Site):
    answer = await site.get("/v1/checks")
    assert answer.status == 200
    assert {"kind", "name", "inputs"} <= set(answer.json["items"][0])
    assert checks.Kinds().validate(answer.json) == {}


async def test_without_sign_in_nothing_is_asked(site: Site):
    for path in ("/v1/checks/social_insurance", "/v1/bills/lookup"):
        answer = await site.call("POST", path, json={"kind": "water", "inputs": {}})
        assert (answer.status, answer.json["code"]) == (401, "auth.required")


async def test_a_check_answers_as_the_contract_says(site: Site, desk: Desk):  # noqa: F811
    resident = await signed_in(desk, site)
    answer = await resident.post("/v1/checks/traffic_violation", {"inputs": {"plate": "粤F00001", "vin_last6": "000001"}})
    assert answer.status == 200
    assert set(answer.json) >= {"kind", "as_of", "source", "records", "bills"}
    assert checks.CheckAnswer().validate(answer.json) == {}
    assert set(answer.json["bills"][0]) >= {"id", "kind", "title", "amount_fen", "late_fee_fen", "due_on", "payee"}
    assert (await resident.post("/v1/checks/social_insurance", {})).status == 200
    bills = await resident.post("/v1/bills/lookup", {"kind": "traffic_fine", "inputs": {"decision_no": "4402031900000015"}})
    assert [bill["id"] for bill in bills.json["bills"]] == ["bill-tf-1"]


async def test_a_low_level_is_403(site: Site, desk: Desk):  # noqa: F811
    resident = await signed_in(desk, site, level=2)
    answer = await resident.post("/v1/checks/social_insurance", {"inputs": {}})
    assert (answer.status, answer.json["code"]) == (403, "identity.level_required")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "pointer"),
    [
        ("/v1/checks/rumour", {"inputs": {}}, 404, "check.kind_not_found", None),
        ("/v1/checks/traffic_violation", {"inputs": {"plate": "X"}}, 422, "validation.failed", "/inputs/plate"),
        ("/v1/checks/traffic_violation", {"inputs": []}, 422, "validation.failed", "/inputs"),
        ("/v1/checks/traffic_violation", {"inputs": None}, 422, "validation.failed", "/inputs"),
        ("/v1/checks/traffic_violation", {"dog": 1}, 422, "validation.failed", "/dog"),
        ("/v1/bills/lookup", {"inputs": {}}, 422, "validation.failed", "/kind"),
        ("/v1/bills/lookup", {"kind": "bribe", "inputs": {}}, 422, "validation.failed", "/kind"),
        ("/v1/bills/lookup", {"kind": "water", "inputs": {}}, 422, "validation.failed", "/inputs/account"),
        ("/v1/bills/lookup", {"kind": "water", "inputs": {"account": {"$ne": 1}}}, 422, "validation.failed", "/inputs/account"),
    ],
)
async def test_senseless_requests_are_4xx(site: Site, desk: Desk, path, body, status, code, pointer):  # noqa: F811
    answer = await (await signed_in(desk, site)).post(path, body)
    assert (answer.status, answer.json["code"]) == (status, code)
    if pointer:
        assert pointer in [row["pointer"] for row in answer.json["errors"]]


async def test_a_department_that_is_away_is_503_with_retry_after(site: Site, desk: Desk):  # noqa: F811
    resident = await signed_in(desk, site)
    answer = await resident.post("/v1/checks/traffic_violation", {"inputs": {"plate": "粤F0DOWN", "vin_last6": "000001"}})
    assert (answer.status, answer.json["code"]) == (503, "provider.unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert "12345" in answer.json["detail"]
