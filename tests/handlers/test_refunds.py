"""Refunds over HTTP: who may ask, who agrees, and what the lists show."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from app.identity.staff import StaffAccounts
from app.kernel.ids import new_id
from app.storage import idempotency
from app.storage.mongo import ensure_indexes
from handlers import refunds
from payments.model import AttemptState
from tests.handlers.serving import Site, serving
from tests.payments.conftest import Hall, hall, http, sandbox, sandbox_keys  # noqa: F401

AGENCIES = [{"id": "sg-gaj", "short_name": "公安"}, {"id": "sg-rsj", "short_name": "人社"}]


@dataclass
class Desk:
    site: Site
    hall: Hall
    tokens: dict[str, str]

    async def post(self, who: str, path: str, body: Any = None, key: str = "") -> Any:
        headers = {"Idempotency-Key": key or new_id("key")}
        return await self.site.call("POST", path, token=self.tokens[who], headers=headers, json=body or {})

    async def get(self, who: str, path: str) -> Any:
        return await self.site.get(path, token=self.tokens[who])

    async def paid(self, amount_fen: int = 4000) -> Any:
        resident = await self.hall.resident()
        order = await self.hall.order(resident, self.hall.cases.owe(resident, amount_fen=amount_fen))
        attempt, _ = await self.hall.pay(order)
        await self.hall.sim("pay", provider="wechatpay", out_trade_no=attempt.id, outcome="success")
        return await self.hall.until(order, "paid")


@pytest.fixture
async def desk(hall: Hall, keys) -> AsyncIterator[Desk]:  # noqa: F811
    await ensure_indexes(hall.database, idempotency.INDEXES)
    staff = StaffAccounts(hall.database, keys)
    await staff.ensure_demo_accounts(AGENCIES, "demo-password-1")
    tokens = {
        name: (await staff.login(name, "demo-password-1"))[0] for name in ("clerk.sg-gaj", "head.sg-gaj", "head.sg-rsj")
    }
    async with serving(refunds.routes, payments=hall.payments, staff=staff, database=hall.database, keys=keys) as site:
        yield Desk(site, hall, tokens)


async def test_asked_for_once_however_often_it_is_sent(desk):
    order = await desk.paid()
    path, key = f"/staff/v1/orders/{order.id}/refunds", new_id("key")
    body = {"amount_fen": 1000, "reason": "重复缴费"}
    first, again = [await desk.post("clerk.sg-gaj", path, body, key) for _ in range(2)]
    assert first.status == 201 and first.json == again.json
    assert (first.json["state"], first.json["amount_fen"], first.json["requested_by"]) == ("approved", 1000, "clerk.sg-gaj")
    too_much = await desk.post("clerk.sg-gaj", path, body | {"amount_fen": 3001})
    assert (too_much.status, too_much.json["code"]) == (422, "refund.too_much")
    assert too_much.json["errors"][0]["pointer"] == "/amount_fen"
    listed = await desk.get("clerk.sg-gaj", "/staff/v1/refunds?state=approved")
    assert [row["id"] for row in listed.json["items"]] == [first.json["id"]]


@pytest.mark.parametrize("body", [{}, {"amount_fen": 0, "reason": "x"}, {"amount_fen": "1000", "reason": "x"}, {"amount_fen": 1}])
async def test_garbage_is_refused(desk, body):
    order = await desk.paid()
    assert (await desk.post("clerk.sg-gaj", f"/staff/v1/orders/{order.id}/refunds", body)).status == 422


async def test_other_agencies_and_nobody(desk):
    order = await desk.paid()
    path, body = f"/staff/v1/orders/{order.id}/refunds", {"amount_fen": 1000, "reason": "x"}
    refused = await desk.post("head.sg-rsj", path, body)
    assert (refused.status, refused.json["code"]) == (404, "order.not_found")
    assert (await desk.site.call("POST", path, json=body, headers={"Idempotency-Key": "k"})).status == 401
    assert (await desk.get("head.sg-rsj", "/staff/v1/refunds")).json["items"] == []


async def test_a_second_person_above_the_threshold(desk):
    order = await desk.paid(60_000)
    asked = await desk.post("clerk.sg-gaj", f"/staff/v1/orders/{order.id}/refunds", {"amount_fen": 60_000, "reason": "x"})
    assert asked.json["state"] == "requested"
    path = f"/staff/v1/refunds/{asked.json['id']}"
    for who, status, code in [("clerk.sg-gaj", 403, "refund.second_person_needed"), ("head.sg-rsj", 404, "refund.not_found")]:
        refused = await desk.post(who, f"{path}/approve")
        assert (refused.status, refused.json["code"]) == (status, code)
    agreed = await desk.post("head.sg-gaj", f"{path}/approve")
    assert (agreed.status, agreed.json["state"], agreed.json["approved_by"]) == (200, "approved", "head.sg-gaj")
    late = await desk.post("head.sg-gaj", f"{path}/reject", {"reason": "不同意"})
    assert (late.status, late.json["code"]) == (409, "refund.decided")


async def test_held_payments_are_listed(desk):
    resident = await desk.hall.resident()
    order = await desk.hall.order(resident)
    attempt, _ = await desk.hall.pay(order)
    await desk.hall.sim("pay", provider="wechatpay", out_trade_no=attempt.id, outcome="success_wrong_amount")
    found = await desk.hall.payments.get_order(order.id, resident, refresh=True)
    assert found.attempts[0].state is AttemptState.HELD
    rows = (await desk.get("clerk.sg-gaj", "/staff/v1/payments/held")).json["items"]
    assert [(row["kind"], row["order_id"], row["differs"]) for row in rows] == [("held", order.id, ["amount"])]
    assert rows[0]["expected_fen"] == 4000 != rows[0]["reported_fen"]
    assert (await desk.get("head.sg-rsj", "/staff/v1/payments/held")).json["items"] == []


async def test_the_order_shows_its_refunds(desk):
    from payments.service import view

    order = await desk.paid(60_000)
    staff = SimpleNamespace(account="clerk.sg-gaj", role="clerk", agency_id="sg-gaj")
    ask = {"reason": "x", "staff": staff}
    await desk.hall.payments.refunds.request(order.id, amount_fen=100, refund_id=new_id("rfd"), **ask)
    await desk.hall.payments.refunds.request(order.id, amount_fen=59_000, refund_id=new_id("rfd"), **ask)
    shown = view(await desk.hall.payments.get_order(order.id, order.owner_id))["refunds"]
    assert [(row["state"], row["amount_fen"]) for row in shown] == [("approved", 100)]  # the other waits for the head


async def held(desk, amount_fen: int = 4000) -> str:
    """Let a resident pay another amount than was asked for; return the payment's number."""
    resident = await desk.hall.resident()
    order = await desk.hall.order(resident, desk.hall.cases.owe(resident, amount_fen=amount_fen))
    attempt, _ = await desk.hall.pay(order)
    await desk.hall.sim("pay", provider="wechatpay", out_trade_no=attempt.id, outcome="success_wrong_amount")
    assert (await desk.hall.payments.get_order(order.id, resident, refresh=True)).is_held
    return attempt.id


