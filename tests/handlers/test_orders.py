"""缴 over HTTP: shapes of api.md, idempotency, refusals as problem+json, other people's orders do not exist."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from app.identity import store as identity_store
from app.identity.service import Identity
from app.kernel.ids import new_id
from app.platforms.wechat import WeChat
from app.storage import idempotency
from app.storage.mongo import ensure_indexes
from handlers import guesses, orders, receipts
from payments.service import Payments
from tests.handlers.serving import Answered, Site, serving
from tests.payments.conftest import Hall, hall, http, sandbox, sandbox_keys  # noqa: F401

ORDER_FIELDS = {"id", "state", "amount_fen", "lines", "expires_at", "attempts", "payables", "created_at", "paid_at", "receipt_number", "receipts", "refunds"}


@dataclass
class Desk:
    """The payment routes with real sign-in in front of them."""

    site: Site
    hall: Hall
    identity: Identity

    async def sign_in(self, name: str) -> "Caller":
        login = await self.identity.login_wechat(f"sim-{name}")
        return Caller(self, login.access_token, login.resident.id)


@dataclass
class Caller:
    desk: Desk
    token: str
    resident_id: str

    async def post(self, path: str, body: Any = None, *, key: str | None = "", **more: Any) -> Answered:
        headers = {} if key is None else {"Idempotency-Key": key or new_id("key")}
        if body is not None:
            more["json"] = body
        return await self.desk.site.call("POST", path, token=self.token, headers=headers, **more)

    async def get(self, path: str) -> Answered:
        return await self.desk.site.get(path, token=self.token)

    async def order(self) -> dict[str, Any]:
        case = self.desk.hall.cases.owe(self.resident_id)
        made = await self.post("/v1/orders", {"payables": [{"kind": "case", "id": case}]})
        assert made.status == 201
        return made.json


@pytest.fixture
async def desk(hall: Hall, redis, keys) -> AsyncIterator[Desk]:  # noqa: F811
    own = hall.credentials
    await ensure_indexes(hall.database, {**identity_store.INDEXES, **idempotency.INDEXES})
    wechat = WeChat(hall.http, redis, base_url=hall.sandbox.url, app_id=own.wechat_app_id, app_secret=own.wechat_app_secret)
    identity = Identity(hall.database, keys, wechat=wechat, alipay=None, sms_codes=None, realname=None)
    built = hall.build()
    payments = Payments(
        hall.database,
        providers=list(built.providers.values()),
        sources={"case": hall.cases},
        payer_of=identity.channel_identity,
        public_url=hall.url,
    )
    async with serving(
        [*orders.routes, *receipts.routes], payments=payments, identity=identity, database=hall.database, keys=keys, redis=redis
    ) as site:
        yield Desk(site, hall, identity)


async def test_the_whole_way(desk):
    person = await desk.sign_in("张三")
    order = await person.order()
    assert set(order) >= ORDER_FIELDS
    assert order["lines"] == [{"title": "工本费", "amount_fen": 4000, "payee": "韶关市公安局"}]
    assert (order["state"], order["amount_fen"], order["attempts"]) == ("open", 4000, [])

    paying = await person.post(f"/v1/orders/{order['id']}/pay", {"provider": "wechatpay", "scene": "mini_program"})
    assert paying.status == 200
    assert set(paying.json) == {"attempt_id", "out_trade_no", "client_params"}
    assert set(paying.json["client_params"]) == {"timeStamp", "nonceStr", "package", "signType", "paySign"}
    assert all(isinstance(value, str) for value in paying.json["client_params"].values())

    await desk.hall.sim("pay", provider="wechatpay", out_trade_no=paying.json["out_trade_no"], outcome="success_without_notice")
    paid = (await person.get(f"/v1/orders/{order['id']}?refresh=1")).json
    assert paid["state"] == "paid" and paid["paid_at"] and paid["receipt_number"] is None
    (attempt,) = paid["attempts"]
    assert set(attempt) == {"id", "provider", "scene", "state", "out_trade_no", "created_at"}
    assert (attempt["state"], attempt["id"]) == ("paid", paying.json["attempt_id"])

    receipt = (await person.get(f"/v1/orders/{order['id']}/receipt")).json
    pdf = await person.get(f"/v1/orders/{order['id']}/receipt.pdf")
    assert pdf.headers["Content-Type"] == "application/pdf" and pdf.body.startswith(b"%PDF")
    checked = await desk.site.get(f"/v1/receipts/{receipt['number']}?code={receipt['code'].lower()}")
    assert checked.status == 200 and checked.json["valid"] is True
    assert (await desk.site.get(f"/v1/receipts/{receipt['number']}?code=WRONG")).status == 404

    listed = (await person.get("/v1/orders?state=paid")).json
    assert [row["id"] for row in listed["items"]] == [order["id"]] and listed["next_cursor"] is None
    again = await person.post(f"/v1/orders/{order['id']}/pay", {"provider": "wechatpay", "scene": "mini_program"})
    assert (again.status, again.json["code"]) == (409, "order.already_paid")
    more = await person.post("/v1/orders", {"payables": order["payables"]})
    assert (more.status, more.json["code"], more.json["order_id"]) == (409, "order.already_paid", order["id"])


async def test_the_same_key_gives_the_same_answer(desk):
    person = await desk.sign_in("张三")
    body = {"payables": [{"kind": "case", "id": desk.hall.cases.owe(person.resident_id)}]}
    first = await person.post("/v1/orders", body, key="one")
    assert (await person.post("/v1/orders", body, key="one")).body == first.body
    other = {"payables": [{"kind": "case", "id": desk.hall.cases.owe(person.resident_id)}]}
    assert (await person.post("/v1/orders", other, key="one")).status == 422
    assert (await person.post("/v1/orders", other, key=None)).status == 400
    pay = f"/v1/orders/{first.json['id']}/pay"
    way = {"provider": "wechatpay", "scene": "mini_program"}
    results = await asyncio.gather(*(person.post(pay, way, key="two") for _ in range(4)))
    assert {answer.status for answer in results} <= {200, 409}
    assert len({answer.json["attempt_id"] for answer in results if answer.status == 200}) == 1
    assert (await person.post(pay, way, key="two")).json == next(a.json for a in results if a.status == 200)


async def test_a_silent_provider_is_told_honestly_and_retried_with_the_same_key(desk):
    person = await desk.sign_in("张三")
    order = await person.order()
    way = {"provider": "wechatpay", "scene": "mini_program"}
    await desk.hall.sim("faults", provider="wechatpay", mode="error500", count=1)
    silent = await person.post(f"/v1/orders/{order['id']}/pay", way, key="k")
    assert (silent.status, silent.json["code"]) == (503, "provider.unavailable")
    assert int(silent.headers["Retry-After"]) > 0 and "没有被扣款" in silent.json["detail"]
    (left,) = (await person.get(f"/v1/orders/{order['id']}")).json["attempts"]
    assert left["state"] == "unknown"
    again = await person.post(f"/v1/orders/{order['id']}/pay", way, key="k")
    assert again.status == 200 and again.json["attempt_id"] == left["id"]


async def test_refusals(desk):
    person = await desk.sign_in("张三")
    order = await person.order()
    for body, code in (
        ({"provider": "wechatpay", "scene": "fax"}, "payment.scene_unsupported"),
        ({"provider": "cash", "scene": "mini_program"}, "payment.scene_unsupported"),
        ({"provider": "wechatpay"}, "validation.failed"),
        ({"provider": 1, "scene": "mini_program"}, "validation.failed"),
    ):
        answer = await person.post(f"/v1/orders/{order['id']}/pay", body)
        assert (answer.status, answer.json["code"]) == (422, code)
        assert answer.json["errors"][0]["pointer"]
    alipay = await person.post(f"/v1/orders/{order['id']}/pay", {"provider": "alipay", "scene": "mini_program"})
    assert (alipay.status, alipay.json["code"]) == (409, "payment.payer_unknown")
    unpaid = await person.get(f"/v1/orders/{order['id']}/receipt")
    assert (unpaid.status, unpaid.json["code"]) == (409, "receipt.not_issued")
    closed = await person.post(f"/v1/orders/{order['id']}/close", key=None)
    assert (closed.status, closed.json["state"]) == (200, "closed")
    after = await person.post(f"/v1/orders/{order['id']}/pay", {"provider": "wechatpay", "scene": "mini_program"})
    assert (after.status, after.json["code"]) == (409, "order.closed")


@pytest.mark.parametrize(
    "payables",
    [None, [], {}, "x", [{}], [{"kind": "case"}], [{"kind": "case", "id": ""}], [{"kind": "gift", "id": "x"}], [{"kind": "case", "id": {"$ne": ""}}], [1]],
)
async def test_garbage_orders(desk, payables):
    person = await desk.sign_in("张三")
    answer = await person.post("/v1/orders", {"payables": payables})
    assert answer.status == 422 and answer.headers["Content-Type"].startswith("application/problem+json")


async def test_garbage_addresses(desk):
    person = await desk.sign_in("张三")
    for path in ("/v1/orders/nothing", "/v1/orders/ord_x/receipt", "/v1/orders/ord_x/receipt.pdf", "/v1/receipts/R1?code=1"):
        assert (await person.get(path)).status == 404
    for path in ("/v1/orders?state=x", "/v1/orders?limit=0", "/v1/orders?cursor=%24ne", "/v1/orders/ord_x?refresh=maybe", "/v1/receipts/R1"):
        assert (await person.get(path)).status == 422
    for path in ("/v1/orders", "/v1/orders/ord_x"):
        assert (await desk.site.get(path)).status == 401


async def test_other_peoples_orders_do_not_exist(desk):
    owner, stranger = await desk.sign_in("张三"), await desk.sign_in("李四")
    order = await owner.order()
    base = f"/v1/orders/{order['id']}"
    for path in (base, f"{base}?refresh=1", f"{base}/receipt", f"{base}/receipt.pdf"):
        assert (await stranger.get(path)).status == 404
    assert (await stranger.post(f"{base}/close", key=None)).status == 404
    assert (await stranger.post(f"{base}/pay", {"provider": "wechatpay", "scene": "mini_program"})).status == 404
    assert (await stranger.post("/v1/orders", {"payables": order["payables"]})).status == 404
    assert (await stranger.get("/v1/orders")).json["items"] == []


async def test_whoever_guesses_codes_is_stopped_for_a_while(desk, redis):
    key = "limit:receipt-codes:{127.0.0.1}"
    await redis.delete(key)
    person = await desk.sign_in("赵六")
    order = await person.order()
    paying = await person.post(f"/v1/orders/{order['id']}/pay", {"provider": "wechatpay", "scene": "mini_program"})
    await desk.hall.sim("pay", provider="wechatpay", out_trade_no=paying.json["out_trade_no"])
    await person.get(f"/v1/orders/{order['id']}?refresh=1")
    receipt = (await person.get(f"/v1/orders/{order['id']}/receipt")).json
    try:
        tries = [await desk.site.get(f"/v1/receipts/{receipt['number']}?code=GUESS{n}") for n in range(guesses.WRONG_AT_MOST)]
        assert {guess.status for guess in tries} == {404}
        right = f"/v1/receipts/{receipt['number']}?code={receipt['code']}"
        stopped = await desk.site.get(right)
        assert (stopped.status, stopped.json["code"]) == (429, "rate.limited")
        assert 1 <= int(stopped.headers["Retry-After"]) <= guesses.IN_S
        await redis.delete(key)
        assert [(await desk.site.get(right)).status for _ in range(3)] == [200, 200, 200]
        assert await redis.exists(key) == 0  # right ones do not count
    finally:
        await redis.delete(key)
