"""What a payment notice costs when a million orders are stored, against ten thousand: two databases of one server, side by side in one run.

Every stored order is paid and has its receipt and its ledger entry, with all indexes; the orders whose notices are measured wait for their
payment and are the newest, as they are in life (an order lives for half an hour). Each side is a `main.py web` process of its own.
"""

import os
import statistics
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient, WriteConcern
from rich.console import Console
from rich.table import Table

from app.kernel.clock import utc_now
from bench import notices
from bench.load import cpu_seconds
from bench.processes import processes
from commands.indexes import INDEXES
from commands.servers import Server, free_port
from payments.ledger import booking
from payments.model import Attempt
from payments.receipts import known_receipt, new_receipts
from sandbox.credentials import Credentials, load_or_make

SIZES = (10_000, 1_000_000)
ROUNDS = 5
NOTICES = 1024
TARGET = 1.2
_AT_ONCE = 10_000


def paid_orders(own: Credentials, count: int) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield what is stored of paid orders: collection -> document. All of one making, each with its own numbers, the oldest first."""
    then = utc_now() - timedelta(days=300)
    order = notices.waiting_order(own, then)
    receipts = new_receipts(order, then)
    paid: Attempt = order.attempts[0].move("pay", paid_at=then, provider_trade_no="4200")
    order = order.with_attempt(paid).move("settle", paid_at=then, receipts=tuple(known_receipt(row) for row in receipts), next_ask_at=None)
    entry = booking.settled(order, paid, then).to_document() | {"sealed": True, "block": 1}
    document, receipt = order.to_document(), dict(receipts[0])
    for place in range(count):
        number = f"01M0{place:022d}"
        attempt = document["attempts"][0] | {"id": f"pay_{number}", "provider_trade_no": f"4200{place:024d}"}
        payable = dict(document["payables"][0]) | {"id": f"case_{number}"}
        known = dict(document["receipts"][0]) | {"id": f"rct_{number}", "number": f"RSGGAJ2026{place:08d}"}
        yield {
            "orders": document
            | {
                "_id": f"ord_{number}",
                "owner_id": f"res_{place * 7919 % count:026d}",
                "attempts": [attempt],
                "payables": [payable],
                "receipts": [known],
            },
            "receipts": receipt | {"_id": known["id"], "order_id": f"ord_{number}", "number": known["number"]},
            "ledger_entries": entry | {"_id": f"led_{number}", "fact": f"settled:pay_{number}", "order_id": f"ord_{number}"},
        }


async def store(uri: str, name: str, own: Credentials, count: int) -> None:
    """Store that many paid orders, then build every index of the hall."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri)  # waits as long as an index of a million takes
    database = client.get_database(name, write_concern=WriteConcern(w=1, j=False))
    waiting: dict[str, list[dict[str, Any]]] = {}
    for place, documents in enumerate(paid_orders(own, count), start=1):
        for collection, document in documents.items():
            waiting.setdefault(collection, []).append(document)
        if place % _AT_ONCE == 0 or place == count:
            for collection, rows in waiting.items():
                await database[collection].insert_many(rows, ordered=False)
            waiting = {}
    for collection in ("orders", "receipts", "ledger_entries"):
        await database[collection].create_indexes(list(INDEXES[collection]))
    await client.close()


async def run(servers: dict[str, Server], folder: Path, console: Console) -> None:
    """Store, measure in turns, show the table."""
    mongod = servers["mongod"]
    own = load_or_make(folder / "sandbox")
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongod.address)
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    cpu: dict[int, list[float]] = {size: [] for size in SIZES}
    with processes(folder, mongod.address, servers["redis-server"].address) as hall:
        webs: dict[int, tuple[int, int]] = {}
        for size in SIZES:
            console.print(f"storing {size:,} orders ...")
            await store(mongod.address, f"bench_{size}", own, size)
            port = await notices.started_web(hall, HALL_MONGODB_DATABASE=f"bench_{size}", HALL_PORT=str(free_port()))
            webs[size] = port, hall.started[-1].pid

        async def measure(size: int) -> tuple[float, float]:
            port, pid = webs[size]
            messages = await notices.fresh(client[f"bench_{size}"], own, NOTICES)
            before = cpu_seconds(pid) + cpu_seconds(mongod.process.pid)
            took_s = await notices.web_seconds(port, messages)
            return took_s / NOTICES * 1e6, (cpu_seconds(pid) + cpu_seconds(mongod.process.pid) - before) / NOTICES * 1e6

        for size in SIZES:
            await measure(size)  # connections, plans, caches
        for place in range(ROUNDS):
            for size in SIZES if place % 2 == 0 else reversed(SIZES):
                took_us, cpu_us = await measure(size)
                seconds[size].append(took_us)
                cpu[size].append(cpu_us)
    await client.close()
    table = Table("orders stored", "us per notice", "range", "CPU us per notice (web and mongod)", "range")
    for size in SIZES:
        table.add_row(f"{size:,}", *_told(seconds[size]), *_told(cpu[size]))
    console.print(table)
    for what, found in (("time", seconds), ("CPU", cpu)):
        few, many = (found[size] for size in SIZES)
        ratios = sorted(after / before for before, after in zip(few, many, strict=True))
        console.print(
            f"{what} per notice, {SIZES[1]:,} orders to {SIZES[0]:,}: {statistics.median(ratios):.2f}"
            f" ({ratios[0]:.2f}-{ratios[-1]:.2f}; at most {TARGET})"
        )
    console.print(f"{ROUNDS} rounds of {NOTICES:,} notices each, {notices.AT_ONCE} at once, the sides in turn; load {os.getloadavg()[0]:.1f}.")


def _told(values: list[float]) -> tuple[str, str]:
    return f"{statistics.median(values):,.0f}", f"{min(values):,.0f}-{max(values):,.0f}"
