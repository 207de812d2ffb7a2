"""`python main.py ledger` as an operator runs it: a process of its own against a real database."""

import asyncio
import os
import sys

import pytest

from app.identity.staff import StaffAccounts
from app.kernel.clock import utc_now
from app.storage.mongo import Database, ensure_indexes
from config.settings import ROOT
from payments.ledger import store
from payments.ledger.entries import Entry, entry_lines


@pytest.fixture
async def run(database: Database, servers, tmp_path):
    await ensure_indexes(database, store.INDEXES)
    environment = os.environ | {
        "HALL_ENV": "test",
        "HALL_MONGODB_URI": servers["mongodb"],
        "HALL_MONGODB_DATABASE": database.db.name,
        "HALL_DATA_DIR": str(tmp_path),
    }

    async def run(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "main.py", "ledger", *arguments, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    return run


async def test_balances_proof_and_a_broken_book(database, run):
    fee = Entry("fee:1", utc_now(), entry_lines(("fee:wechatpay", 1205), ("provider:wechatpay", -1205)))
    await store.post(database, fee)
    await store.seal(database, utc_now())
    code, shown = await run("balances")
    assert code == 0 and "12.05" in shown and "-12.05" in shown and shown.splitlines()[-1].endswith("0.00")
    code, shown = await run("verify")
    assert code == 0 and "in order" in shown
    await database["ledger_entries"].update_one({}, {"$set": {"lines.0.amount_fen": 1, "lines.1.amount_fen": -1}})
    code, shown = await run("verify")
    assert code == 1 and "WRONG" in shown


async def test_payouts_and_corrections(database, run, keys):
    await StaffAccounts(database, keys).ensure_demo_accounts([{"id": "sg-zsj", "short_name": "政数"}], "demo-password-1")
    lines = entry_lines(("provider:wechatpay", 4000), ("agency:sg-gaj", -4000))
    await store.post(database, Entry("settled:pay_1", utc_now(), lines, provider="wechatpay", agency_id="sg-gaj"))
    payout = ["payout", "--agency", "sg-gaj", "--provider", "wechatpay", "--reference", "T-20261124-1"]
    by = ["--by", "clerk.sg-zsj"]
    first, again = [await run(*payout, "--amount", "15.50", *by) for _ in range(2)]
    assert (first, again[0]) == ((0, "payout T-20261124-1: booked\n"), 0) and "was booked before" in again[1]
    assert (await run(*payout, "--amount", "15.51", *by))[0] == 1  # the same reference with another amount
    payout[-1] = "T-20261124-2"
    for wrong in (["--amount", "24.51", *by], ["--amount", "1.005", *by], ["--amount", "1", "--by", "nobody"]):
        assert (await run(*payout, *wrong))[0] in (1, 2)
    assert (await run("payout", "--agency", "nobody", "--provider", "alipay", "--amount", "1", "--reference", "abc", *by))[0] == 1
    code, shown = await run("balances", "--agency", "sg-gaj")
    assert code == 0 and shown.splitlines()[1].split() == ["wechatpay", "40.00", "0.00", "15.50", "0.00", "24.50"]
    correct = ["correct", "--number", "2026-17", "--reason", "食堂收款", *by, "--line", "suspense:wechatpay=1.00"]
    assert (await run(*correct, "--line", "provider:wechatpay=-1.00", "--agreed-by", "clerk.sg-zsj"))[0] == 1
    assert (await run(*correct, "--line", "provider:wechatpay=-1.01", "--agreed-by", "head.sg-zsj"))[0] == 1
    assert await run(*correct, "--line", "provider:wechatpay=-1.00", "--agreed-by", "head.sg-zsj") == (0, "correction 2026-17: booked\n")
    code, shown = await run("balances")
    assert {line.split()[0]: line.split()[1] for line in shown.splitlines()} == {
        "agency:sg-gaj": "-24.50", "provider:wechatpay": "23.50", "suspense:wechatpay": "1.00", "sum": "0.00",
    }  # fmt: skip
    await store.seal(database, utc_now())
    block = await database["ledger_blocks"].find_one({})
    assert (await run("verify", "--noted", f"1:{'0' * 64}"))[0] == 1
    code, shown = await run("verify", "--noted", f"1:{block['hash']}")
    assert code == 1 and "order that is not there" in shown and "noted" not in shown  # settled:pay_1 has no order in this test
