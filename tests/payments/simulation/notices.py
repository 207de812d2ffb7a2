"""Notices that a run makes itself: forged, of another merchant, with another amount, or once more; sent to the hall's own address."""

import secrets
import uuid
from typing import Any

import aiohttp

from sandbox import alipay_trade, wechatpay, wechatpay_notice
from sandbox.store import Notice, Trade
from tests.payments.simulation.world import World


async def deliver(world: World, trade: Trade, *, forged: bool = False, merchant: str = "") -> bool:
    """Send a notice that says what `trade` says; return whether the hall took it.

    Args:
        forged: signed with a key that is not the provider's.
        merchant: the merchant it names, when that is not us.
    """
    stand_in = world.sandbox.sandbox
    build: Any = wechatpay_notice.build if trade.provider == "wechatpay" else alipay_trade.build_notice
    headers, body = build(stand_in, _notice(world, trade, merchant), forged=forged)
    url = f"{world.url}/callbacks/{trade.provider}"
    try:
        async with world.session.post(url, data=body, headers=headers) as answer:
            text = await answer.text()
    except aiohttp.ClientError:  # the process died over it
        return False
    taken = answer.status == 204 if trade.provider == "wechatpay" else (answer.status, text) == (200, "success")
    world.counts[f"notice by hand {'taken' if taken else 'refused'}"] += 1
    return taken


def _notice(world: World, trade: Trade, merchant: str) -> Notice:
    stand_in = world.sandbox.sandbox
    own, now = stand_in.credentials, stand_in.clock()
    content: dict[str, Any]
    if trade.provider == "wechatpay":
        resource = wechatpay.transaction(trade, merchant or own.wechatpay_mch_id)
        content = {"original_type": "transaction", "summary": "支付成功", "created_at": now, "resource": resource}
        notice_id, kind = str(uuid.uuid4()), "TRANSACTION.SUCCESS"
    else:
        content = alipay_trade.notice_fields(stand_in, trade)
        content |= {"seller_id": merchant} if merchant else {}
        notice_id, kind = secrets.token_hex(17), content["trade_status"]
    key_id = trade.extra.get("key_id", own.platform_serial)
    return Notice(0, trade.provider, trade.out_trade_no, notice_id, kind, trade.notify_url, content, key_id, 0, None, "", None)
