"""A day reconciled against the stand-ins' bills: nothing to find, each kind of difference, patience, and death in the middle."""

import asyncio
import os
import socket
from dataclasses import dataclass
from datetime import UTC, timedelta

import pytest

from app.kernel.clock import SHANGHAI
from app.kernel.ids import new_id
from payments.ledger import store as ledger
from payments.ledger.verify import verify
from payments.providers.bill_downloads import BillMissing
from payments.reconcile.errors import FindingNotFound, FindingSettled, HeadNeeded
from payments.reconcile.store import Busy
from sandbox import refunds

PROVIDERS = ("wechatpay", "alipay")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_day_that_agrees(books, provider):
    numbers = [await books.paid(provider, fen=fen) for fen in (1, 4000, 99_999)]
    await books.bill(provider)
    outcome = await books.run(provider)
    assert (outcome.state, await books.findings()) == ("done", [])
    progress = outcome.document["progress"]
    assert progress["theirs"]["payments_fen"] == progress["ours"]["payments_fen"] == 104_000
    assert progress["matched"] == len(numbers)
    # The provider's fee is booked from the bill: 0.6 %.
    assert (await ledger.balances(books.hall.database))[f"fee:{provider}"] == pytest.approx(624, abs=2)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_foreign_payment_is_theirs_only(books, provider):
    await books.paid(provider)
    await books.bill(provider, foreign=2)
    await books.run(provider)
    first, second = await books.findings()
    assert (first["kind"], first["state"], first["theirs_fen"]) == ("theirs_only", "open", first["theirs_fen"])
    assert {first["theirs_fen"], second["theirs_fen"]} == {100, 101}
    # More lies at the provider than our books say; what it is for is not known yet.
    assert await books.suspense(provider) == -201


async def test_what_the_bill_lacks_is_ours_only(books):
    number = await books.paid()
    await books.bill(missing=[number], foreign=1)
    await books.run()
    found = {row["kind"]: row for row in await books.findings()}
    assert set(found) == {"ours_only", "theirs_only"}
    assert (found["ours_only"]["number"], found["ours_only"]["ours_fen"], found["ours_only"]["said"]) == (number, 4000, "paid")
    # Just around midnight the next bill is waited for first.
    assert found["ours_only"]["state"] in ("open", "waiting")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_another_amount(books, provider):
    number = await books.paid(provider)
    await books.bill(provider, amounts={number: 4001})
    await books.run(provider)
    (finding,) = await books.findings()
    assert (finding["kind"], finding["ours_fen"], finding["theirs_fen"], finding["state"]) == ("amount", 4000, 4001, "open")
    assert await books.suspense(provider) == -1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_payment_nobody_told_us_of_is_settled_by_asking(books, provider):
    number = await books.paid(provider, outcome="success_without_notice")
    await books.bill(provider)
    await books.run(provider)
    (finding,) = await books.findings()
    assert (finding["kind"], finding["state"], finding["how"]) == ("state", "settled", "query")
    order = await books.hall.database["orders"].find_one({"attempts.id": number})
    assert order["state"] == "paid"  # through settling.apply_report, with receipt and event
    assert await books.hall.database["events"].count_documents({"name": "order.paid"}) == 1
    assert await books.suspense(provider) == 0


async def test_a_held_payment_stays_with_staff(books):
    await books.paid(outcome="success_wrong_amount")
    await books.bill()
    await asyncio.sleep(0.3)  # its notice
    await books.run()
    (finding,) = await books.findings()
    assert (finding["kind"], finding["ours_fen"], finding["theirs_fen"], finding["state"]) == ("amount", 4000, 3999, "open")
    # It is in suspense since it was held; the bill adds nothing to that.
    assert await books.suspense() == -3999
    desk, key = books.reconcile.desk, finding["key"]
    with pytest.raises(HeadNeeded):
        await desk.settle(key, Clerk(), "已退回缴款人")
    with pytest.raises(FindingNotFound):
        await desk.settle(key, Clerk(role="head", agency_id="sg-rsj"), "已退回缴款人")
    settled = await desk.settle(key, Clerk(role="head"), "已退回缴款人")
    assert (settled["state"], settled["settled_by"]) == ("settled", "lixx")
    assert await books.suspense() == -3999  # until it is decided what becomes of it
    with pytest.raises(FindingSettled):
        await desk.settle(key, Clerk(role="head"), "再来一次")
    assert (await verify(books.hall.database)).problems == []


