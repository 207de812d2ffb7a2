"""Checks against the department stand-in over real HTTP, with real residents in a real database."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.catalogue.snapshot import Snapshot
from app.checks import reports as checks_reports
from app.checks import store
from app.checks.payables import BillPayables
from app.checks.reports import BillReports
from app.checks.service import Checks
from app.exchange.departments import Departments
from app.identity.service import Identity
from app.identity.store import new_resident, sealed_fields
from app.kernel.clock import utc_now
from app.kernel.crypto import KeyRing
from app.kernel.events import Event, new_event
from app.kernel.ids import new_id
from app.platforms.http import HttpClient
from app.storage.mongo import Database, ensure_indexes
from sandbox.base import Pace
from sandbox.credentials import FILE_NAME
from sandbox.server import Running, start
from tests.catalogue import the_catalogue

ZHANG = ("张示例", "44020019000101001X")
LI = ("李示例", "440200190102020022")
WANG = ("王示例", "440200190203030035")


@pytest.fixture(scope="session")
def snapshot() -> Snapshot:
    return Snapshot(the_catalogue(), version_id="test", number=1)


@pytest.fixture(scope="session")
def stand_in_keys(sandbox_keys: Path) -> Path:
    return sandbox_keys


@dataclass
class Desk:
    """The parts of 查, put together as the hall does."""

    database: Database
    checks: Checks
    bills: BillPayables
    reports: BillReports
    departments: Departments
    identity: Identity
    running: Running
    keys: KeyRing

    async def resident(self, who: tuple[str, str] = ZHANG, level: int = 3) -> str:
        """Make a resident of this level; from L3 on name and number are known."""
        resident_id = new_id("res")
        known = {"name": who[0], "id_number": who[1]} if level >= 3 else {}
        document = new_resident(resident_id, utc_now()) | sealed_fields(self.keys, resident_id, known) | {"level": level}
        await self.database["residents"].insert_one(document)
        return resident_id

    def paid(self, owner_id: str, bill_id: str, amount_fen: int, **more: Any) -> Event:
        """An `order.paid` event for one bill."""
        return new_event(
            "order.paid",
            subject=("order", new_id("ord")),
            owner_id=owner_id,
            data={"amount_fen": amount_fen, "payables": [{"kind": "bill", "id": bill_id}], "attempt_id": "pay_1", **more},
        )


@pytest.fixture
async def desk(
    database: Database, redis, keys, snapshot: Snapshot, stand_in_keys: Path, tmp_path: Path
) -> AsyncIterator[Desk]:
    shutil.copy2(stand_in_keys, tmp_path / FILE_NAME)
    running = await start(0, tmp_path, pace=Pace(department_slow_s=2))
    await ensure_indexes(database, {**store.INDEXES, **checks_reports.INDEXES})
    http = HttpClient()
    departments = Departments(http, f"{running.url}/departments", timeout_s=1)
    nothing: Any = None
    identity = Identity(database, keys, wechat=nothing, alipay=nothing, sms_codes=nothing, realname=nothing)
    catalogue = SimpleNamespace(snapshot=snapshot)
    checks = Checks(database, redis, keys, catalogue=catalogue, departments=departments, people=identity)
    bills, reports = BillPayables(database, departments), BillReports(database, departments)
    yield Desk(database, checks, bills, reports, departments, identity, running, keys)
    await http.close()
    await running.stop()
