"""Attempts and refunds as a provider sees them, without an order around them."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from payments.provider import PaymentProvider, RefundTerms, Terms

IP = "203.0.113.7"


@dataclass
class Try:
    out_trade_no: str
    scene: str
    request: str


@dataclass
class RefundTry:
    out_trade_no: str
    out_refund_no: str
    request: str


async def attempt_of(hall: Any, provider: PaymentProvider, scene: str = "mini_program", **changes: Any) -> Try:
    """Prepare an attempt; only a scene that names its payer gets one."""
    payer = {}
    if scene in provider.payer_scenes:
        payer = provider.payer_from(hall.payers[(await hall.resident(), provider.identity)])
    terms = {
        "out_trade_no": new_id("pay"),
        "scene": scene,
        "amount_fen": 4000,
        "description": "居民身份证丢失补领/工本费=40&元 \"{}\"",
        "payer": payer,
        "expires_at": utc_now().replace(microsecond=0) + timedelta(minutes=30),
        "notify_url": f"{hall.url}/callbacks/{provider.name}",
        "return_url": f"{hall.url}/orders/ord_1",
        "client_ip": IP,
    } | changes
    return Try(terms["out_trade_no"], scene, provider.prepare(Terms(**terms)))


async def paid_attempt(hall: Any, provider: PaymentProvider, scene: str = "mini_program", **changes: Any) -> Try:
    attempt = await attempt_of(hall, provider, scene, **changes)
    params = await provider.create(attempt)
    answer = await hall.sim(
        "pay", provider=provider.name, out_trade_no=attempt.out_trade_no, outcome="success_without_notice", client_params=params
    )
    assert answer["ok"], answer
    return attempt


def refund_of(hall: Any, provider: PaymentProvider, attempt: Try, amount_fen: int = 4000, **changes: Any) -> RefundTry:
    terms = {
        "out_trade_no": attempt.out_trade_no,
        "out_refund_no": new_id("rfd"),
        "amount_fen": amount_fen,
        "paid_fen": 4000,
        "reason": "重复缴费退回",
        "notify_url": f"{hall.url}/callbacks/{provider.name}/refunds",
    } | changes
    return RefundTry(terms["out_trade_no"], terms["out_refund_no"], provider.prepare_refund(RefundTerms(**terms)))
