"""What a clerk's list costs when a million cases are stored, against ten thousand: two databases of one server, side by side in one run.

One case in five is open, the others have ended. The measured agency has a tenth of all, so its own list grows a hundredfold with the rest.
Each side is a `main.py web` process; a request is the whole list page of the API: rows, counts of every scope and lamp, the audit row.
"""

import asyncio
import os
import random
import secrets
import statistics
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from pymongo import AsyncMongoClient, WriteConcern
from rich.console import Console
from rich.table import Table

from app.cases import listed
from app.cases.documents import to_document
from app.cases.model import Case, State, TimelineEntry
from app.kernel.clock import today, utc_now
from app.kernel.crypto import KeyRing, make_key_ring
from bench.processes import processes, until_up
from commands.indexes import INDEXES
from commands.servers import Server, free_port

SIZES = (10_000, 1_000_000)
TARGET = 1.5
ROUNDS = 7
REQUESTS = 200
AGENCY = "sg-gaj"
_AT_ONCE = 5_000
_OPEN = (State.SUBMITTED, State.ACCEPTED, State.IN_REVIEW, State.APPROVED, State.SUPPLEMENT_REQUIRED)
_ENDED = (State.COMPLETED, State.COMPLETED, State.COMPLETED, State.DENIED, State.WITHDRAWN)
_DIVISIONS = ("440203", "440204", "440205", "440222", "440203001", "440281")
_PERSONAL = frozenset({"name", "mobile", "id_number"})


