"""The hidden side of the payment stand-ins: storms of notices, refunds, certificates, clocks.

| call | does |
| --- | --- |
| `GET, POST /_sim/storm` {repeat?, reorder?, delay_s?, drop?, seed?, rotate?, keys?} | bad weather for notices from now on; what is not named ends |
| `GET, POST /_sim/refunds` {mode, seconds?} | how refunds made from now on go: success, processing, abnormal, closed, not_enough |
| `POST /_sim/refunds` {out_refund_no, status} | move one: PROCESSING, SUCCESS, ABNORMAL, CLOSED; its notice goes out |
| `GET, POST /_sim/certificates` {provider, days?, keep_old?, foreign?, none?} | rotate: from now on the new one signs |
| `POST /_sim/clock` {offset_s} | the providers' clocks run ahead by this |
"""

from __future__ import annotations

import math
import time
from typing import Any

from sandbox import alipay_refunds, certificates, refunds, wechatpay_refunds
from sandbox.base import RefundMode, Sandbox
from sandbox.control import Control
from sandbox.refunds import Refund
from sandbox.storms import Storm

_KEYS = ("", "public_key", "certificate", "mixed")


def _number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and least <= value <= most


class StormControl(Control):
    """GET and POST /_sim/storm. `keys` says with which key WeChat Pay signs notices: as asked, one kind, or by turns."""

    def get(self) -> None:
        self.send({"storm": self.sandbox.storm.shown(), "keys": self.store.get("notice_key", "wechatpay") or ""})

    def post(self) -> None:
        body = self.body()
        wanted = {name: body[name] for name in ("repeat", "reorder", "delay_s", "drop", "seed") if name in body}
        sound = (
            isinstance(wanted.get("repeat", 1), int)
            and _number(wanted.get("repeat", 1), 1, 100)
            and isinstance(wanted.get("reorder", False), bool)
            and _number(wanted.get("delay_s", 0), 0, 86400)
            and _number(wanted.get("drop", 0), 0, 1)
            and isinstance(wanted.get("seed", 0), int)
            and body.get("keys", "") in _KEYS
        )
        if not sound:
            return self.refuse(422, "unknown_storm", "repeat 1-100，delay_s 秒，drop 0-1，reorder 真假，keys 见列表", keys=_KEYS)
        self.sandbox.storm = Storm(**wanted)
        self.store.put("notice_key", "wechatpay", body.get("keys", ""))
        rotated = certificates.rotate_platform(self.sandbox).serial if body.get("rotate") is True else None
        return self.send({"ok": True, "storm": self.sandbox.storm.shown(), "rotated": rotated})


class RefundControl(Control):
    """GET and POST /_sim/refunds."""

    def get(self) -> None:
        found = refunds.all_of(self.sandbox, self.get_query_argument("out_trade_no", ""))
        self.send({"items": [refunds.shown(refund) for refund in found], "mode": self.sandbox.refund_mode.__dict__})

    def post(self) -> None:
        body = self.body()
        if "out_refund_no" in body:
            return self._move(body)
        mode, seconds = body.get("mode", "success"), body.get("seconds")
        if mode not in refunds.MODES or (seconds is not None and not _number(seconds, 0, 86400 * 60)):
            return self.refuse(422, "unknown_mode", "mode 或 seconds 不正确", modes=refunds.MODES)
        self.sandbox.refund_mode = RefundMode(mode, seconds)
        return self.send({"ok": True, "mode": self.sandbox.refund_mode.__dict__})

    def _move(self, body: dict[str, Any]) -> None:
        found = [each for each in refunds.all_of(self.sandbox) if each.out_refund_no == body["out_refund_no"]]
        if not found:
            return self.refuse(404, "unknown_refund", "没有这笔退款")
        if body.get("status") not in refunds.STATUSES:
            return self.refuse(422, "unknown_status", "status 不正确", statuses=refunds.STATUSES)
        self.store.forget_waiting_notices(found[0].provider, found[0].out_trade_no, "REFUND.%")
        refund = refunds.end(self.sandbox, found[0], body["status"])
        self._tell(refund)
        return self.send({"ok": True, "refund": refunds.shown(refund)})

    def _tell(self, refund: Refund) -> None:
        trade = self.store.trade(refund.provider, refund.out_trade_no)
        assert trade is not None
        tell = wechatpay_refunds.tell if refund.provider == "wechatpay" else alipay_refunds.tell
        tell(self.sandbox, trade, refund)


class Certificates(Control):
    """GET: what an operator downloads for certificate mode. POST: rotate; `none` ends WeChat Pay's certificates, false brings them back."""

    def get(self) -> None:
        chain = certificates.alipay_chain(self.sandbox)
        signers = {
            "wechatpay": certificates.platform_signers(self.sandbox),
            "alipay": certificates.alipay_signers(self.sandbox),
        }
        shown = {name: [{"serial": each.serial, "ends": each.ends} for each in rows] for name, rows in signers.items()}
        self.send({"alipay": chain, "signers": shown})

    def post(self) -> None:
        body = self.body()
        provider, days = body.get("provider"), body.get("days", 730)
        if provider not in ("wechatpay", "alipay") or not _number(days, 0, 3650):
            return self.refuse(422, "unknown_provider", "provider 应为 wechatpay 或 alipay，days 0-3650")
        if isinstance(body.get("none"), bool):
            self.store.put("platform_signers", "none", body["none"])
            return self.send({"ok": True})
        if provider == "wechatpay":
            signer = certificates.rotate_platform(self.sandbox, days=days, keep_old=body.get("keep_old", True) is not False)
        else:
            signer = certificates.rotate_alipay(self.sandbox, days=days, foreign=body.get("foreign") is True)
        return self.send({"ok": True, "serial": signer.serial})


def run_ahead(sandbox: Sandbox, offset_s: float) -> None:
    """Let the providers' clocks run ahead by this."""
    sandbox.clock = lambda: time.time() + offset_s


class Clock(Control):
    """POST /_sim/clock {offset_s}. Kept, so that a restart finds it."""

    def post(self) -> None:
        offset_s = self.body().get("offset_s")
        if not _number(offset_s, -86400 * 3660, 86400 * 3660):
            return self.refuse(422, "invalid_offset", "offset_s 应为秒数")
        self.store.put("clock", "offset_s", offset_s)
        run_ahead(self.sandbox, offset_s)
        if self.sandbox.courier:
            self.sandbox.courier.wake()  # what was to wait may be due by the new clock
        return self.send({"ok": True, "offset_s": offset_s})


routes = [
    (r"/_sim/storm", StormControl),
    (r"/_sim/refunds", RefundControl),
    (r"/_sim/certificates", Certificates),
    (r"/_sim/clock", Clock),
]
