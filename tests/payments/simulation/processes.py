"""A process of the hall, put together as commands/assembly.py does, as far as money goes; it may die (mortal.py)."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from redis.asyncio import Redis
from tornado.web import Application

from app.checks.payables import BillPayables
from app.checks.reports import BillReports
from app.exchange.departments import Departments
from app.kernel.tasks import end
from app.platforms import rsa
from app.platforms.alipay import AlipayGateway
from app.storage.mongo import Database
from app.storage.redis import connect
from app.storage.relay import Relay, Subscriber
from payments.providers.alipay import Alipay
from payments.providers.bill_downloads import AlipayBills, WeChatPayBills
from payments.providers.wechatpay import WeChatPay
from payments.reconcile.service import Reconcile
from payments.service import Payments
from payments.sources import PayableSource
from sandbox.credentials import Credentials
from tests.payments.simulation.mortal import Life, MortalHttp

# Reading a private key takes a fifth of a second, and here processes start by the dozen.
rsa.load_private_key = functools.cache(rsa.load_private_key)


@dataclass(frozen=True)
class Settings:
    """What every process of a run is given.

    Attributes:
        wechatpay_by_certificate: the merchant has platform certificates alone.
        alipay_chain: the certificates of certificate mode (as /_sim/certificates gives them); empty for key mode.
        cases: the payable source `case`; `subscribers` hear of its events beside the hall's own.
    """

    servers: Mapping[str, str]
    database: str
    stand_ins: str
    credentials: Credentials
    wechatpay_by_certificate: bool
    alipay_chain: Mapping[str, str]
    public_url: str
    folder: Path
    clock: Callable[[], datetime]
    payer_of: Callable[[str, str], Awaitable[Mapping[str, Any] | None]]
    cases: PayableSource
    subscribers: Mapping[str, Subscriber]


@dataclass
class Process:
    """One process of the hall and what is under way in it."""

    name: str
    life: Life
    database: Database
    http: MortalHttp
    redis: Redis
    payments: Payments
    reports: BillReports
    departments: Departments
    relay: Relay
    reconcile: Reconcile
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def beside(self, work: Any) -> None:
        """Run something until the process dies."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def end(self) -> None:
        await self.http.close()
        await self.redis.aclose()
        await self.database.close()


def build(name: str, settings: Settings, on_death: Callable[[], None]) -> Process:
    """Put a process together; it has spoken to nobody yet."""
    life = Life(on_death)
    database = Database(settings.servers["mongodb"], settings.database, listeners=[life])
    http, clock, own = MortalHttp(life), settings.clock, settings.credentials
    gateway = AlipayGateway(
        http,
        gateway_url=f"{settings.stand_ins}/gateway.do",
        app_id=own.alipay_app_id,
        app_private_key=own.alipay_app_private_key,
        public_key="" if settings.alipay_chain else own.alipay_public_key,
        aes_key=own.alipay_aes_key,
        app_cert=settings.alipay_chain.get("app_cert", ""),
        root_cert=settings.alipay_chain.get("root_cert", ""),
        public_cert=settings.alipay_chain.get("public_cert", ""),
        clock=clock,
    )
    wechatpay = WeChatPay(
        http,
        base_url=settings.stand_ins,
        app_id=own.wechat_app_id,
        open_app_id=own.wechat_open_app_id,
        mch_id=own.wechatpay_mch_id,
        api_v3_key=own.wechatpay_api_v3_key,
        merchant_serial=own.merchant_serial,
        merchant_key=own.merchant_private_key,
        public_key_id="" if settings.wechatpay_by_certificate else own.wechatpay_public_key_id,
        public_key="" if settings.wechatpay_by_certificate else own.wechatpay_public_key,
        clock=clock,
    )
    departments = Departments(http, f"{settings.stand_ins}/departments")
    reports = BillReports(database, departments, clock=clock)
    sources: dict[str, PayableSource] = {"case": settings.cases, "bill": BillPayables(database, departments, clock=clock)}
    payments = Payments(
        database,
        providers=[wechatpay, Alipay(gateway, seller_id=own.alipay_seller_id)],
        sources=sources,
        payer_of=settings.payer_of,
        public_url=settings.public_url,
        clock=clock,
    )
    subscribers: dict[str, list[Subscriber]] = {
        "order.paid": [("departments", reports.report_paid)],
        "refund.succeeded": [("departments", reports.report_refunded)],
        "bill.payment_refused": [("refunds", payments.refunds.refund_refused_bill)],
    }
    for event, subscriber in settings.subscribers.items():
        subscribers.setdefault(event, []).insert(0, subscriber)
    reconcile = Reconcile(
        database,
        providers=payments.providers,
        sources=sources,
        bills=[WeChatPayBills(http, wechatpay), AlipayBills(http, gateway)],
        folder=settings.folder,
        public_url=settings.public_url,
        own_agency="sg-zsj",
        clock=clock,
    )
    redis, relay = connect(settings.servers["redis"]), Relay(database, subscribers, clock)
    return Process(name, life, database, http, redis, payments, reports, departments, relay, reconcile)


class WebApplication(Application):
    """What handlers ask of their application, without the whole hall behind it. `hall` is the web process of the moment."""

    hall: SimpleNamespace

    def begin(self) -> None: ...

    def end(self) -> None: ...


def mortal(handler: type[Any]) -> type[Any]:
    """Return the handler as it runs in a process that may die: then the connection breaks without an answer, whoever waits for what."""

    class Mortal(handler):  # type: ignore[misc]
        async def post(self, *arguments: Any) -> None:
            life = self.application.hall.life
            death, work = asyncio.ensure_future(life.died.wait()), asyncio.ensure_future(super().post(*arguments))
            await asyncio.wait({death, work}, return_when=asyncio.FIRST_COMPLETED)
            death.cancel()
            if not life.is_dead and not work.cancelled():
                return await work
            await end([work])  # dead, or what it waited for together with others died
            if not self._finished:
                self._finished = True
                self.request.connection.close()

    return Mortal
