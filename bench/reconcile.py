"""A day reconciled, at 100,000 and at 1,000,000 rows: rows per second, and peak memory as a ratio.

    python -m bench.reconcile run <mongodb uri> <database> <folder> <day>     one day in a process of its own; prints one line of JSON

Everything is real but the download: bill file, reader, workbook, orders in MongoDB, both directions. All rows agree.
"""

import asyncio
import gzip
import json
import resource
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pymongo import AsyncMongoClient, WriteConcern
from rich.console import Console
from rich.table import Table

from app.storage.mongo import Database
from config.settings import ROOT
from payments import store as payments_store
from payments.bill import BillRow, Reading
from payments.providers import wechatpay_bills
from payments.providers.bill_downloads import FetchedBill
from payments.reconcile import store
from payments.reconcile.service import Reconcile

SIZES = {date(2026, 11, 1): 100_000, date(2026, 11, 2): 1_000_000}
DATABASE = "bench_reconcile"

_COLUMNS = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,货币种类,应结订单金额,代金券金额,"
    "微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,商品名称,商户数据包,手续费,费率,订单金额,申请退款金额,费率备注"
)
_SUMS = "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额"


class BillOnDisk:
    """A bill source whose downloads have already happened."""

    provider = "wechatpay"
    has_refund_numbers = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def fetch(self, day: date, to: Path) -> FetchedBill:
        to.hardlink_to(self._folder / f"{day}.csv.gz")
        return FetchedBill(to)

    def read(self, bill: FetchedBill, reading: Reading) -> Iterator[BillRow]:
        return wechatpay_bills.read_file(bill.path, is_gzip=True, reading=reading)


def rows_of(day: date, count: int) -> Iterator[tuple[str, int, datetime]]:
    """Yield (number, fen, moment) of the day's payments."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=8)
    for place in range(count):
        yield f"pay_01M8{day:%m%d}{place:018d}", 4000 + place % 97, begin + timedelta(seconds=86399 * place // count)


def write_bill(path: Path, day: date, count: int) -> None:
    """Write the day's bill as WeChat Pay does, line by line."""
    total = 0
    with gzip.open(path, "wt", encoding="utf-8", newline="", compresslevel=1) as file:
        file.write("\ufeff" + _COLUMNS + "\r\n")
        for number, fen, at in rows_of(day, count):
            total += fen
            yuan = f"{fen // 100}.{fen % 100:02d}"
            local = f"{at + timedelta(hours=8):%Y-%m-%d %H:%M:%S}"
            file.write(
                f"`{local},`wxab8acd895ab1638a,`1921000401,`0,`,`4200{number[-18:]}000000,`{number},`oHkLxtx0vUqe,`JSAPI,`SUCCESS,`OTHERS,`CNY,"
                f"`{yuan},`0.00,`0,`0,`0.00,`0.00,`,`,`居民身份证丢失补领,`,`0.00000,`0.60%,`{yuan},`0.00,`\r\n"
            )
        yuan = f"{total // 100}.{total % 100:02d}"
        file.write(f"{_SUMS}\r\n`{count}.0,`{yuan},`0.00,`0.00,`0.00000,`{yuan},`0.00\r\n")


async def seed(uri: str) -> None:
    """Store an order with one paid attempt for every row."""
    client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(uri)
    orders = client[DATABASE].get_collection("orders", write_concern=WriteConcern(w=1, j=False))
    for day, count in SIZES.items():
        batch: list[dict[str, object]] = []
        for number, fen, at in rows_of(day, count):
            attempt = {"id": number, "provider": "wechatpay", "state": "paid", "amount_fen": fen, "paid_at": at}
            batch.append(
                {
                    "_id": f"ord_{number[4:]}",
                    "state": "paid",
                    "amount_fen": fen,
                    "payables": [{"kind": "case", "id": f"case_{number[4:]}", "agency_id": "sg-gaj", "amount_fen": fen}],
                    "attempts": [attempt],
                    "refunds": [],
                }
            )
            if len(batch) == 20_000:
                await orders.insert_many(batch, ordered=False)
                batch = []
        if batch:
            await orders.insert_many(batch, ordered=False)
    # By this client, which waits as long as an index of a million orders takes: those of the payments room, and of the reconciliation.
    await orders.create_indexes(payments_store.INDEXES["orders"] + store.INDEXES["orders"])
    await client[DATABASE]["findings"].create_indexes(store.INDEXES["findings"])
    await client.close()


async def _reconcile(uri: str, folder: Path, day: date) -> dict[str, float]:
    database = Database(uri, DATABASE)
    reconcile = Reconcile(
        database, providers={}, sources={}, bills=[BillOnDisk(folder)], folder=folder / "work", public_url="http://127.0.0.1"
    )
    began = time.perf_counter()
    outcome = await reconcile.run("wechatpay", day)
    took_s = time.perf_counter() - began
    await database.close()
    assert outcome.document is not None and outcome.document["progress"]["matched"] == SIZES[day], outcome
    return {"took_s": took_s, "peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


async def run(uri: str, folder: Path, console: Console) -> None:
    """Make the data, reconcile each size in a process of its own, show the table."""
    console.print("writing bills and orders ...")
    for day, count in SIZES.items():
        await asyncio.to_thread(write_bill, folder / f"{day}.csv.gz", day, count)
    await seed(uri)
    table = Table("rows", "seconds", "rows per second", "peak memory, MB")
    peaks = []
    for day, count in SIZES.items():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.reconcile", "run", uri, str(folder), day.isoformat(), cwd=ROOT,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        answer, errors = await process.communicate()
        if process.returncode:
            raise RuntimeError(errors.decode()[-2000:])
        found = json.loads(answer.splitlines()[-1])
        peaks.append(found["peak_kb"])
        table.add_row(f"{count:,}", f"{found['took_s']:.1f}", f"{count / found['took_s']:,.0f}", f"{found['peak_kb'] / 1024:.0f}")
    console.print(table)
    console.print(f"peak memory, {max(SIZES.values()):,} to {min(SIZES.values()):,} rows: {peaks[-1] / peaks[0]:.2f} (at most 1.10)")


if __name__ == "__main__":
    _, _, uri, place, text = sys.argv
    print(json.dumps(asyncio.run(_reconcile(uri, Path(place), date.fromisoformat(text)))))
