"""A hall of payments alone: real mongod, the stand-in providers over real HTTP, our callbacks on a real port."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from tornado.netutil import bind_sockets
from tornado.web import Application

from app.kernel.clock import utc_now
from app.kernel.errors import Conflict, NotFound
from app.kernel.ids import new_id
from app.platforms.alipay import AlipayGateway
from app.platforms.http import HttpClient
from app.storage import outbox
from app.storage.mongo import Database, ensure_indexes
from handlers import callbacks
from handlers.http_front import Front
from payments.model import Order
from payments.providers.alipay import Alipay
from payments.providers.wechatpay import WeChatPay
from payments.service import Payments
from payments.store import INDEXES
from sandbox.base import Pace
from sandbox.credentials import FILE_NAME, Credentials
from sandbox.server import Running, start


@pytest.fixture(scope="session")
def sandbox_keys(sandbox_keys: Path) -> Path:
    return sandbox_keys


@pytest.fixture
def database(reused_database: Database) -> Database:
    return reused_database


@pytest.fixture
async def sandbox(tmp_path: Path, sandbox_keys: Path) -> AsyncIterator[Running]:
    shutil.copy2(sandbox_keys, tmp_path / FILE_NAME)
    pace = Pace(
        wechatpay_retries_s=(0.1, 0.2, 0.3, 0.5, 3600), alipay_retries_s=(0.1, 0.2, 0.5, 3600), late_notice_s=0.5, slow_s=0.2,
        wechatpay_refund_s=0.1, wechatpay_refund_pause_s=0, alipay_refund_pause_s=0,
    )  # fmt: skip
    running = await start(0, tmp_path, pace=pace)
    yield running
    await running.stop()


class _Application(Application):
    """What handlers ask of their application, without the whole hall behind it."""

    hall: SimpleNamespace

    def begin(self) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class OneLine:
    title: str
    amount_fen: int
    payee: str
    paid_for: str = ""


@dataclass(frozen=True)
class OneQuote:
    title: str
    agency_id: str
    lines: tuple[OneLine, ...]
    subject_version: int = 1
    pay_by: datetime | None = None
    after: tuple[str, ...] = ()


@dataclass
class Cases:
    """A payable source: what is owed, by whom. Fulfils payments.sources.PayableSource."""

    owed: dict[str, tuple[set[str], OneQuote]] = field(default_factory=dict)
    paid: set[str] = field(default_factory=set)

    def owe(
        self, *owners: str, amount_fen: int = 4000, title: str = "居民身份证丢失补领", agency_id: str = "sg-gaj"
    ) -> str:
        payable_id = new_id("case")
        self.owed[payable_id] = (set(owners), OneQuote(title, agency_id, (OneLine("工本费", amount_fen, "韶关市公安局"),)))
        return payable_id

    async def quote(self, payable_id: str, resident_id: str) -> OneQuote:
        owners, quote = self.owed.get(payable_id, (set(), None))
        if quote is None or resident_id not in owners:
            raise NotFound("没有这个办件。")
        if payable_id in self.paid:
            raise Conflict("已经缴过了。")
        return quote


@dataclass
class Hall:
    """The payments under test and everything around them."""

    payments: Payments
    database: Database
    cases: Cases
    sandbox: Running
    credentials: Credentials
    http: HttpClient
    session: aiohttp.ClientSession
    url: str
    payers: dict[tuple[str, str], Mapping[str, Any]]
    web: SimpleNamespace = field(default_factory=SimpleNamespace)  # what the handlers see as the hall
    offset: timedelta = timedelta()

    def now(self) -> datetime:
        return utc_now() + self.offset

    async def resident(self, name: str = "张三") -> str:
        """Make a resident who has signed in at both platforms."""
        async with self.session.post(f"{self.sandbox.url}/_sim/people", json={"name": name}) as answer:
            person = await answer.json()
        resident_id = new_id("res")
        self.payers[(resident_id, "wechat")] = person["wechat"]
        self.payers[(resident_id, "alipay")] = person["alipay"]
        return resident_id

    async def order(self, resident_id: str, *case_ids: str) -> Order:
        cases = case_ids or (self.cases.owe(resident_id),)
        return await self.payments.create_order(
            resident_id, [{"kind": "case", "id": case_id} for case_id in cases], order_id=new_id("ord")
        )

    async def pay(self, order: Order, provider: str = "wechatpay", attempt_id: str = "") -> tuple[Any, dict[str, Any]]:
        return await self.payments.pay(
            order.id, order.owner_id, provider=provider, scene="mini_program", attempt_id=attempt_id or new_id("pay")
        )

    async def sim(self, what: str, **body: Any) -> dict[str, Any]:
        async with self.session.post(f"{self.sandbox.url}/_sim/{what}", json=body) as answer:
            return {"status": answer.status, **await answer.json()}

    async def sim_get(self, what: str, **query: str) -> dict[str, Any]:
        async with self.session.get(f"{self.sandbox.url}/_sim/{what}", params=query) as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def trade(self, out_trade_no: str) -> dict[str, Any]:
        async with self.session.get(f"{self.sandbox.url}/_sim/trades", params={"out_trade_no": out_trade_no}) as answer:
            items = (await answer.json())["items"]
        return items[0] if items else {}

    async def state(self, order: Order) -> str:
        return str((await self.payments.get_order(order.id, order.owner_id)).state)

    async def until(self, order: Order, state: str, seconds: float = 5) -> Order:
        """Wait until the order has a state (for notices under way)."""
        # Not asyncio.timeout: its one cancellation can be lost in a database call (app/kernel/tasks.py), and this would go on for ever.
        until = asyncio.get_running_loop().time() + seconds
        while (found := await self.payments.get_order(order.id, order.owner_id)).state != state:
            if asyncio.get_running_loop().time() > until:
                raise TimeoutError(f"{found.state}, not {state}")
            await asyncio.sleep(0.02)
        return found

    async def events(self, order: Order) -> list[str]:
        rows = await self.database["events"].find({"subject_id": order.id}).sort("_id", 1).to_list()
        return [row["name"] for row in rows]

    def build(
        self,
        *,
        wechatpay_url: str = "",
        alipay_url: str = "",
        certificate_mode: bool = False,
        database: Database | None = None,
        alipay_chain: Mapping[str, str] | None = None,
    ) -> Payments:
        """Return payments of the same database (unless told otherwise) whose providers are elsewhere."""
        return Payments(
            database or self.database,
            providers=providers(
                self.http,
                self.credentials,
                wechatpay_url or self.sandbox.url,
                alipay_url or f"{self.sandbox.url}/gateway.do",
                certificate_mode=certificate_mode,
                alipay_chain=alipay_chain,
            ),
            sources={"case": self.cases},
            payer_of=self.payer_of,
            public_url=self.url,
            clock=self.now,
        )

    async def payer_of(self, resident_id: str, identity: str) -> Mapping[str, Any] | None:
        return self.payers.get((resident_id, identity))


def providers(
    http: HttpClient,
    own: Credentials,
    wechatpay_url: str,
    gateway_url: str,
    *,
    certificate_mode: bool = False,
    alipay_chain: Mapping[str, str] | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> list[Any]:
    """Return both providers; `certificate_mode` of WeChat Pay, `alipay_chain` (as /_sim/certificates gives it) of Alipay."""
    chain = alipay_chain or {}
    gateway = AlipayGateway(
        http,
        gateway_url=gateway_url,
        app_id=own.alipay_app_id,
        app_private_key=own.alipay_app_private_key,
        public_key="" if chain else own.alipay_public_key,
        aes_key=own.alipay_aes_key,
        app_cert=chain.get("app_cert", ""),
        root_cert=chain.get("root_cert", ""),
        public_cert=chain.get("public_cert", ""),
        clock=clock,
    )
    wechatpay = WeChatPay(
        http,
        base_url=wechatpay_url,
        app_id=own.wechat_app_id,
        mch_id=own.wechatpay_mch_id,
        api_v3_key=own.wechatpay_api_v3_key,
        merchant_serial=own.merchant_serial,
        merchant_key=own.merchant_private_key,
        public_key_id="" if certificate_mode else own.wechatpay_public_key_id,
        public_key="" if certificate_mode else own.wechatpay_public_key,
        open_app_id=own.wechat_open_app_id,
        clock=clock,
    )
    return [wechatpay, Alipay(gateway, seller_id=own.alipay_seller_id)]


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


@pytest.fixture
async def hall(database: Database, sandbox: Running, http: HttpClient) -> AsyncIterator[Hall]:
    await ensure_indexes(database, {**INDEXES, **outbox.INDEXES})
    application = _Application(callbacks.routes, log_function=lambda _handler: None)
    server = Front(application)
    sockets = bind_sockets(0, "127.0.0.1")
    await server.serve(*sockets)
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    async with aiohttp.ClientSession() as session:
        hall = Hall(
            payments=None,  # type: ignore[arg-type]
            database=database,
            cases=Cases(),
            sandbox=sandbox,
            credentials=sandbox.sandbox.credentials,
            http=http,
            session=session,
            url=url,
            payers={},
        )
        hall.payments = hall.build()
        await hall.payments.prepare()
        hall.web = SimpleNamespace(payments=hall.payments, settings=SimpleNamespace(public_url=url), database=database)
        application.hall = hall.web
        yield hall
    server.stop()
    await server.close_all_connections()
