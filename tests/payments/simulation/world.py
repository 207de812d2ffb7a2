"""The world of a run: the real servers, the stand-ins over HTTP, the hall's processes, and one clock for all of them."""

import asyncio
import hashlib
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as wall_time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
from pymongo.errors import PyMongoError
from tornado.netutil import bind_sockets

from app.checks import reports as checks_reports
from app.checks import store as checks_store
from app.exchange.departments import Office
from app.kernel.clock import SHANGHAI
from app.kernel.errors import Conflict, NotFound
from app.kernel.events import Event
from app.kernel.ids import new_id, ulid
from app.kernel.tasks import end
from app.storage import outbox
from app.storage.mongo import Database, ensure_indexes
from app.storage.redis import connect, publish
from handlers import callbacks
from handlers.http_front import Front
from payments import store as payments_store
from payments.reconcile import store as reconcile_store
from sandbox import certificates
from sandbox.base import Pace
from sandbox.credentials import FILE_NAME, load_or_make
from sandbox.server import Running, start
from tests.payments.simulation.mortal import Died
from tests.payments.simulation.plan import RESIDENTS, SECOND_WORKER, WEB, WORKER, Plan
from tests.payments.simulation.processes import Process, Settings, WebApplication, build, mortal

POLICE = Office("sg-gaj", "韶关市公安局", "12345")
# Real time in which a dead process's transactions keep their locks; MongoDB lets go of them by itself after its own limit.
HOLDS_LOCKS_S = 0.08
# What is said to last is over quickly; ladders of notices stay those of the providers, for they run by the common clock.
PACE = Pace(slow_s=0.03, late_notice_s=900, department_slow_s=0.03)
INDEXES: Mapping[str, Any] = {
    **outbox.INDEXES,
    **checks_store.INDEXES,
    **checks_reports.INDEXES,
    **payments_store.INDEXES,
    **reconcile_store.INDEXES,
    "orders": payments_store.INDEXES["orders"] + reconcile_store.INDEXES["orders"],
}


@dataclass(frozen=True)
class Line:
    title: str
    amount_fen: int
    payee: str
    paid_for: str = ""


@dataclass(frozen=True)
class Quote:
    """What a case's fee costs. Fulfils payments.sources.Quote."""

    title: str
    agency_id: str
    lines: tuple[Line, ...]
    subject_version: int = 1
    pay_by: datetime | None = None
    after: tuple[str, ...] = ()


class Clock:
    """Moves when it is moved, and by a millisecond whenever the hall looks at it, so that no two moments are the same."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        self._now += timedelta(milliseconds=1)
        return self._now

    def peek(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


@dataclass
class Fees:
    """Who owes what beside bills, and which orders have paid it: outside the hall's processes, so it outlives them."""

    owed: dict[str, Quote] = field(default_factory=dict)
    paid: dict[str, set[str]] = field(default_factory=dict)
    refunded: set[str] = field(default_factory=set)  # orders; apart, for events may change places

    def payers(self, payable_id: str) -> set[str]:
        return self.paid.get(payable_id, set()) - self.refunded

    async def quote(self, payable_id: str, resident_id: str) -> Quote:
        if payable_id not in self.owed:
            raise NotFound("没有这个办件。")
        if self.payers(payable_id):
            raise Conflict("已经缴过了。")
        return self.owed[payable_id]

    async def order_paid(self, event: Event) -> None:
        for row in event.data["payables"]:
            if row["kind"] == "case":
                self.paid.setdefault(row["id"], set()).add(event.subject_id)

    async def order_refunded(self, event: Event) -> None:
        self.refunded.add(event.subject_id)


@dataclass
class OrderOfPlan:
    """What residents know of an order of the plan: their own, and what they were given to pay with, by attempt."""

    resident: str
    order_id: str
    payables: list[dict[str, str]]
    handed: dict[int, tuple[str, str, dict[str, Any]]] = field(default_factory=dict)


