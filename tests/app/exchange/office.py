"""The hall's side of web hooks and a department's system that verifies signatures, for the tests of both."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.exchange import hook_deliveries, hooks
from app.exchange.hook_deliveries import HookDeliveries
from app.exchange.hooks import Hooks
from app.identity.model import StaffSession
from app.kernel.clock import utc_now
from app.kernel.events import Event, new_event
from app.platforms.http import HttpClient
from app.storage.mongo import Database, ensure_indexes
from sandbox.credentials import FILE_NAME
from sandbox.server import Running, start

HEAD = StaffSession("head.sg-gaj", "李局", "head", "sg-gaj")
OTHER = StaffSession("head.sg-jj", "王局", "head", "sg-jj")
EVENTS = ("case.submitted", "case.accepted", "case.transferred", "case.completed")


def case_event(name: str = "case.accepted", agency_id: str = "sg-gaj", **data: Any) -> Event:
    facts = {
        "number": "11440200007" + "0" * 20 + "202611300017", "item_code": "id_card_lost", "item_name": "居民身份证丢失补领",
        "agency_id": agency_id, "agency_name": "公安局", "state": "accepted", "version": 3, "deadline_on": "2027-01-08", "query_code": "A7K9PM",
        "reason": "张三的照片看不清", "missing": [{"key": "photo", "name": "照片"}], "opinion": "同意张三",
    }  # fmt: skip
    return new_event(name, subject=("case", "case_1"), owner_id="res_1", data={**facts, **data})


@dataclass
class Office:
    """The hall's side and a department's system that verifies signatures."""

    database: Database
    running: Running
    http: aiohttp.ClientSession
    out: HttpClient
    hooks: Hooks
    deliveries: HookDeliveries
    now: list[datetime]
    asked: set[str] = field(default_factory=set)

    async def register(self, staff: StaffSession = HEAD, algorithm: str = "hmac-sm3", path: str = "/hooks/events", events=()) -> str:
        hook, secret = await self.hooks.put(staff, url=self.running.url + path, algorithm=algorithm, events=list(events))
        await self.sim("hooks", {"app": hook["app"], "secret": secret, "algorithm": algorithm})
        return str(hook["app"])

    async def sim(self, what: str, body: dict[str, Any]) -> None:
        async with self.http.post(f"{self.running.url}/_sim/{what}", json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def got(self) -> list[dict[str, Any]]:
        async with self.http.get(f"{self.running.url}/_sim/sent", params={"channel": "hooks"}) as answer:
            return [row["event"] for row in (await answer.json())["hooks"]]

    async def rows(self) -> list[dict[str, Any]]:
        return await self.database["hook_deliveries"].find().sort("_id", 1).to_list()


@pytest.fixture
async def office(database: Database, keys, sandbox_keys: Path, tmp_path: Path) -> AsyncIterator[Office]:
    await ensure_indexes(database, {**hooks.INDEXES, **hook_deliveries.INDEXES})
    shutil.copy2(sandbox_keys, tmp_path / FILE_NAME)
    running = await start(0, tmp_path)
    out, now = HttpClient(), [utc_now()]

    async def concerned(_case_id: str) -> set[str]:
        return made.asked

    def clock() -> datetime:
        return now[0]

    own = Hooks(database, keys, clock, is_production=False, events=EVENTS)
    async with aiohttp.ClientSession() as http:
        made = Office(database, running, http, out, own, HookDeliveries(database, own, out, concerned, clock), now)
        yield made
    await out.close()
    await running.stop()