async def test_an_empty_day_is_a_result(books):
    for provider in PROVIDERS:
        await books.bill(provider)
    # Alipay has no word for it but "does not exist", which is no answer before its bills are out.
    assert (await books.run("alipay")).problem == "missing"
    books.hall.offset = timedelta(days=2)
    for provider in PROVIDERS:
        outcome = await books.run(provider)
        assert (outcome.state, outcome.document["progress"]["theirs"]["payments"]) == ("done", 0)
    assert await books.findings() == []


async def test_wechatpay_says_it_is_still_making_the_bill(books):
    await books.paid()
    await books.bill(creating=2)
    for _ in range(2):
        outcome = await books.run()
        assert (outcome.state, outcome.problem) == ("waiting", "creating")
        assert outcome.document["next_try_at"] > books.hall.now()
    assert (await books.run()).state == "done"


async def test_alipay_without_a_bill_is_believed_only_when_we_had_nothing(books):
    await books.paid("alipay")
    await books.bill("alipay", creating=1)
    outcome = await books.run("alipay")
    assert (outcome.state, outcome.problem) == ("waiting", "missing")
    assert (await books.run("alipay")).state == "done"


@pytest.mark.parametrize("mode", ["down", "error500", "garbage", "bad_signature"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_provider_that_is_away_or_not_to_be_trusted(books, provider, mode):
    await books.paid(provider)
    await books.bill(provider)
    await books.hall.sim("faults", provider=provider, mode=mode, count=2)
    outcome = await books.run(provider)
    assert outcome.state == "waiting"
    assert await books.findings() == []
    await books.hall.sim("faults", provider=provider, mode="none")
    assert (await books.run(provider)).state == "done"


async def test_a_file_that_differs_from_its_hash_is_not_used(books):
    await books.paid()
    await books.bill()
    fetch = books.reconcile.bills["wechatpay"].fetch

    async def damaged(day, to):
        bill = await fetch(day, to)
        raw = bytearray(bill.path.read_bytes())
        raw[len(raw) // 2] ^= 1
        bill.path.write_bytes(bytes(raw))
        return bill

    books.reconcile.bills["wechatpay"].fetch = damaged
    outcome = await books.run()
    assert outcome.state == "waiting" and outcome.problem.startswith("refused")
    assert [path.suffix for path in (books.folder / "bills").iterdir()] == [".refused"]  # for a person to look at


class Killed(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("die_at", range(1, 9))
async def test_killed_anywhere_it_goes_on_and_finds_nothing_twice(books, die_at):
    missing = await books.paid()
    await books.paid(outcome="success_without_notice")
    await books.paid()
    await books.bill(foreign=3, missing=[missing])
    database = books.hall.database
    steps = 0

    dying = books.build()
    for name in ("save", "add", "change"):
        real = getattr(dying.store, name)

        async def step(*arguments, _real=real, **more):
            nonlocal steps
            steps += 1
            if steps == die_at:
                raise Killed
            return await _real(*arguments, **more)

        setattr(dying.store, name, step)
    dying.store.release = _nothing  # a killed process releases nothing
    try:
        await dying.run("wechatpay", books.day)
    except Killed:
        # Its lease is still there: somebody else has to wait for it, or for its end.
        with pytest.raises(Busy):
            await books.build().run("wechatpay", books.day)
    books.hall.offset += timedelta(minutes=2)
    outcome = await books.build().run("wechatpay", books.day)
    assert outcome.state == "done"
    kinds = sorted(row["kind"] for row in await books.findings())
    assert kinds.count("theirs_only") == 3 and kinds.count("ours_only") == 1 and kinds.count("state") <= 1
    assert outcome.document["progress"]["ours"]["payments"] == 3
    entries = await database["ledger_entries"].find({"fact": {"$regex": "^(suspense|fee)"}}).to_list()
    assert len(entries) == len({row["fact"] for row in entries})


async def _nothing(*_arguments, **_more):
    return None


async def test_nobody_waits_for_a_process_of_this_machine_that_is_gone(books):
    await books.paid()
    await books.bill()
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    store, now = books.reconcile.store, books.hall.now()
    await store.claim("wechatpay", books.day, f"{socket.gethostname()}:{gone.pid}:x", now)
    assert (await books.run()).state == "done"
    await store.claim("alipay", books.day, f"{socket.gethostname()}:{os.getpid()}:x", now)
    with pytest.raises(Busy):
        await books.run("alipay")


async def test_two_processes_do_not_work_on_the_same_day(books):
    await books.paid()
    await books.bill()
    results = await asyncio.gather(*(books.build().run("wechatpay", books.day) for _ in range(4)), return_exceptions=True)
    assert {type(result).__name__ for result in results} <= {"Outcome", "Busy"}
    assert any(getattr(result, "state", "") == "done" for result in results)


async def test_what_the_next_bill_has_is_settled_by_it(books):
    """Paid at 23:59 by our record, in the bill of the day after."""
    number = await books.paid()
    await books.bill(missing=[number], foreign=1)
    await books.run()
    (mine,) = [row for row in await books.findings() if row["kind"] == "ours_only"]
    before = await books.suspense()
    # The same rows once more, now as the bill of tomorrow.
    tomorrow = books.day + timedelta(days=1)
    source = books.reconcile.bills["wechatpay"]
    fetch = source.fetch
    await books.bill()

    async def late(day, to):
        return await fetch(books.day, to)

    source.fetch = late
    await books.reconcile.run("wechatpay", tomorrow)
    row = await books.reconcile.store.finding(mine["_id"])
    assert (row["state"], row["how"]) == ("settled", "next_bill")
    assert await books.suspense() == before - (4000 if mine["state"] == "open" else 0)


async def test_a_number_that_was_unknown_can_come_back(books):
    """As after a restore from backup, before what was lost has been put back."""
    number = await books.paid()
    orders = books.hall.database["orders"]
    order = await orders.find_one_and_delete({"attempts.id": number})
    await books.bill()
    await books.run()
    (finding,) = await books.findings()
    assert (finding["kind"], finding["state"]) == ("theirs_only", "open")
    await orders.insert_one(order)
    await books.reconcile.run("wechatpay", books.day + timedelta(days=1))  # not there: nothing is looked at again
    books.reconcile.bills["wechatpay"].fetch = _no_bill
    await books.reconcile.run("wechatpay", books.day + timedelta(days=1))
    (finding,) = await books.findings()
    assert (finding["state"], finding["how"]) == ("settled", "found")
    assert await books.suspense() == 0


async def _no_bill(_day, _to):
    raise BillMissing(is_final=True)


async def test_done_is_done_and_again_begins_anew(books):
    await books.paid()
    await books.bill(foreign=1)
    await books.run()
    await books.bill(foreign=0)
    assert (await books.run()).document["progress"]["theirs"]["payments"] == 2
    outcome = await books.run(again=True)
    assert outcome.document["progress"]["theirs"]["payments"] == 1
    (finding,) = await books.findings()
    assert (finding["state"], finding["how"]) == ("settled", "withdrawn")


async def test_the_worker_runs_yesterday_from_ten_and_tries_again(books):
    await books.paid()
    await books.bill(creating=1)
    await books.bill("alipay")

    def at(hour, minute=0):
        local = books.hall.now().astimezone(SHANGHAI)
        tomorrow = local.replace(hour=hour, minute=minute, second=0, microsecond=0) + timedelta(days=1)
        return tomorrow.astimezone(UTC)

    ran = []
    run = books.reconcile.run

    async def watched(provider, day, **options):
        ran.append((provider, day))
        return await run(provider, day, **options)

    books.reconcile.run = watched
    # The providers' clocks stay where they are: only the reconciliation's own clock is moved.
    moment = at(9, 59)
    books.reconcile._clock = lambda: moment
    assert await books.reconcile.run_due() == 0
    moment = at(10)
    await books.reconcile.run_due()
    assert ran == [("wechatpay", books.day), ("alipay", books.day)]
    moment = at(10, 29)
    assert await books.reconcile.run_due() == 0  # Alipay is done, WeChat Pay's bill is being made
    moment = at(10, 30)
    assert await books.reconcile.run_due() == 1
    assert (await books.reconcile.store.load("wechatpay", books.day))["state"] == "done"
    moment = at(11)
    assert await books.reconcile.run_due() == 0


# --- refunds ---


async def refunded(books, provider, *, fen=1500, number=None, until=("succeeded",)):
    """Give back a part of a payment through the hall; return the refund's number."""
    number = number or await books.paid(provider)
    payments = books.hall.payments
    order = await books.hall.database["orders"].find_one({"attempts.id": number})
    refund_id = new_id("rfd")
    await payments.refunds.request(order["_id"], Clerk(), amount_fen=fen, reason="多收退回", refund_id=refund_id)
    async with asyncio.timeout(5):
        while (await books.hall.database["orders"].find_one({"refunds.id": refund_id}))["refunds"][-1]["state"] not in until:
            await payments.sweep(books.hall.now() + timedelta(seconds=120))
            await asyncio.sleep(0.05)
    return refund_id


@dataclass
class Clerk:
    account: str = "lixx"
    role: str = "clerk"
    agency_id: str = "sg-gaj"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_refunds_agree_too(books, provider):
    await refunded(books, provider)
    await books.bill(provider)
    outcome = await books.run(provider)
    assert await books.findings() == []
    progress = outcome.document["progress"]
    assert progress["theirs"]["refunds_fen"] == progress["ours"]["refunds_fen"] == 1500


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_refund_the_bill_lacks_and_one_of_another_amount(books, provider):
    missing = await refunded(books, provider)
    other = await refunded(books, provider)
    await books.bill(provider, missing=[missing], amounts={other: 1400})
    await books.run(provider)
    found = {row["kind"]: row for row in await books.findings()}
    assert (found["ours_only"]["number"], found["amount"]["number"]) == (missing, other)
    assert found["amount"]["subject"] == "refund" and found["amount"]["theirs_fen"] == 1400
    # 100 fen more lie at the provider than our books say; the missing one counts once it is a task.
    expected = -100 if found["ours_only"]["state"] == "waiting" else -1600
    assert await books.suspense(provider) == expected


async def test_a_refund_of_which_no_notice_told_is_settled_by_asking(books):
    """The bill says done while we still think it is under way."""
    refund_id = await refunded(books, "wechatpay")
    orders = books.hall.database["orders"]
    # As if the notice and the queries had not come through yet.
    await orders.update_one({"refunds.id": refund_id}, {"$set": {"refunds.$.state": "processing", "state": "refunding"}})
    await books.hall.database["ledger_entries"].delete_many({"fact": f"refund:{refund_id}"})
    await books.bill()
    await books.run()
    (finding,) = await books.findings()
    assert (finding["kind"], finding["subject"], finding["state"], finding["how"]) == ("state", "refund", "settled", "query")
    assert (await orders.find_one({"refunds.id": refund_id}))["refunds"][-1]["state"] == "succeeded"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_refund_made_at_the_providers_own_pages(books, provider):
    """Nobody of ours asked for it: it is in the bill alone."""
    number = await books.paid(provider)
    trade = books.hall.sandbox.sandbox.store.trade(provider, number)
    made = refunds.make(
        books.hall.sandbox.sandbox, trade, number="console001", amount_fen=700, reason="", notify_url=""
    )
    refunds.end(books.hall.sandbox.sandbox, made, "SUCCESS")
    await books.bill(provider)
    await books.run(provider)
    (finding,) = await books.findings()
    assert (finding["kind"], finding["subject"], finding["theirs_fen"], finding["state"]) == ("theirs_only", "refund", 700, "open")
    assert await books.suspense(provider) == 700
