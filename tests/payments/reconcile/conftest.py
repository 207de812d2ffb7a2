"""A reconciliation over the payments under test, with the stand-ins' own bills."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from app.kernel.clock import today
from app.platforms.alipay import AlipayGateway
from app.storage.mongo import ensure_indexes
from payments.ledger import store as ledger
from payments.providers.bill_downloads import AlipayBills, WeChatPayBills
from payments.reconcile import store as reconcile_store
from payments.reconcile.service import Outcome, Reconcile
from tests.payments.conftest import Hall


@dataclass
class Books:
    hall: Hall
    reconcile: Reconcile
    folder: Path
    day: date

    def build(self, alipay_bill: str = "trade") -> Reconcile:
        """Return another process's reconciliation over the same database and folder."""
        own = self.hall.credentials
        payments = self.hall.payments
        gateway = AlipayGateway(
            self.hall.http,
            gateway_url=f"{self.hall.sandbox.url}/gateway.do",
            app_id=own.alipay_app_id,
            app_private_key=own.alipay_app_private_key,
            public_key=own.alipay_public_key,
            aes_key=own.alipay_aes_key,
        )
        return Reconcile(
            self.hall.database,
            providers=payments.providers,
            sources={"case": self.hall.cases},
            bills=[WeChatPayBills(self.hall.http, payments.providers["wechatpay"]), AlipayBills(self.hall.http, gateway, alipay_bill)],
            folder=self.folder,
            public_url=self.hall.url,
            own_agency="sg-zsj",
            clock=self.hall.now,
        )

    async def paid(self, provider: str = "wechatpay", *, outcome: str = "success", fen: int = 4000) -> str:
        """Let a resident pay something; return the attempt's number."""
        resident = await self.hall.resident()
        order = await self.hall.order(resident, self.hall.cases.owe(resident, amount_fen=fen))
        attempt, _ = await self.hall.pay(order, provider)
        await self.hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no, outcome=outcome)
        if outcome == "success":
            await self.hall.until(order, "paid")
        return attempt.out_trade_no

    async def bill(self, provider: str = "wechatpay", **settings: Any) -> None:
        """Set how the stand-in's bill of today comes out; it is there although today is not over."""
        answer = await self.hall.sim("bills", provider=provider, day=self.day.isoformat(), ready=True, **settings)
        assert answer["status"] == 200

    async def run(self, provider: str = "wechatpay", **options: Any) -> Outcome:
        return await self.reconcile.run(provider, self.day, **options)

    async def findings(self) -> list[dict[str, Any]]:
        return await self.hall.database["findings"].find({}).sort("_id", 1).to_list()

    async def suspense(self, provider: str = "wechatpay") -> int:
        return (await ledger.balances(self.hall.database)).get(f"suspense:{provider}", 0)


@pytest.fixture
async def books(hall: Hall, tmp_path: Path) -> AsyncIterator[Books]:
    await ensure_indexes(hall.database, reconcile_store.INDEXES)
    books = Books(hall, None, tmp_path / "books", today())  # type: ignore[arg-type]
    books.reconcile = books.build()
    yield books
