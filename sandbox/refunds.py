"""Refunds as both providers keep them: one row per number, and how they will go, switched by POST /_sim/refunds.

A refund that is under way has its end decided when it is made (`ends_as` at `ends_at`); who looks later sees it ended. Its notice is
written at once and due at that moment, so nothing runs in the background.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sandbox.base import Sandbox, china_text
from sandbox.store import Trade

KIND = "refund"
STATUSES = ("PROCESSING", "SUCCESS", "ABNORMAL", "CLOSED")
# not_enough refuses, for want of funds; processing never ends by itself.
MODES = ("success", "processing", "abnormal", "closed", "not_enough")
_ENDS = {"success": "SUCCESS", "abnormal": "ABNORMAL", "closed": "CLOSED"}


@dataclass
class Refund:
    """One refund. `status` is WeChat Pay's word for both; times are epoch seconds."""

    provider: str
    out_trade_no: str
    out_refund_no: str
    refund_id: str
    amount_fen: int
    reason: str
    notify_url: str
    key_id: str
    status: str
    created_at: float
    ends_as: str = ""
    ends_at: float | None = None
    done_at: float | None = None
    asked: int = 1  # how often the request came


def key_of(provider: str, number: str, out_trade_no: str) -> str:
    # Alipay's numbers are unique per trade only; WeChat Pay's per merchant.
    return f"{provider}/{number}" if provider == "wechatpay" else f"{provider}/{out_trade_no}/{number}"


def find(sandbox: Sandbox, provider: str, number: str, out_trade_no: str = "") -> Refund | None:
    """Return a refund as it stands now."""
    row = sandbox.store.get(KIND, key_of(provider, number, out_trade_no))
    return _settled(sandbox, Refund(**row)) if row else None


def of_trade(sandbox: Sandbox, trade: Trade) -> list[Refund]:
    """Return the refunds of a trade, oldest first."""
    found = (find(sandbox, trade.provider, number, trade.out_trade_no) for number in trade.extra.get("refund_nos", ()))
    return [refund for refund in found if refund is not None]


def all_of(sandbox: Sandbox, out_trade_no: str = "") -> list[Refund]:
    """Return all refunds (of one number), oldest first."""
    rows = (Refund(**row) for row in sandbox.store.all(KIND).values())
    found = [_settled(sandbox, row) for row in rows if not out_trade_no or row.out_trade_no == out_trade_no]
    return sorted(found, key=lambda refund: refund.created_at)


def taken_fen(refunds: list[Refund]) -> int:
    """Return how much of a payment is given back or on its way back."""
    return sum(refund.amount_fen for refund in refunds if refund.status != "CLOSED")


def returned_fen(refunds: list[Refund]) -> int:
    return sum(refund.amount_fen for refund in refunds if refund.status == "SUCCESS")


def make(sandbox: Sandbox, trade: Trade, *, number: str, amount_fen: int, reason: str, notify_url: str, key_id: str = "") -> Refund:
    """Make a refund that will go as the switch says, and mark its trade."""
    now = sandbox.clock()
    switch = sandbox.refund_mode
    usual_s = sandbox.pace.wechatpay_refund_s if trade.provider == "wechatpay" else 0.0
    seconds = switch.seconds if switch.seconds is not None else usual_s
    refund = Refund(
        provider=trade.provider,
        out_trade_no=trade.out_trade_no,
        out_refund_no=number,
        refund_id=f"503{secrets.randbelow(10**5):05d}{china_text(now)[:10].replace('-', '')}{secrets.randbelow(10**13):013d}",
        amount_fen=amount_fen,
        reason=reason,
        notify_url=notify_url,
        key_id=key_id,
        status="PROCESSING",
        created_at=now,
        ends_as=_ENDS.get(switch.mode, ""),
        ends_at=None if switch.mode == "processing" else now + seconds,
    )
    trade.extra.setdefault("refund_nos", []).append(number)
    sandbox.store.save_trade(trade)
    return _settled(sandbox, save(sandbox, refund))


def end(sandbox: Sandbox, refund: Refund, status: str) -> Refund:
    """Move a refund by hand, as a bank or a person at the provider does."""
    refund.ends_as, refund.ends_at = "", None
    refund.status = status
    refund.done_at = sandbox.clock() if status == "SUCCESS" else None
    return save(sandbox, refund)


def save(sandbox: Sandbox, refund: Refund) -> Refund:
    sandbox.store.put(KIND, key_of(refund.provider, refund.out_refund_no, refund.out_trade_no), refund.__dict__)
    return refund


def _settled(sandbox: Sandbox, refund: Refund) -> Refund:
    if refund.ends_at is not None and sandbox.clock() >= refund.ends_at and refund.ends_as:
        refund.status, refund.done_at = refund.ends_as, refund.ends_at if refund.ends_as == "SUCCESS" else None
        refund.ends_as, refund.ends_at = "", None
        save(sandbox, refund)
    return refund


def shown(refund: Refund) -> dict[str, Any]:
    return {name: value for name, value in refund.__dict__.items() if name not in ("key_id", "ends_as")}
