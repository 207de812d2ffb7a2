"""`python main.py ledger` as an operator runs it: a process of its own against a real database."""

import asyncio
import os
import sys

import pytest

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
