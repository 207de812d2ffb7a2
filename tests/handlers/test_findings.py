"""Findings over HTTP: whose they are, and who settles one."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.identity.staff import StaffAccounts
from app.kernel.clock import today
from app.storage import idempotency
from app.storage.mongo import ensure_indexes
from handlers import findings
from tests.handlers.serving import Site, serving
from tests.payments.conftest import Hall, hall, http, sandbox, sandbox_keys  # noqa: F401
from tests.payments.reconcile.conftest import Books, books  # noqa: F401

AGENCIES = [{"id": "sg-zsj", "short_name": "政数"}, {"id": "sg-gaj", "short_name": "公安"}]


@pytest.fixture
async def desk(books: Books, hall: Hall, keys) -> AsyncIterator[tuple[Site, dict[str, str]]]:  # noqa: F811
    """One foreign payment and one of another amount, found by today's reconciliation."""
    await ensure_indexes(hall.database, idempotency.INDEXES)
    staff = StaffAccounts(hall.database, keys)
    await staff.ensure_demo_accounts(AGENCIES, "demo-password-1")
    tokens = {
        name: (await staff.login(name, "demo-password-1"))[0] for name in ("clerk.sg-gaj", "head.sg-gaj", "head.sg-zsj")
    }
    number = await books.paid()
    await books.bill(foreign=1, amounts={number: 4100})
    await books.reconcile.run("wechatpay", today())
    async with serving(findings.routes, reconcile=books.reconcile, staff=staff, database=hall.database, keys=keys) as site:
        yield site, tokens


async def test_each_agency_sees_its_own_and_the_hall_what_is_nobodys(desk):
    site, tokens = desk

    async def seen(who: str, query: str = "") -> list[dict[str, Any]]:
        return (await site.get(f"/staff/v1/findings{query}", token=tokens[who])).json["items"]

    (amount,) = await seen("clerk.sg-gaj")
    assert (amount["kind"], amount["ours_fen"], amount["theirs_fen"]) == ("amount", 4000, 4100)
    assert amount["what"] == "账单上的收款是 41.00 元，我方应为 40.00 元。" and amount["what_to_do"]
    (foreign,) = await seen("head.sg-zsj")
    assert (foreign["kind"], foreign["order_id"]) == ("theirs_only", None)
    assert await seen("head.sg-zsj", "?state=settled") == []
    assert (await site.get("/staff/v1/findings")).status == 401


async def test_the_head_settles_with_a_reason(desk):
    site, tokens = desk
    (foreign,) = (await site.get("/staff/v1/findings", token=tokens["head.sg-zsj"])).json["items"]
    path = f"/staff/v1/findings/{foreign['id']}/settle"
    assert (await site.call("POST", path, token=tokens["head.sg-gaj"], json={"note": "食堂收款"})).status == 404
    assert (await site.call("POST", path, token=tokens["head.sg-zsj"], json={"note": ""})).status == 422
    answer = await site.call("POST", path, token=tokens["head.sg-zsj"], json={"note": "食堂收款"})
    assert (answer.status, answer.json["state"], answer.json["settled_by"]) == (200, "settled", "head.sg-zsj")
    again = await site.call("POST", path, token=tokens["head.sg-zsj"], json={"note": "食堂收款"})
    assert (again.status, again.json["code"]) == (409, "finding.settled")
    (mine,) = (await site.get("/staff/v1/findings", token=tokens["clerk.sg-gaj"])).json["items"]
    refused = await site.call("POST", f"/staff/v1/findings/{mine['id']}/settle", token=tokens["clerk.sg-gaj"], json={"note": "核对"})
    assert (refused.status, refused.json["code"]) == (403, "finding.head_needed")
