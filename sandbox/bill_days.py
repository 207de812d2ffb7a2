"""What a day's bill of either provider is about: its trades, its refunds, and the differences a test may switch on.

| call | does |
| --- | --- |
| `POST /_sim/bills` {provider, day, ready?, creating?, foreign?, missing?, amounts?} | how that day's bill comes out from now on |
| `GET /_sim/bills?provider=&day=` | the rows as they will be written |

`ready`: serve the day although it is not over. `creating`: how many times to say that the bill is still being made. `foreign`: how many
payments of another system under the same merchant number to add. `missing`: numbers to leave out. `amounts`: number -> fen to write
instead of the true amount. What is left out is true.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sandbox import refunds
from sandbox.base import CHINA, Sandbox, china_text
from sandbox.control import Control
from sandbox.store import Trade

__all__ = ["Booked", "booked", "china_text", "is_creating", "is_over", "parse_day", "yuan", "yuan5"]

_BACK_TO = timedelta(days=92)


@dataclass(frozen=True)
class Booked:
    """One row of a bill, before either provider's spelling. `at` is epoch seconds; a charge is positive."""

    is_refund: bool
    out_trade_no: str
    out_refund_no: str
    trade_id: str
    refund_id: str
    amount_fen: int
    fee_millifen: int
    at: float
    state: str
    title: str
    payer: str


def parse_day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if len(text) == 10 else None
    except ValueError:
        return None


def _settings(sandbox: Sandbox, provider: str, day: date) -> dict[str, Any]:
    return sandbox.store.get("bill_day", f"{provider}:{day.isoformat()}") or {}


def is_over(sandbox: Sandbox, provider: str, day: date) -> bool:
    """Say whether there can be a bill of that day: it is over, and not older than three months."""
    if _settings(sandbox, provider, day).get("ready"):
        return True
    today = datetime.fromtimestamp(sandbox.clock(), CHINA).date()
    return today - _BACK_TO <= day < today


def is_creating(sandbox: Sandbox, provider: str, day: date) -> bool:
    """Say whether the bill is still being made, and count that it was asked for."""
    settings = _settings(sandbox, provider, day)
    left = int(settings.get("creating", 0))
    if left > 0:
        sandbox.store.put("bill_day", f"{provider}:{day.isoformat()}", settings | {"creating": left - 1})
    return left > 0


def booked(sandbox: Sandbox, provider: str, day: date) -> list[Booked]:
    """Return the rows of a day, payments by time and refunds by theirs, with the differences that are switched on."""
    begin = datetime(day.year, day.month, day.day, tzinfo=CHINA).timestamp()
    end = begin + 86400
    trades = {trade.out_trade_no: trade for trade in sandbox.store.trades() if trade.provider == provider and trade.paid_at}
    rows = [_payment(trade) for trade in trades.values()]
    rows += [
        _refund(refund, trades[refund.out_trade_no])
        for refund in refunds.all_of(sandbox)
        if refund.provider == provider and refund.out_trade_no in trades and (provider == "wechatpay" or refund.done_at)
    ]
    rows = [row for row in rows if begin <= row.at < end]
    settings = _settings(sandbox, provider, day)
    missing, amounts = set(settings.get("missing", ())), settings.get("amounts", {})
    rows = [row for row in rows if _number(row) not in missing]
    rows = [Booked(**asdict(row) | {"amount_fen": amounts.get(_number(row), row.amount_fen)}) for row in rows]
    rows += [_foreign(provider, begin, number) for number in range(int(settings.get("foreign", 0)))]
    return sorted(rows, key=lambda row: row.at)


def _number(row: Booked) -> str:
    return row.out_refund_no if row.is_refund else row.out_trade_no


def _payment(trade: Trade) -> Booked:
    return Booked(
        is_refund=False,
        out_trade_no=trade.out_trade_no,
        out_refund_no="",
        trade_id=trade.trade_id,
        refund_id="",
        amount_fen=trade.reported_fen,
        fee_millifen=trade.reported_fen * 6,  # 0.60 %
        at=trade.paid_at or 0,
        state="SUCCESS",
        title=trade.title,
        payer=trade.payer,
    )


def _refund(refund: refunds.Refund, trade: Trade) -> Booked:
    return Booked(
        is_refund=True,
        out_trade_no=refund.out_trade_no,
        out_refund_no=refund.out_refund_no,
        trade_id=trade.trade_id,
        refund_id=refund.refund_id,
        amount_fen=refund.amount_fen,
        # The fee is given back in proportion.
        fee_millifen=-refund.amount_fen * 6,
        # WeChat Pay lists a refund on the day it was asked for, whatever became of it; Alipay when it is done.
        at=refund.created_at if refund.provider == "wechatpay" or not refund.done_at else refund.done_at,
        state=refund.status,
        title=trade.title,
        payer=trade.payer,
    )


def _foreign(provider: str, begin: float, number: int) -> Booked:
    """Return a payment of another system under the same merchant number; the same one whenever it is asked for."""
    mark = hashlib.sha256(f"{provider}:{begin}:{number}".encode()).hexdigest()
    return Booked(
        is_refund=False,
        out_trade_no=f"canteen{mark[:16]}",
        out_refund_no="",
        trade_id=str(int(mark[:22], 16)).zfill(28)[:28],
        refund_id="",
        amount_fen=100 + number,
        fee_millifen=(100 + number) * 6,
        at=begin + 43200 + number % 3600,
        state="SUCCESS",
        title="食堂，午餐(别的系统)",
        payer="oForeign0000000000000000001",
    )


def yuan(fen: int) -> str:
    return f"{'-' if fen < 0 else ''}{abs(fen) // 100}.{abs(fen) % 100:02d}"


def yuan5(millifen: int) -> str:
    return f"{'-' if millifen < 0 else ''}{abs(millifen) // 100000}.{abs(millifen) % 100000:05d}"


class BillDay(Control):
    """/_sim/bills: how a day's bill comes out."""

    def get(self) -> None:
        day = parse_day(self.get_query_argument("day", ""))
        if day is None:
            return self.refuse(422, "invalid", "请给出 day=YYYY-MM-DD")
        rows = booked(self.sandbox, self.get_query_argument("provider", ""), day)
        return self.send({"items": [asdict(row) for row in rows]})

    def post(self) -> None:
        body = self.body()
        day = parse_day(str(body.get("day", "")))
        if body.get("provider") not in ("wechatpay", "alipay") or day is None:
            return self.refuse(422, "invalid", "请给出 provider 和 day=YYYY-MM-DD")
        known = ("ready", "creating", "foreign", "missing", "amounts")
        settings = {name: body[name] for name in known if name in body}
        self.store.put("bill_day", f"{body['provider']}:{day.isoformat()}", settings)
        return self.send({"provider": body["provider"], "day": day.isoformat()} | settings)


routes = [(r"/_sim/bills", BillDay)]
