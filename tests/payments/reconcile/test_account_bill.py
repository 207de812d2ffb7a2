"""An Alipay merchant whose product has only the account's bill: the same days, reconciled as well as with the trade bill."""

import asyncio
from datetime import timedelta

import pytest

from app.identity.model import StaffSession
from app.kernel.ids import new_id
from payments.ledger import store as ledger
from payments.ledger.verify import verify

CLERK = StaffSession("clerk.sg-gaj", "经办员", "clerk", "sg-gaj")


@pytest.fixture
def accounts(books):
    books.reconcile = books.build("signcustomer")
    return books


async def given_back(books, number, *amounts):
    """Give parts of a payment back and wait until they have arrived."""
    order = await books.hall.payments._store.load_of_attempt(number)
    for fen in amounts:
        await books.hall.payments.refunds.request(order.id, CLERK, amount_fen=fen, reason="多缴", refund_id=new_id("rfd"))
    later = books.hall.offset
    async with asyncio.timeout(20):
        while True:
            order = await books.hall.payments._store.load_of_attempt(number)
            if all(refund.state == "succeeded" for refund in order.refunds):
                break
            books.hall.offset += timedelta(seconds=61)  # two refunds of one payment are a minute apart
            await books.hall.payments.sweep(books.hall.now())
            await asyncio.sleep(0.02)
    books.hall.offset = later


async def test_payments_refunds_and_fees_agree(accounts):
    numbers = [await accounts.paid("alipay", fen=fen) for fen in (4000, 20_000, 99_999)]
    await given_back(accounts, numbers[1], 1500, 1500, 700)
    await given_back(accounts, numbers[0], 4000)
    await accounts.bill("alipay")
    outcome = await accounts.run("alipay")
    assert (outcome.state, await accounts.findings()) == ("done", [])
    progress = outcome.document["progress"]
    assert progress["theirs"]["payments_fen"] == progress["ours"]["payments_fen"] == 123_999
    assert progress["theirs"]["refunds_fen"] == progress["ours"]["refunds_fen"] == 7700 and progress["matched"] == 7
    fee = (await ledger.balances(accounts.hall.database))["fee:alipay"]
    accounts.reconcile = accounts.build("trade")
    again = await accounts.run("alipay", again=True)  # the trade bill of the same day says the same
    assert again.document["findings"] == {} and (await ledger.balances(accounts.hall.database))["fee:alipay"] == fee
    assert (await verify(accounts.hall.database)).problems == []


async def test_every_kind_of_difference_is_found(accounts):
    kept, missing, other = [await accounts.paid("alipay") for _ in range(3)]
    await given_back(accounts, kept, 1000)
    refund = (await accounts.hall.payments._store.load_of_attempt(kept)).refunds[0]
    await accounts.bill("alipay", foreign=1, missing=[missing], amounts={other: 4100, refund.id: 900})
    await accounts.run("alipay")
    found = {(row["kind"], row["subject"], row.get("theirs_fen"), row.get("ours_fen")) for row in await accounts.findings()}
    assert found == {
        ("theirs_only", "payment", 100, None),
        ("ours_only", "payment", None, 4000),
        ("amount", "payment", 4100, 4000),
        # Of another amount, a refund is nobody's we know: both sides are listed.
        ("theirs_only", "refund", 900, None),
        ("ours_only", "refund", None, 1000),
    }
