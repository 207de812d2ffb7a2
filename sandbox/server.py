"""The one application of all stand-ins, and how it is served.

    python -m sandbox --port 8889 --data-dir .data/sandbox

State and keys live in the data directory; a second start finds both.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from sandbox import alipay, cashier, clamd, control, departments, jpush, realname, sms, smtp, wechat, wechat_push, wechatpay

from sandbox import alipay_bills, bill_days, control_money, wechatpay_bills, wechatpay_refunds  # isort: skip
from sandbox import apns, hooks, mishaps, official_account, reports, wechat_customer  # isort: skip
from sandbox.base import NothingHere, Pace, Sandbox, StandIn, log
from sandbox.credentials import Credentials, apns_port, clamd_port, load_or_make, smtp_port
from sandbox.mishaps import Mishaps
from sandbox.notices import Courier
from sandbox.reports import Reporter
from sandbox.store import Store

_LARGEST_BODY = 1024 * 1024
DEFAULT_HALL_PORT = 8888
DEFAULT_HALL_URL = f"http://127.0.0.1:{DEFAULT_HALL_PORT}"


class Health(StandIn):
    """GET /healthz: the process is up."""

    def get(self) -> None:
        self.send({"ok": True})


def make_application(
    credentials: Credentials, store: Store, *, hall_url: str = DEFAULT_HALL_URL, pace: Pace | None = None
) -> Application:
    """Put the stand-ins together. The caller serves the application and runs `sandbox_of(application).courier`.

    Args:
        hall_url: the public address of the hall; pages lead back there and to this machine only.
        pace: how long retries and delays take; tests shorten it.
    """
    sandbox = Sandbox(credentials, store, hall_url, pace or Pace())
    sandbox.courier, sandbox.reporter = Courier(sandbox), Reporter(sandbox)
    sandbox.mishaps = Mishaps(sandbox)
    if offset_s := store.get("clock", "offset_s"):
        control_money.run_ahead(sandbox, offset_s)
    platforms = (wechat, wechatpay, alipay, sms, jpush, realname, departments, official_account, wechat_push, wechat_customer, hooks)
    parts = (*platforms, control, cashier, reports, mishaps, apns)
    money = (wechatpay_refunds, control_money)
    daily_bills = (bill_days, wechatpay_bills, alipay_bills)
    routes = [route for part in (*parts, *money, *daily_bills) for route in part.routes]
    return Application(
        [(r"/healthz", Health), *routes],
        default_handler_class=NothingHere,
        template_path=str(Path(__file__).parent / "templates"),
        log_function=_log_request,
        sandbox=sandbox,
    )


@dataclass
class Running:
    """A served sandbox. `url` is its origin; stop() ends it and leaves the state in the data directory."""

    url: str
    sandbox: Sandbox
    _server: HTTPServer
    _courier: asyncio.Task[None]
    _beside: tuple[asyncio.Server | None, ...] = ()

    async def stop(self) -> None:
        self._server.stop()
        for server in self._beside:
            if server is not None:
                server.close()
        self._courier.cancel()
        if self.sandbox.reporter is not None:
            await self.sandbox.reporter.close()
        await asyncio.gather(self._courier, return_exceptions=True)
        await self._server.close_all_connections()
        self.sandbox.store.close()


async def start(
    port: int,
    data_dir: Path,
    *,
    host: str = "127.0.0.1",
    hall_url: str | None = None,
    pace: Pace | None = None,
) -> Running:
    """Serve the stand-ins on `port` (0 = any free one) inside the running loop.

    Raises:
        RuntimeError: HALL_ENV is production; there the stand-ins must not exist.
        OSError: the port is taken.
    """
    if os.environ.get("HALL_ENV") == "production":
        raise RuntimeError("the sandbox does not run when HALL_ENV=production")
    # The port first: who cannot have it should not make keys or open the file of the one that has it.
    sockets = bind_sockets(port, host)
    credentials = await asyncio.to_thread(load_or_make, Path(data_dir))
    store = Store(Path(data_dir))
    hall_url = hall_url or os.environ.get("HALL_PUBLIC_URL") or f"http://127.0.0.1:{os.environ.get('HALL_PORT') or DEFAULT_HALL_PORT}"
    application = make_application(credentials, store, hall_url=hall_url, pace=pace)
    server = HTTPServer(application, max_body_size=_LARGEST_BODY, max_buffer_size=2 * _LARGEST_BODY)
    server.add_sockets(sockets)
    sandbox: Sandbox = application.settings["sandbox"]
    assert sandbox.courier is not None
    courier = asyncio.create_task(sandbox.courier.run(), name="sandbox-courier")
    url = f"http://{host}:{sockets[0].getsockname()[1]}"
    log.info("sandbox on %s", url)
    return Running(url, sandbox, server, courier, await _start_beside(sandbox, host, sockets[0].getsockname()[1]))


async def _start_beside(sandbox: Sandbox, host: str, port: int) -> tuple[asyncio.Server | None, ...]:
    """Serve what speaks no HTTP. Its port is no setting of its own, so it may be taken: the hall must bear that it is away anyhow."""

    async def tried(name: str, at: int, starting: Awaitable[asyncio.Server]) -> asyncio.Server | None:
        try:
            return await starting
        except (OSError, OverflowError) as error:
            log.warning("no %s on port %s: %s", name, at, error)
            return None

    return (
        await tried("clamd", clamd_port(port), clamd.start(host, clamd_port(port), sandbox.faults, slow_s=sandbox.pace.slow_s)),
        await tried("apns", apns_port(port), apns.start(sandbox, host, apns_port(port))),
        await tried("smtp", smtp_port(port), smtp.start(sandbox, host, smtp_port(port))),
    )


async def serve(port: int, data_dir: Path) -> None:
    """Serve until cancelled."""
    running = await start(port, data_dir)
    try:
        # The courier runs for good; if it ever breaks, the process should end and be seen to.
        await running._courier
    finally:
        await running.stop()


def _log_request(handler: StandIn) -> None:
    # The path without its query: access tokens and login codes travel in the query.
    request = handler.request
    log.debug("%s %s %s", handler.get_status(), request.method, request.path)
