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


async def _blocks_swapped(entries, blocks):
    first, second = await blocks.find({}).sort("_id", 1).to_list()
    await blocks.replace_one({"_id": 1}, second | {"_id": 1})
    await blocks.replace_one({"_id": 2}, first | {"_id": 2})


async def _last_block_and_its_entries_gone(entries, blocks):
    await blocks.delete_one({"_id": 2})
    await entries.delete_many({"block": 2})


async def _chain_gone(entries, blocks):
    await blocks.delete_many({})


async def _entries_reordered(entries, blocks):
    block = await blocks.find_one({"_id": 2})
    await blocks.update_one({"_id": 2}, {"$set": {"entries": block["entries"][::-1]}})


async def _entry_named_twice(entries, blocks):
    block = await blocks.find_one({"_id": 2})
    await blocks.update_one({"_id": 2}, {"$set": {"entries": [*block["entries"], block["entries"][0]]}})


async def _entry_of_another_block(entries, blocks):
    await entries.update_one({"block": 1}, {"$set": {"block": 2}})


async def _entry_unsealed(entries, blocks):
    """Put before the sealer once more, it would count twice."""
    await entries.update_one({"block": 1}, {"$set": {"sealed": False}})


async def _fact_renamed(entries, blocks):
    await entries.update_one({"fact": {"$regex": "^settled"}}, {"$set": {"fact": "fee:7"}})


async def _dated_back(entries, blocks):
    await entries.update_one({}, {"$set": {"at": utc_now()}})


async def _memo_changed(entries, blocks):
    await entries.update_one({}, {"$set": {"memo": "nothing to see"}})


async def _hash_changed(entries, blocks):
    await blocks.update_one({"_id": 2}, {"$set": {"hash": "0" * 64}})


async def _sealed_later(entries, blocks):
    """The second block's place in the chain."""
    await blocks.insert_one(await blocks.find_one_and_delete({"_id": 2}) | {"_id": 3})


async def _paid_for_nothing(entries, blocks):
    """An entry for an order that was never paid."""
    order = await entries.database["orders"].find_one({"attempts.state": {"$ne": "paid"}})
    await entries.insert_one(
        Entry(f"settled:{order['attempts'][0]['id']}", utc_now(), fee(1).lines, order_id=order["_id"]).to_document() | {"sealed": False}
    )


async def _booked_for_another_order(entries, blocks):
    order = await entries.database["orders"].find_one({"attempts.state": {"$ne": "paid"}})
    await entries.update_one({"fact": {"$regex": "^settled"}}, {"$set": {"order_id": order["_id"]}})


async def _order_paid_by_hand(entries, blocks):
    """A settled order without an entry."""
    await entries.database["orders"].update_one(
        {"attempts.state": {"$ne": "paid"}}, {"$set": {"state": "paid", "attempts.0.state": "paid"}}
    )


async def _order_gone(entries, blocks):
    await entries.database["orders"].delete_one({"state": "paid"})


async def _order_amount_changed(entries, blocks):
    await entries.database["orders"].update_one({"state": "paid"}, {"$set": {"attempts.0.amount_fen": 1}})


async def _payable_of_another_agency(entries, blocks):
    await entries.database["orders"].update_one({"state": "paid"}, {"$set": {"payables.0.agency_id": "mine"}})


async def _refund_made_up(entries, blocks):
    order = await entries.database["orders"].find_one({"state": "paid"})
    lines = entry_lines(("agency:sg-gaj", 4000), ("refund_out", -4000))
    await entries.insert_one(Entry(f"refund_reserved:{new_id('rfd')}", utc_now(), lines, order_id=order["_id"]).to_document() | {"sealed": False})


async def _suspense_entry_gone(entries, blocks):
    await entries.delete_one({"fact": {"$regex": "^held:"}})


async def _suspense_amount_changed(entries, blocks):
    await entries.update_one(
        {"fact": {"$regex": "^held:"}}, {"$set": {"lines.0.amount_fen": 5, "lines.1.amount_fen": -5}}
    )


TAMPERINGS = [
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
    _blocks_swapped,
    _last_block_and_its_entries_gone,
    _chain_gone,
    _entries_reordered,
    _entry_named_twice,
    _entry_of_another_block,
    _entry_unsealed,
    _fact_renamed,
    _dated_back,
    _memo_changed,
    _hash_changed,
    _sealed_later,
    _paid_for_nothing,
    _booked_for_another_order,
    _order_paid_by_hand,
    _order_gone,
    _order_amount_changed,
    _payable_of_another_agency,
    _refund_made_up,
    _suspense_entry_gone,
    _suspense_amount_changed,
]


async def test_meddling_of_every_kind_is_found(hall):
    """Each on the same good books, which are put back and proven clean in between."""
    await paid(hall, 2)
    await hall.payments.seal_ledger()
    await paid(hall, 2)
    resident = await hall.resident()
    attempt, _ = await hall.pay(await hall.order(resident))
    await hall.sim("pay", provider="wechatpay", out_trade_no=attempt.id, outcome="success_wrong_amount")
    async with asyncio.timeout(5):
        while not await hall.database["orders"].find_one({"attempts.state": "held"}):
            await asyncio.sleep(0.02)
    await hall.payments.seal_ledger()
    await hall.pay(await hall.order(resident))  # one that is not paid
    good = {name: await hall.database[name].find({}).to_list() for name in ("ledger_entries", "ledger_blocks", "orders")}
    unseen = []
    for tamper in TAMPERINGS:
        assert await proof(hall) == [], tamper.__name__
        await tamper(hall.database["ledger_entries"], hall.database["ledger_blocks"])
        if not await proof(hall):
            unseen.append(tamper.__name__)
        for name, rows in good.items():
            await hall.database[name].delete_many({})
            await hall.database[name].insert_many(rows)
    assert unseen == []


async def test_a_chain_that_is_made_anew_from_end_to_end_does_not_fit_what_was_noted(hall):
    await paid(hall, 2)
    await hall.payments.seal_ledger()
    first = await hall.database["ledger_blocks"].find_one({"_id": 1})
    noted = {1: first["hash"]}
    assert (await verify(hall.database, noted=noted)).problems == []
    assert (await verify(hall.database, noted={1: first["hash"][:16]})).problems == []
    await ledger.post(hall.database, fee(1))
    await hall.payments.seal_ledger()
    assert (await verify(hall.database, noted=noted)).problems == []
    await hall.database["ledger_blocks"].delete_many({})
    await hall.database["ledger_entries"].delete_one({"fact": "fee:1"})
    await hall.database["ledger_entries"].update_many({}, {"$set": {"sealed": False}, "$unset": {"block": ""}})
    assert await proof(hall) == []  # nothing in the database tells of the fee any more
    assert (await verify(hall.database, noted={2: "abc"})).problems == ["block 2 was noted elsewhere and is not there"]
    await ledger.post(hall.database, fee(2))
    await hall.payments.seal_ledger()
    assert (await verify(hall.database, noted=noted)).problems == ["block 1 is not the one that was noted elsewhere"]


async def test_what_is_older_than_the_ledger_is_taken_in_once(hall):
    await paid(hall, 2)
    await hall.database["ledger_entries"].delete_many({})
    assert len(await proof(hall)) == 2
    assert await adopt(hall.database) == 2
    assert await adopt(hall.database) == 0
    assert await proof(hall) == []
    with suppress(KeyError):
        assert (await ledger.balances(hall.database))["agency:sg-gaj"] == -8000
