"""main.py reconcile as an operator runs it: a process of its own against real servers and the stand-ins."""

import asyncio
import csv
import os
import sys
from pathlib import Path

import aiohttp
import pytest

from app.kernel.clock import today
from app.kernel.ids import ulid
from app.storage.mongo import Database
from sandbox.server import start

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def stand_ins(tmp_path):
    running = await start(0, tmp_path / "sandbox")
    yield running
    await running.stop()


async def test_the_command_writes_the_reports_and_says_how_it_went(servers, stand_ins, tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HALL_")}
    name = f"t_{ulid().lower()}"
    environment = kept | {
        "HALL_ENV": "test",
        "HALL_DATA_DIR": str(tmp_path),
        "HALL_MONGODB_URI": servers["mongodb"],
        "HALL_MONGODB_DATABASE": name,
        "HALL_REDIS_URL": servers["redis"],
        "HALL_SANDBOX_PORT": stand_ins.url.rpartition(":")[2],
        "HALL_LOG_LEVEL": "error",
    }

    async def run(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "main.py", "reconcile", *arguments, cwd=ROOT, env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    day = today().isoformat()
    async with aiohttp.ClientSession() as http:
        body = {"provider": "wechatpay", "day": day, "ready": True, "foreign": 1, "creating": 1}
        await http.post(f"{stand_ins.url}/_sim/bills", json=body)
    try:
        arguments = ("--day", day, "--provider", "wechatpay", "--to", str(tmp_path / "out"))
        code, out = await run(*arguments)
        assert code == 2 and "creating" in out, out
        code, out = await run(*arguments)
        assert code == 1 and "1 open" in out, out
        html = (tmp_path / "out" / f"reconcile-wechatpay-{day}.html").read_text("utf-8")
        assert "账单上有一笔收款 1.00 元，我方系统里没有这个单号。" in html
        with (tmp_path / "out" / f"reconcile-wechatpay-{day}.csv").open(encoding="utf-8-sig", newline="") as file:
            header, row = list(csv.reader(file))
        assert row[header.index("账单金额（元）")] == "1.00"
        code, out = await run("--day", "yesterday")
        assert code == 2 and "YYYY-MM-DD" in out
    finally:
        database = Database(servers["mongodb"], name)
        await database.client.drop_database(name)
        await database.close()
