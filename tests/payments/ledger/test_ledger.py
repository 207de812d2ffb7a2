"""The ledger beside real payments: booked with the effect or not at all, sealed by whoever comes first, and proof against meddling."""

import asyncio
from contextlib import suppress

import pytest

from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from app.storage import outbox
from payments.ledger import store as ledger
from payments.ledger.entries import Entry, entry_lines, fee_account, provider_account
from payments.ledger.verify import adopt, verify
from tests.payments.test_late import closed_order, settling


async def paid(hall, count=1):
    """Pay some orders; return them."""
    resident = await hall.resident()
    orders = [await hall.order(resident) for _ in range(count)]
    for order in orders:
        attempt, _ = await hall.pay(order)
        await hall.sim("pay", provider="wechatpay", out_trade_no=attempt.id, outcome="success")
        await hall.until(order, "paid")
    return orders


async def proof(hall):
    return (await verify(hall.database)).problems


async def test_a_payment_is_booked_once_and_the_books_are_clean(hall):
    (order,) = await paid(hall)
    attempt = (await hall.payments.get_order(order.id, order.owner_id)).paid_attempt
    assert await ledger.balances(hall.database) == {"provider:wechatpay": 4000, "agency:sg-gaj": -4000}
    rows = await hall.database["ledger_entries"].find({}).to_list()
    assert [(row["fact"], row["order_id"]) for row in rows] == [(f"settled:{attempt.id}", order.id)]
    assert await proof(hall) == []
    assert await hall.payments.seal_ledger() == 1
    assert await ledger.balances(hall.database) == {"provider:wechatpay": 4000, "agency:sg-gaj": -4000}
    assert await proof(hall) == []


async def test_many_reports_at_once_book_once(hall):
    resident = await hall.resident()
    case = hall.cases.owe(resident)
    order, attempt, report = await closed_order(hall, resident, case)
    await asyncio.gather(*(settling(hall).apply_report(report, "notice", hall.now()) for _ in range(8)))
    assert await hall.database["ledger_entries"].count_documents({}) == 1
    assert await proof(hall) == []


async def test_death_before_the_commit_leaves_neither_payment_nor_entry(hall, monkeypatch):
    resident = await hall.resident()
    order, attempt, report = await closed_order(hall, resident, hall.cases.owe(resident))

    async def killed(*_args):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(outbox, "append", killed)  # after the entry has been written, before the commit
        await settling(hall).apply_report(report, "notice", hall.now())
    assert await hall.database["ledger_entries"].count_documents({}) == 0
    assert await hall.state(order) == "closed" and await proof(hall) == []
    await settling(hall).apply_report(report, "notice", hall.now())
    assert await hall.state(order) == "paid" and await proof(hall) == []


async def test_sealers_at_once_make_one_chain(hall):
    await paid(hall)
    for index in range(40):
        await ledger.post(hall.database, fee(index))
    sealed = await asyncio.gather(*(hall.payments.seal_ledger() for _ in range(5)))
    assert sum(sealed) == 41 and await hall.payments.seal_ledger() == 0
    assert await proof(hall) == []
    assert sum((await ledger.balances(hall.database)).values()) == 0


def fee(index, fen=3):
    return Entry(f"fee:{index}", utc_now(), entry_lines((fee_account("wechatpay"), fen), (provider_account("wechatpay"), -fen)))


async def test_a_fact_is_booked_once_and_never_otherwise(hall):
    assert await ledger.post(hall.database, fee(1)) is True
    assert await ledger.post(hall.database, fee(1)) is False
    with pytest.raises(ledger.FactBookedDifferently):
        await ledger.post(hall.database, fee(1, fen=4))
    assert await ledger.balances(hall.database) == {"fee:wechatpay": 3, "provider:wechatpay": -3}


async def test_balances_and_proof_hold_while_the_hall_works(hall):
    stop = asyncio.Event()

    async def keep_sealing():
        while not stop.is_set():
            await hall.payments.seal_ledger()
            await asyncio.sleep(0)

    sealing = asyncio.create_task(keep_sealing())
    paying = asyncio.create_task(paid(hall, 6))
    while not paying.done():
        assert sum((await ledger.balances(hall.database)).values()) == 0
        assert await proof(hall) == []
    await paying
    stop.set()
    await sealing
    assert await ledger.balances(hall.database) == {"provider:wechatpay": 24000, "agency:sg-gaj": -24000}


async def _more_money(entries, blocks):
    await entries.update_one({}, {"$set": {"lines.0.amount_fen": 1}})


async def _both_lines(entries, blocks):
    await entries.update_one({}, {"$set": {"lines.0.amount_fen": 1, "lines.1.amount_fen": -1}})


async def _other_agency(entries, blocks):
    await entries.update_one({}, {"$set": {"lines.1.account": "agency:mine"}})


async def _entry_gone(entries, blocks):
    await entries.delete_one({})


async def _entry_slipped_in(entries, blocks):
    await entries.insert_one(fee(9).to_document() | {"sealed": True, "block": 1})


async def _entry_in_no_block(entries, blocks):
    await entries.insert_one(fee(9).to_document() | {"sealed": True})


async def _made_up_payment(entries, blocks):
    await entries.insert_one(
        Entry(f"settled:{new_id('pay')}", utc_now(), fee(1).lines, order_id="ord_none").to_document() | {"sealed": False}
    )


async def _balance_changed(entries, blocks):
    await blocks.update_one({"_id": 1}, {"$set": {"balances.agency:sg-gaj": -1}})


async def _first_block_gone(entries, blocks):
    await blocks.delete_one({"_id": 1})


async def _last_block_gone(entries, blocks):
    await blocks.delete_one({"_id": 2})


async def _rewritten(entries, blocks):
    """A block made to fit a changed entry, as somebody who knows the code would do; the order still knows better."""
    await entries.update_one({"block": 2}, {"$set": {"lines.0.amount_fen": 1, "lines.1.amount_fen": -1}})
    changed = [Entry.from_document(row) for row in await entries.find({"block": 2}).to_list()]
    await blocks.replace_one({"_id": 2}, ledger.next_block(await blocks.find_one({"_id": 1}), changed, utc_now()))


@pytest.mark.parametrize(
    "tamper",
    [
        _more_money,
        _both_lines,
        _other_agency,
        _entry_gone,
        _entry_slipped_in,
        _entry_in_no_block,
        _made_up_payment,
        _balance_changed,
        _first_block_gone,
        _last_block_gone,
        _rewritten,
    ],
)
async def test_meddling_is_found(hall, tamper):
    for _ in range(2):
        await paid(hall)
        await hall.payments.seal_ledger()
    assert await proof(hall) == []
    await tamper(hall.database["ledger_entries"], hall.database["ledger_blocks"])
    assert await proof(hall) != []


async def test_what_is_older_than_the_ledger_is_taken_in_once(hall):
    await paid(hall, 2)
    await hall.database["ledger_entries"].delete_many({})
    assert len(await proof(hall)) == 2
    assert await adopt(hall.database) == 2
    assert await adopt(hall.database) == 0
    assert await proof(hall) == []
    with suppress(KeyError):
        assert (await ledger.balances(hall.database))["agency:sg-gaj"] == -8000