async def test_a_held_payment_is_asked_about_and_given_back_once(desk):
    number = await held(desk)
    path, key = f"/staff/v1/payments/{number}", new_id("key")
    asked = await desk.post("clerk.sg-gaj", f"{path}/ask")
    assert (asked.status, asked.json["kind"], asked.json["may_return"]) == (200, "held", True)
    assert (await desk.post("clerk.sg-gaj", f"{path}/return", {"reason": ""})).status == 422
    first, again = [await desk.post("clerk.sg-gaj", f"{path}/return", {"reason": "金额不符"}, key) for _ in range(2)]
    assert first.status == 201 and first.json == again.json
    assert (first.json["kind"], first.json["state"], first.json["amount_fen"]) == ("held", "approved", 3999)
    other = await desk.post("clerk.sg-gaj", f"{path}/return", {"reason": "金额不符"})
    assert (other.status, other.json["code"]) == (409, "payment.not_held")
    (row,) = (await desk.get("clerk.sg-gaj", "/staff/v1/payments/held")).json["items"]
    assert (row["kind"], row["decided_by"], row["refunds"][0]["id"]) == ("overpaid", "clerk.sg-gaj", first.json["id"])


async def test_a_large_held_payment_needs_two(desk):
    number = await held(desk, 60_000)
    asked = await desk.post("head.sg-gaj", f"/staff/v1/payments/{number}/return", {"reason": "金额不符"})
    assert asked.json["state"] == "requested"
    path = f"/staff/v1/refunds/{asked.json['id']}/approve"
    for who in ("head.sg-gaj", "clerk.sg-gaj"):  # the asker, though head; somebody else, but no head
        refused = await desk.post(who, path)
        assert (refused.status, refused.json["code"]) == (403, "refund.second_person_needed")
    twice = await desk.post("clerk.sg-gaj", f"/staff/v1/payments/{number}/return", {"reason": "金额不符"})
    assert (twice.status, twice.json["code"]) == (409, "payment.return_asked")


async def test_returned_outside_is_for_the_head_to_say(desk):
    number = await held(desk)
    path, note = f"/staff/v1/payments/{number}/returned", {"note": "已在商户后台退款，流水 5030"}
    refused = await desk.post("clerk.sg-gaj", path, note)
    assert (refused.status, refused.json["code"]) == (403, "refund.second_person_needed")
    assert (await desk.post("head.sg-gaj", path, {"note": ""})).status == 422
    for _ in range(2):
        done = await desk.post("head.sg-gaj", path, note)
        assert (done.status, done.json["kind"], done.json["decision_note"]) == (200, "returned", note["note"])


async def test_held_payments_of_others_do_not_exist(desk):
    number = await held(desk)
    for known in (number, "pay_" + "0" * 26, "x"):
        for action, body in [("ask", {}), ("return", {"reason": "金额不符"}), ("returned", {"note": "已退款"})]:
            answer = await desk.post("head.sg-rsj", f"/staff/v1/payments/{known}/{action}", body)
            assert (answer.status, answer.json["code"]) == (404, "order.not_found"), (known, action)
    headers = {"Idempotency-Key": "k"}
    assert (await desk.site.call("POST", f"/staff/v1/payments/{number}/return", json={"reason": "x"}, headers=headers)).status == 401
    assert (await desk.hall.payments._store.load_of_attempt(number)).is_held


async def test_only_a_stuck_refund_is_paid_out_another_way(desk):
    order = await desk.paid()
    asked = await desk.post("clerk.sg-gaj", f"/staff/v1/orders/{order.id}/refunds", {"amount_fen": 1000, "reason": "x"})
    path, body = f"/staff/v1/refunds/{asked.json['id']}/pay-out", {"to": "merchant"}
    for who, status, code in [
        ("clerk.sg-gaj", 403, "refund.second_person_needed"), ("head.sg-rsj", 404, "refund.not_found"), ("head.sg-gaj", 409, "refund.decided"),
    ]:  # fmt: skip
        answer = await desk.post(who, path, body)
        assert (answer.status, answer.json["code"]) == (status, code)
    for bad in ({}, {"to": "friend"}, {"to": "card"}, {"to": "card", "bank": "ICBC_DEBIT", "account": "6222", "holder": "张三"}):
        assert (await desk.post("head.sg-gaj", path, bad)).status == 422
