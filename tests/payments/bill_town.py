"""A hall that takes bills: checks, payments and reports put together as the assembly does, on the stand-in departments over real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from app.catalogue.snapshot import Snapshot
from app.checks import reports as checks_reports
from app.checks import store as checks_store
from app.checks.payables import BillPayables
from app.checks.reports import BillReports
from app.checks.service import Checks
from app.exchange.departments import Departments
from app.identity.service import Identity
from app.identity.store import new_resident, sealed_fields
from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from app.storage.mongo import Database, ensure_indexes
from app.storage.relay import Relay
from payments.model import Order
from payments.service import Payments
from tests.catalogue import the_catalogue
from tests.payments.conftest import Hall, providers

ZHANG = ("张示例", "44020019000101001X")
LI = ("李示例", "440200190102020022")
WANG = ("王示例", "440200190203030035")
CHEN = ("陈示例", "440200190304040048")


@dataclass
class Town:
    """`payments` and `reports` of one process; `process` gives those of another one on the same database."""

    hall: Hall
    checks: Checks
    payments: Payments
    reports: BillReports
    relay: Relay
    keys: Any
    mongodb_uri: str
    clients: list[Database] = field(default_factory=list)

    @property
    def database(self) -> Database:
        return self.hall.database

    def set_clock(self, moment: datetime) -> None:
        """Let it be this moment, for the hall and for the stand-ins."""
        self.hall.offset = moment - utc_now()

    async def resident(self, who: tuple[str, str] = ZHANG, level: int = 3) -> str:
        """Make a resident of this level who has signed in at both platforms."""
        resident_id = await self.hall.resident(who[0])
        known = {"name": who[0], "id_number": who[1]} if level >= 3 else {}
        document = new_resident(resident_id, utc_now()) | sealed_fields(self.keys, resident_id, known) | {"level": level}
        await self.database["residents"].insert_one(document)
        return resident_id

    async def bills(self, resident: str, kind: str, **inputs: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.checks.lookup_bills(kind, inputs, resident))["bills"]
        return found

    async def fine(self, resident: str, plate: str) -> dict[str, Any]:
        [bill] = await self.bills(resident, "traffic_fine", plate=plate, vin_last6="000001")
        return bill

    async def order(self, resident: str, *bill_ids: str, payments: Payments | None = None) -> Order:
        payables = [{"kind": "bill", "id": bill_id} for bill_id in bill_ids]
        return await (payments or self.payments).create_order(resident, payables, order_id=new_id("ord"))

    async def pay(self, order: Order, provider: str = "wechatpay", scene: str = "mini_program") -> str:
        """Pay in the cashier; return the attempt."""
        attempt, _ = await self.payments.pay(
            order.id, order.owner_id, provider=provider, scene=scene, attempt_id=new_id("pay")
        )
        paid = await self.hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no)
        assert paid["status"] == 200, paid
        return attempt.id

    async def paid(self, order: Order, provider: str = "wechatpay") -> Order:
        await self.pay(order, provider)
        return await self.until(order, "paid")

    async def until(self, order: Order, state: str, seconds: float = 10) -> Order:
        """Let the worker work until the order has a state; the news of it is handed over before this returns."""
        async with asyncio.timeout(seconds):
            while (found := await self.payments.get_order(order.id, order.owner_id)).state != state:
                await self.payments.sweep()
                await asyncio.sleep(0.05)
        await self.told()
        return found

    async def told(self) -> None:
        """Hand over every event, and tell the departments what they have not heard."""
        await self.relay.drain()
        await self.reports.sweep()

    async def department(self, bill_id: str) -> dict[str, Any]:
        async with self.hall.session.get(f"{self.hall.sandbox.url}/departments/bills/{bill_id}") as answer:
            shown: dict[str, Any] = await answer.json()
            return shown

    async def change_bill(self, bill_id: str, **values: Any) -> None:
        changed = await self.hall.sim("department_bills", id=bill_id, **values)
        assert changed.get("ok"), changed

    async def reported(self, bill_id: str) -> list[tuple[str, str, int]]:
        rows = await self.database["bill_reports"].find({"bill_id": bill_id}).sort("created_at").to_list()
        return [(row["kind"], row["state"], row.get("amount_fen", 0) + row.get("late_fee_fen", 0)) for row in rows]

    def process(self) -> "Town":
        """Return the same town as another process sees it: its own connections, nothing shared but the database."""
        client = Database(self.mongodb_uri, self.database.db.name)
        self.clients.append(client)
        return build(self.hall, client, self.keys, self.mongodb_uri)


def build(hall: Hall, database: Database, keys: Any, mongodb_uri: str) -> Town:
    snapshot = Snapshot(the_catalogue(), version_id="test", number=1)
    nothing: Any = None
    identity = Identity(database, keys, wechat=nothing, alipay=nothing, sms_codes=nothing, realname=nothing)
    departments = Departments(hall.http, f"{hall.sandbox.url}/departments", timeout_s=2)
    catalogue = SimpleNamespace(snapshot=snapshot)
    checks = Checks(database, None, keys, catalogue=catalogue, departments=departments, people=identity, clock=hall.now)
    payments = Payments(
        database,
        providers=providers(hall.http, hall.credentials, hall.sandbox.url, f"{hall.sandbox.url}/gateway.do", clock=hall.now),
        sources={"case": hall.cases, "bill": BillPayables(database, departments, clock=hall.now)},
        payer_of=hall.payer_of,
        public_url=hall.url,
        clock=hall.now,
    )
    reports = BillReports(database, departments, clock=hall.now)
    subscribers = {
        "order.paid": [("departments", reports.report_paid)],
        "refund.succeeded": [("departments", reports.report_refunded)],
        "bill.payment_refused": [("refunds", payments.refunds.refund_refused_bill)],
    }
    return Town(hall, checks, payments, reports, Relay(database, subscribers, clock=hall.now), keys, mongodb_uri)


@asynccontextmanager
async def opened(hall: Hall, keys: Any, mongodb_uri: str) -> AsyncIterator[Town]:
    await ensure_indexes(hall.database, {**checks_store.INDEXES, **checks_reports.INDEXES})
    town = build(hall, hall.database, keys, mongodb_uri)
    await town.payments.prepare()
    hall.payments = hall.web.payments = town.payments
    hall.sandbox.sandbox.clock = lambda: hall.now().timestamp()
    yield town
    for client in town.clients:
        await client.close()


def staff(agency_id: str) -> Any:
    return SimpleNamespace(account=f"{agency_id}-head", role="head", agency_id=agency_id)
