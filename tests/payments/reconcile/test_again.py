"""A bill that its provider corrects: what it no longer shows is withdrawn, what it shows otherwise is revised, and the books follow."""

import asyncio

import pytest

from payments.ledger import store as ledger
from payments.ledger.verify import verify
from payments.reconcile.errors import FindingSettled
from payments.reconcile.store import Busy
from tests.payments.reconcile.test_reconcile import Clerk


async def is_clear(books, provider="wechatpay"):
    """Nothing is left in suspense, and every entry is where it belongs."""
    assert (await verify(books.hall.database)).problems == []
    return await books.suspense(provider) == 0


async def states(books):
    return {(row["kind"], row["state"], row.get("how")) for row in await books.findings()}


@pytest.mark.parametrize("provider", ["wechatpay", "alipay"])
async def test_what_the_corrected_bill_no_longer_shows_is_withdrawn(books, provider):
    number, other = [await books.paid(provider) for _ in range(2)]
    await books.bill(provider, foreign=1, amounts={number: 4001})
    outcome = await books.run(provider)
    assert await books.suspense(provider) == -101 and outcome.document["findings"]["open"] == 2
    await books.bill(provider, amounts={other: 3990})
    outcome = await books.run(provider, again=True)
    assert await states(books) == {("theirs_only", "settled", "withdrawn"), ("amount", "settled", "withdrawn"), ("amount", "open", None)}
    assert await books.suspense(provider) == 10
    facts = [row["fact"] async for row in books.hall.database["ledger_entries"].find({"fact": {"$regex": "^(suspense|correction)"}})]
    assert sorted(fact.split(":")[0] for fact in facts) == ["correction"] * 2 + ["suspense"] * 3
    assert "重新核对后已没有这处差异" in outcome.html.read_text("utf-8")
    await books.bill(provider)
    await books.run(provider, again=True)
    assert await is_clear(books, provider)
    again = await books.run(provider, again=True)
    assert again.document["findings"].get("open", 0) == 0 and await is_clear(books, provider)


async def test_a_difference_that_is_another_one_now_is_revised(books):
    number = await books.paid()
    for fen, suspense in [(4100, -100), (3900, 100), (3900, 100), (4000, 0), (4100, -100), (4100, -100)]:
        await books.bill(amounts={number: fen})
        await books.run(again=True)
        assert await books.suspense() == suspense, fen
        (finding,) = await books.findings()
        assert (finding["theirs_fen"], finding["state"]) == ((fen, "open") if suspense else (3900, "settled"))
    settled = await books.reconcile.desk.settle(finding["key"], Clerk(role="head"), "已补收")
    assert settled["state"] == "settled" and await is_clear(books)
    await books.run(again=True)  # the same difference, which a person has settled
    assert await is_clear(books) and (await books.findings())[0]["state"] == "settled"
    await books.bill(amounts={number: 4200})
    await books.run(again=True)
    assert await books.suspense() == -200 and (await books.findings())[0]["state"] == "open"


async def test_a_person_and_a_corrected_bill_at_once(books):
    for turn in range(6):
        number = await books.paid()
        await books.bill(amounts={number: 4100})
        await books.run(again=True)
        finding = next(row for row in await books.findings() if row["state"] == "open")
        before = await books.suspense()
        assert before == -100
        await books.bill(amounts={number: 4100 + turn % 2})
        settle = books.reconcile.desk.settle(finding["key"], Clerk(role="head"), "已核实")
        await asyncio.gather(settle, books.run(again=True), return_exceptions=True)
        left = [row for row in await books.findings() if row["state"] == "open"]
        assert await books.suspense() == -sum(row["theirs_fen"] - row["ours_fen"] for row in left)
        await books.bill()
        await books.run(again=True)
        assert await is_clear(books)


async def test_killed_between_any_two_steps_the_next_run_ends_right(books, monkeypatch):
    """The corrected bill is taken up by runs that die at each write of the ledger or of a finding, one after the other."""
    numbers = [await books.paid() for _ in range(3)]
    await books.bill(amounts=dict.fromkeys(numbers, 4100), foreign=1)
    await books.run()
    assert await books.suspense() == -400
    await books.bill(amounts={numbers[0]: 4200, numbers[1]: 4100})
    again = True
    for dies_at in range(1, 40):
        calls = 0

        def counted(original, dies_at=dies_at):
            async def write(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == dies_at:
                    raise RuntimeError("killed")
                result = await original(*args, **kwargs)
                return result

            return write

        with monkeypatch.context() as patch:
            patch.setattr(ledger, "post", counted(ledger.post))
            for name in ("revise", "change", "add", "saw"):
                patch.setattr(books.reconcile.store, name, counted(getattr(books.reconcile.store, name)))
            try:
                await books.run(again=again)
                break
            except RuntimeError:
                again = False  # the next one goes on with it
            except Busy:
                raise
    else:
        raise AssertionError("never done")
    assert dies_at > 3
    left = {row["number"]: row["state"] for row in await books.findings() if row["kind"] == "amount"}
    assert left == {numbers[0]: "open", numbers[1]: "open", numbers[2]: "settled"}
    assert await books.suspense() == -300
    assert (await verify(books.hall.database)).problems == []


async def test_a_finding_that_changed_under_the_readers_eyes_is_not_settled(books, monkeypatch):
    number = await books.paid()
    await books.bill(amounts={number: 4100})
    await books.run()
    (row,) = await books.findings()
    await books.bill(amounts={number: 4200})
    await books.run(again=True)

    async def as_it_was(_key):
        return row

    with monkeypatch.context() as patch, pytest.raises(FindingSettled):
        patch.setattr(books.reconcile.store, "finding_of_key", as_it_was)
        await books.reconcile.desk.settle(row["key"], Clerk(role="head"), "已核实")
    assert await books.suspense() == -200 and (await books.findings())[0]["state"] == "open"


@pytest.mark.parametrize("provider", ["wechatpay", "alipay"])
async def test_the_fee_of_a_corrected_bill_is_what_it_says(books, provider):
    number = await books.paid(provider, fen=100_000)
    await books.paid(provider, fen=50_000)
    for missing, fen in [([], 900), ([number], 300), ([number], 300), ([], 900)]:
        await books.bill(provider, missing=missing)
        await books.run(provider, again=True)
        assert (await ledger.balances(books.hall.database))[f"fee:{provider}"] == pytest.approx(fen, abs=1)
    assert (await verify(books.hall.database)).problems == []


async def test_a_held_payment_that_was_given_back_agrees_with_the_bill(books):
    from app.identity.model import StaffSession
    from app.kernel.ids import new_id

    number = await books.paid(outcome="success_wrong_amount")
    await asyncio.sleep(0.3)  # its notice
    await books.bill()
    await books.run()
    assert await states(books) == {("amount", "open", None)} and await books.suspense() == -3999
    clerk = StaffSession("clerk.sg-gaj", "经办员", "clerk", "sg-gaj")
    await books.hall.payments.held.give_back(number, clerk, reason="金额不符", refund_id=new_id("rfd"))
    async with asyncio.timeout(10):
        while not await books.hall.database["orders"].find_one({"refunds.state": "succeeded"}):
            await books.hall.payments.sweep(books.hall.now())
            await asyncio.sleep(0.05)
    await books.run(again=True)
    assert await states(books) == {("amount", "settled", "withdrawn")} and await is_clear(books)
    # What came and what went back are both in the bill and in our books.
    assert {k: v for k, v in (await ledger.balances(books.hall.database)).items() if not k.startswith(("fee", "provider"))} == {}