class World:
    """Make it with `begin`, end it with `close`."""

    def __init__(self, plan: Plan, servers: Mapping[str, str], folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        # The next day at eight in the morning in Shanghai: ahead of the servers' clocks, so that nothing waits for them.
        self.clock = Clock(datetime.combine(date.today() + timedelta(days=1), wall_time(), UTC))
        self.first_day = self.clock.peek().astimezone(SHANGHAI).date()
        self.counts: Counter[str] = Counter()
        self.fees = Fees()
        self.orders: dict[int, OrderOfPlan] = {}
        self.foreign_days: set[tuple[str, str]] = set()
        self.processes: dict[str, Process] = {}
        self.broken: list[str] = []
        self._servers = servers
        self._name = f"sim_{ulid().lower()}"
        self._payers: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._residents: list[str] = []
        self._burials: set[asyncio.Task[None]] = set()
        self._ids: dict[tuple[Any, ...], str] = {}

    async def begin(self, keys_folder: Path) -> None:
        load_or_make(keys_folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(keys_folder / FILE_NAME, self.folder / FILE_NAME)
        self.sandbox: Running = await start(0, self.folder, pace=PACE)
        self.sandbox.sandbox.clock = lambda: self.clock.peek().timestamp()
        self.session = aiohttp.ClientSession()
        self.database = Database(self._servers["mongodb"], self._name)  # of the one who looks on, who never dies
        self.redis = connect(self._servers["redis"])
        await ensure_indexes(self.database, INDEXES)
        await self._serve_callbacks()
        seed = self.plan.seed
        self._settings = Settings(
            servers=self._servers,
            database=self._name,
            stand_ins=self.sandbox.url,
            credentials=self.sandbox.sandbox.credentials,
            # Keys and certificates in all four combinations; certificates can be rotated.
            wechatpay_by_certificate=seed % 2 == 0,
            alipay_chain=certificates.alipay_chain(self.sandbox.sandbox) if seed % 4 >= 2 else {},
            public_url=self.url,
            folder=self.folder / "reconcile",
            clock=self.clock.now,
            payer_of=self._payer_of,
            cases=self.fees,
            subscribers={"order.paid": ("cases", self.fees.order_paid), "order.refunded": ("cases", self.fees.order_refunded)},
        )
        for name in (WEB, WORKER, SECOND_WORKER):
            await self._start(name)
        for number in range(RESIDENTS):
            person = await self.sim("people", name=f"居民{number}")
            resident_id = new_id("res")
            self._residents.append(resident_id)
            self._payers[(resident_id, "wechat")], self._payers[(resident_id, "alipay")] = person["wechat"], person["alipay"]

    async def close(self) -> None:
        await asyncio.gather(*self._burials, return_exceptions=True)
        for process in self.processes.values():
            await process.end()
        self._server.stop()
        await self._server.close_all_connections()
        await self.sandbox.stop()
        await self.session.close()
        await self.redis.aclose()
        await self.database.client.drop_database(self._name)
        await self.database.close()

    # --- processes ---

    async def _start(self, name: str) -> None:
        process = build(name, self._settings, lambda: self._died(name))
        process.database.on_commit = lambda: process.beside(publish(process.redis, "events", ""))
        self.processes[name] = process
        if name == WEB:
            self._application.hall = SimpleNamespace(payments=process.payments, database=process.database, life=process.life)
        await process.payments.prepare()

    async def run(self, name: str, work: Callable[[Process], Awaitable[Any]]) -> bool:
        """Let a process of the hall do something; say whether it lived to its end. Refusals and outages are answers like others."""
        process = self.processes[name]
        if process.life.is_dead:  # it is being started again, which takes a moment
            self.counts["nobody there"] += 1
            return False
        task = asyncio.ensure_future(work(process))
        process.tasks.add(task)
        try:
            await task
        except Died:
            return False
        except asyncio.CancelledError:
            if process.life.is_dead:
                return False
            raise
        except PyMongoError as error:
            self.counts[f"database: {type(error).__name__}"] += 1
        finally:
            process.tasks.discard(task)
        return True

    async def until_alive(self, name: str) -> None:
        """Wait until a process of this name is there, for two seconds at most."""
        for _ in range(200):
            if not self.processes[name].life.is_dead:
                return
            await asyncio.sleep(0.01)

    def _died(self, name: str) -> None:
        """Called within the dying process: somebody starts another one, and the server lets go of the dead one's locks after a while."""
        self.counts["deaths"] += 1
        dead = self.processes[name]
        # In a context of its own: the dying command's holds the moment at which PyMongo must have answered it, and a successor that
        # inherits it finds every call of its own too late, for ever.
        task = asyncio.get_running_loop().create_task(self._succeed(dead), context=Context())
        self._burials.add(task)
        task.add_done_callback(self._burials.discard)

    async def _succeed(self, dead: Process) -> None:
        await self._start_again(dead.name)
        await asyncio.sleep(HOLDS_LOCKS_S)
        await end(dead.tasks)
        left_open = dead.life.open_transactions
        self.counts["transactions left open"] += len(left_open)
        if left_open:
            await self.until_primary()
            await self.database.client.admin.command("killSessions", [{"id": session["id"]} for session in left_open])
        await dead.end()

    async def _start_again(self, name: str) -> None:
        while True:
            try:
                return await self._start(name)
            except PyMongoError:  # the servers are away at this moment: a supervisor tries again
                await self.processes[name].end()
                await asyncio.sleep(0.1)

    async def settled(self) -> None:
        """Wait until every dead process has its successor and is buried, and no notice that is due is on its way."""
        while self._burials:
            await asyncio.gather(*self._burials, return_exceptions=True)
        async with asyncio.timeout(60):
            assert self.sandbox.sandbox.courier is not None
            await self.sandbox.sandbox.courier.settle()
        while self._burials:
            await asyncio.gather(*self._burials, return_exceptions=True)

    async def until_primary(self) -> None:
        async with asyncio.timeout(30):
            while True:
                try:
                    if (await self.database.client.admin.command("hello")).get("isWritablePrimary"):
                        return
                except PyMongoError:
                    pass
                await asyncio.sleep(0.05)

    # --- the hall's address ---

    async def _serve_callbacks(self) -> None:
        self._application = WebApplication(
            [(path, mortal(handler)) for path, handler in callbacks.routes], log_function=lambda _handler: None
        )
        self._server = Front(self._application)
        sockets = bind_sockets(0, "127.0.0.1")
        await self._server.serve(*sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"

    # --- outside ---

    async def sim(self, what: str, **body: Any) -> dict[str, Any]:
        async with self.session.post(f"{self.sandbox.url}/_sim/{what}", json=body) as answer:
            return {"status": answer.status, **await answer.json()}

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if self.sandbox.sandbox.courier:
            self.sandbox.sandbox.courier.wake()

    def id_of(self, prefix: str, *parts: Any) -> str:
        """Return the id for something of the plan: made when it is first asked for, the same when a request is repeated."""
        return self._ids.setdefault((prefix, *parts), new_id(prefix))

    def orders_named_in(self, sentences: Iterable[str]) -> frozenset[int]:
        """Return the numbers, within the plan, of the orders that sentences name by the id of the order, an attempt or a refund."""
        place = {"ord": 0, "pay": 1, "rfd": 0}
        text = " ".join(sentences)
        return frozenset(parts[place[prefix]] for (prefix, *parts), made in self._ids.items() if made in text)

    def resident(self, number: int) -> str:
        return self._residents[number]

    async def _payer_of(self, resident_id: str, identity: str) -> Mapping[str, Any] | None:
        return self._payers.get((resident_id, identity))

    def owe(self, row: list[Any]) -> dict[str, str]:
        """Return the payable of a row of the plan; a case's fee is owed from now on."""
        if row[0] == "bill":
            return {"kind": "bill", "id": bill_id_of(row[1])}
        _, number, fen, agency = row
        payable_id = f"case_{number}"
        self.fees.owed.setdefault(payable_id, Quote(f"办件{number}", agency, (Line("工本费", fen, agency),)))
        return {"kind": "case", "id": payable_id}


def plate_of(number: int) -> str:
    """Return the plate of the car whose fine is this bill; the stand-in has one for every plate that is not in its samples."""
    return f"粤FS{number:04d}"


def bill_id_of(number: int) -> str:
    return f"bill-tf-{hashlib.sha256(plate_of(number).encode()).hexdigest()[:12]}"