def cases(count: int, keys: KeyRing, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield that many case documents, the oldest first, with everything that the hall writes beside a case."""
    now, on = utc_now(), today()
    entry = TimelineEntry(now, "case.submitted", "申请人", "已提交申请", "等待受理，受理期限为五个工作日。")
    ended: dict[str, Any] = {}
    for place in range(count):
        is_open = rng.random() < 0.2
        due_on = on + timedelta(days=int(rng.gauss(9, 5)))
        agency = AGENCY if rng.random() < 0.1 else f"sg-{rng.randrange(20)}"
        item = rng.randrange(10)
        case = Case(
            id=f"case_{place:026d}",
            number=f"11440200999000056R44401319{item:05d}{now:%Y%m%d}{place:07d}",
            query_code="3KXM7PQW",
            owner_id=f"res_{place * 7919 % count:026d}",
            item_code=f"11440200999000056R44401319{item:05d}",
            item_version=1,
            item_name="居民身份证丢失补领",
            agency_id=agency,
            agency_name="韶关市公安局",
            division_code=rng.choice(_DIVISIONS),
            state=rng.choice(_OPEN if is_open else _ENDED),
            version=7,
            created_at=now,
            updated_at=now,
            answers={"age": "adult"},
            form={"name": "张示例", "mobile": "13800000001", "id_number": "440203199001010011", "lost_date": "2026-11-01", "delivery": "window"},
            materials={"hukou": {"files": [{"id": f"{place:024x}", "name": "户口簿.jpg", "type": "image/jpeg", "size": 812345, "at": now}]}},
            timeline=(entry,) * 5,
            assignee=rng.choice((None, f"clerk.{agency}", f"clerk2.{agency}", f"clerk3.{agency}")),
            submitted_at=now - timedelta(days=rng.randrange(40)),
            accept_by_on=due_on,
            deadline_on=due_on,
            deliver_by_on=due_on,
        )
        if is_open or not ended:
            document = to_document(case, keys, _PERSONAL) | listed.listed(case, keys)
            ended = ended or document
        else:  # nobody opens these here, so they are not sealed one by one
            plain = {name: getattr(case, name) for name in ("number", "owner_id", "item_code", "agency_id", "division_code", "assignee")}
            document = ended | plain | {"_id": case.id, "state": case.state.value, "is_open": False, "due_on": listed.NO_DAY}
            document |= {"worklist_agencies": [agency], "queue_keys": listed.queue_keys([agency], case), "number_reversed": case.number[::-1]}
            document["look_on"] = None
        yield document | {"find_by": [secrets.token_hex(32) for _ in range(3)]}


async def store(uri: str, name: str, count: int, keys: KeyRing) -> None:
    """Store that many cases, then build every index of the hall."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri)  # waits as long as an index of a million takes
    collection = client.get_database(name, write_concern=WriteConcern(w=1, j=False))["cases"]
    waiting: list[dict[str, Any]] = []
    for document in cases(count, keys, random.Random(count)):
        waiting.append(document)
        if len(waiting) == _AT_ONCE:
            await collection.insert_many(waiting, ordered=False)
            waiting = []
    if waiting:
        await collection.insert_many(waiting, ordered=False)
    await collection.create_indexes(list(INDEXES["cases"]))
    await client.close()


def _asked(rng: random.Random) -> str:
    """Return the query of one list page, as clerks ask: mostly the whole list, often their own, some filters, some far pages."""
    asked: dict[str, Any] = {"limit": 50}
    asked |= rng.choice(({}, {}, {"scope": "mine"}, {"scope": "unclaimed"}))
    asked |= rng.choice(({}, {}, {"lamp": "red"}, {"lamp": "yellow"}, {"division": "440203"}, {"state": "submitted"}, {"division": "440203", "state": "in_review"}))
    if rng.random() < 0.2:
        asked["cursor"] = f"{today() + timedelta(days=rng.randrange(12))}~case_{'0' * 26}"
    return urlencode(asked)


async def run(servers: dict[str, Server], folder: Path, console: Console) -> None:
    """Store, measure in turns, show the table."""
    mongod, redis = servers["mongod"], servers["redis-server"]
    ring = make_key_ring()
    keys = KeyRing.from_text(ring)
    p95: dict[int, list[float]] = {size: [] for size in SIZES}
    middle: dict[int, list[float]] = {size: [] for size in SIZES}
    with processes(folder, mongod.address, redis.address, HALL_LOG_LEVEL="warning", HALL_SECRET_KEYS=ring) as hall:
        ports: dict[int, int] = {}
        for size in SIZES:
            console.print(f"storing {size:,} cases ...")
            began = time.monotonic()
            await store(mongod.address, f"bench_{size}", size, keys)
            console.print(f"stored and indexed in {time.monotonic() - began:.0f} s")
            own = {"HALL_MONGODB_DATABASE": f"bench_{size}", "HALL_PORT": str(free_port())}
            await asyncio.to_thread(hall.start("main.py", "migrate", "--with-demo", **own).wait)
            web = hall.start("main.py", "web", **own)
            ports[size] = int(own["HALL_PORT"])
            await until_up(f"http://127.0.0.1:{ports[size]}/readyz", web)
        async with aiohttp.ClientSession() as http:
            tokens = {size: await _token(http, port) for size, port in ports.items()}

            async def measure(size: int, seed: int) -> list[float]:
                rng, took = random.Random(seed), []
                for _ in range(REQUESTS):
                    url = f"http://127.0.0.1:{ports[size]}/staff/v1/tasks?{_asked(rng)}"
                    began = time.perf_counter()
                    async with http.get(url, headers={"Authorization": f"Bearer {tokens[size]}"}) as answer:
                        page = await answer.json()
                        assert answer.status == 200 and "counts" in page, page
                    took.append((time.perf_counter() - began) * 1000)
                return sorted(took)

            for size in SIZES:
                await measure(size, 0)  # connections, plans, caches
            for place in range(ROUNDS):
                for size in SIZES if place % 2 == 0 else tuple(reversed(SIZES)):
                    took = await measure(size, place + 1)
                    p95[size].append(took[int(len(took) * 0.95)])
                    middle[size].append(statistics.median(took))
    table = Table("cases stored", "p50 ms", "p95 ms", "range of p95")
    for size in SIZES:
        table.add_row(
            f"{size:,}",
            f"{statistics.median(middle[size]):.1f}",
            f"{statistics.median(p95[size]):.1f}",
            f"{min(p95[size]):.1f}-{max(p95[size]):.1f}",
        )
    console.print(table)
    few, many = (p95[size] for size in SIZES)
    ratios = sorted(after / before for before, after in zip(few, many, strict=True))
    console.print(
        f"p95 of the list with its counts, {SIZES[1]:,} cases to {SIZES[0]:,}: {statistics.median(ratios):.2f}"
        f" ({ratios[0]:.2f}-{ratios[-1]:.2f}; at most {TARGET})"
    )
    console.print(f"{ROUNDS} rounds of {REQUESTS} requests each, one at a time, the sides in turn; load {os.getloadavg()[0]:.1f}.")


async def _token(http: aiohttp.ClientSession, port: int) -> str:
    body = {"account": f"clerk.{AGENCY}", "password": "bench"}
    async with http.post(f"http://127.0.0.1:{port}/staff/v1/login", json=body) as answer:
        return str((await answer.json())["access_token"])
