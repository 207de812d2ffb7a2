"""What every stand-in shares: the parts, the times, the faults a test can switch on, and the handler base."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from tornado.httputil import format_timestamp
from tornado.web import Application, RequestHandler

from sandbox.credentials import Credentials
from sandbox.store import Store
from sandbox.storms import Storm

if TYPE_CHECKING:
    from sandbox.apns import Apns
    from sandbox.mishaps import Mishaps
    from sandbox.notices import Courier
    from sandbox.reports import Reporter

CHINA = timezone(timedelta(hours=8))  # no daylight saving since 1991, so a fixed offset is exact
log = logging.getLogger("sandbox")

# down: the connection closes without an answer, before anything happens. lost: the same after the work was done, the
# case where the caller cannot know. slow: the answer comes, late. error500, garbage: before the work. bad_signature:
# the work is done, the answer is signed wrongly.
# unsigned: the same without a signature. rate_limited: turned away before the work, as asked too often. redirect, huge: a
# way elsewhere, and an answer without end, both before the work.
FAULT_MODES = (
    "none", "down", "lost", "slow", "error500", "bad_signature", "garbage", "unsigned", "rate_limited", "redirect", "huge",
)  # fmt: skip
HUGE_BYTES = 3 * 1024 * 1024
FAULT_PROVIDERS = (
    "wechat", "wechatpay", "wechatpay_notice", "alipay", "alipay_notice", "sms", "voice", "jpush", "apns", "realname",
    "departments", "clamd", "smtp", "hooks",
)  # fmt: skip


@dataclass(frozen=True)
class Pace:
    """How long things take, in seconds; tests shorten it. Defaults are the documented ladders."""

    wechatpay_retries_s: tuple[float, ...] = (
        15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600,
    )  # fmt: skip
    alipay_retries_s: tuple[float, ...] = (240, 600, 600, 3600, 7200, 21600, 54000)
    late_notice_s: float = 15
    # How long a refund is under way, and the least time between two of one trade.
    wechatpay_refund_s: float = 2
    wechatpay_refund_pause_s: float = 60
    alipay_refund_pause_s: float = 3
    slow_s: float = 30
    department_slow_s: float = 20


@dataclass
class Faults:
    """Faults switched on by /_sim/faults. They live in memory: a restart ends every fault."""

    _active: dict[str, tuple[str, int | None]] = field(default_factory=dict)

    def set(self, provider: str, mode: str, count: int | None) -> None:
        if mode == "none":
            self._active.pop(provider, None)
        else:
            self._active[provider] = (mode, count)

    def take(self, provider: str) -> str:
        """Return the mode for one request to `provider` and count it."""
        mode, count = self._active.get(provider, ("none", None))
        if count is not None:
            if count <= 1:
                self._active.pop(provider, None)
            else:
                self._active[provider] = (mode, count - 1)
        return mode

    def listed(self) -> dict[str, Any]:
        return {provider: {"mode": mode, "count": count} for provider, (mode, count) in self._active.items()}


@dataclass
class RefundMode:
    """How refunds made from now on go: `mode` after `seconds`."""

    mode: str = "success"
    seconds: float | None = None


@dataclass
class Sandbox:
    """The parts one process of stand-ins is made of."""

    credentials: Credentials
    store: Store
    hall_url: str
    pace: Pace = field(default_factory=Pace)
    clock: Callable[[], float] = time.time
    faults: Faults = field(default_factory=Faults)
    storm: Storm = field(default_factory=Storm)
    refund_mode: RefundMode = field(default_factory=RefundMode)
    courier: Courier | None = None  # set by server.make_application
    mishaps: Mishaps | None = None  # likewise
    reporter: Reporter | None = None  # the same
    apns: Apns | None = None  # set by apns.start

    def today(self) -> str:
        return datetime.fromtimestamp(self.clock(), CHINA).date().isoformat()


def rfc3339_china(at: float) -> str:
    return datetime.fromtimestamp(at, CHINA).strftime("%Y-%m-%dT%H:%M:%S+08:00")


def rfc3339_utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def china_text(at: float) -> str:
    return datetime.fromtimestamp(at, CHINA).strftime("%Y-%m-%d %H:%M:%S")


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class StandIn(RequestHandler):
    """Base of every handler: the fault switch before the work, JSON in and out.

    `provider` names the fault switch; "" for the control pages, which never fail on purpose.
    """

    provider = ""
    fault = "none"

    @property
    def sandbox(self) -> Sandbox:
        return self.application.settings["sandbox"]

    @property
    def store(self) -> Store:
        return self.sandbox.store

    @property
    def credentials(self) -> Credentials:
        return self.sandbox.credentials

    def now(self) -> float:
        return self.sandbox.clock()

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Date", format_timestamp(self.now()))  # the stand-in's clock, which a test may set wrong

    async def prepare(self) -> None:
        if not self.provider:
            return
        self.fault = self.sandbox.faults.take(self.provider)
        if self.fault == "none" and self.sandbox.mishaps is not None and self.sandbox.mishaps.marker is not None:
            self.fault, wait_s = self.sandbox.mishaps.draw(self.provider, self.request.body)
            if wait_s:
                await asyncio.sleep(wait_s)
                self.fault = "none"
        if self.fault == "down":
            self.hang_up()
        elif self.fault == "slow":
            await asyncio.sleep(self.sandbox.pace.slow_s)
        elif self.fault == "error500":
            self.set_status(500)
            self.answer_error500()
        elif self.fault == "rate_limited":
            self.answer_rate_limited()
        elif self.fault == "redirect":
            self.redirect(self.request.uri + ("&" if "?" in self.request.uri else "?") + "moved=1", status=307)
        elif self.fault == "huge":
            self.set_header("Content-Type", "application/json; charset=utf-8")
            self.finish(b'{"' + b"x" * HUGE_BYTES + b'":1}')
        elif self.fault == "garbage":
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.finish("<html><head><title>502 Bad Gateway</title></head><body>{not json</body></html>")

    def answer_error500(self) -> None:
        """Answer what this platform says when it is broken; overridden where it has words of its own."""
        self.send({"code": "internal", "message": "系统繁忙"}, status=500)

    def answer_rate_limited(self) -> None:
        """Turn the call away unread; overridden where a platform has words of its own."""
        self.refuse(429, "FREQUENCY_LIMITED", "请求过于频繁，请稍后重试")

    def send(self, value: Any, *, status: int = 200, content_type: str = "application/json; charset=utf-8") -> None:
        self.send_bytes(compact(value), status=status, content_type=content_type)

    def send_bytes(self, body: bytes, *, status: int, content_type: str) -> None:
        if self.fault == "lost":
            self.hang_up()
            return
        self.set_status(status)
        self.set_header("Content-Type", content_type)
        self.finish(body)

    def hang_up(self) -> None:
        """Close the connection without a byte of an answer."""
        self.detach().close()

    def json_object(self) -> dict[str, Any] | None:
        """Read the body as a JSON object, None when it is anything else."""
        try:
            value = json.loads(self.request.body)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def refuse(self, status: int, code: str, message: str, **more: Any) -> None:
        self.send({"code": code, "message": message} | more, status=status)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(compact({"code": f"http_{status_code}", "message": self._reason}))


class NothingHere(StandIn):
    """Any path no platform has."""

    async def prepare(self) -> None:
        self.refuse(404, "RESOURCE_NOT_EXISTS", f"{self.request.method} {self.request.path} 不存在")


def sandbox_of(application: Application) -> Sandbox:
    """Return the parts of a running application: for tests that look behind the wire."""
    return application.settings["sandbox"]
