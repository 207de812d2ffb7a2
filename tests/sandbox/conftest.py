"""The stand-ins on a free port over real HTTP, and a small receiver in the place of the hall."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sandbox.base import Pace
from sandbox.credentials import FILE_NAME
from sandbox.server import Running, start
from tests.sandbox.callers import Merchant


@pytest.fixture(scope="session")
def made_keys(sandbox_keys: Path) -> Path:
    return sandbox_keys


@pytest.fixture
def data_dir(tmp_path: Path, made_keys: Path) -> Path:
    shutil.copy2(made_keys, tmp_path / FILE_NAME)
    return tmp_path


@pytest.fixture
async def running(data_dir: Path) -> AsyncIterator[Running]:
    pace = Pace(
        wechatpay_retries_s=(0.05, 0.05, 3600), alipay_retries_s=(0.05, 3600), late_notice_s=0.3, slow_s=0.2,
        department_slow_s=0.2,
    )  # fmt: skip
    running = await start(0, data_dir, pace=pace)
    yield running
    await running.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@dataclass
class Receiver:
    """What arrived at the merchant's notify_url. `replies` are used up first; then every notice is accepted."""

    url: str = ""
    notices: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    replies: list[tuple[int, str]] = field(default_factory=list)
    accept: tuple[int, str] = (200, "success")

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.notices) < count:
                await asyncio.sleep(0.01)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    got = Receiver()

    async def take(request: web.Request) -> web.Response:
        got.notices.append((dict(request.headers), await request.read()))
        status, text = got.replies.pop(0) if got.replies else got.accept
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_post("/callbacks/{provider}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    got.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/callbacks/any"  # type: ignore[union-attr]
    yield got
    await runner.cleanup()


@pytest.fixture
async def merchant(running: Running, http: aiohttp.ClientSession, receiver: Receiver) -> Merchant:
    """A caller that signs with the published SDKs; the payer 张三 has signed in to both apps."""
    merchant = Merchant(running.url, running.sandbox.credentials, http, receiver.url)
    await merchant.know("张三")
    return merchant


@pytest.fixture
def sim(running: Running, http: aiohttp.ClientSession) -> Any:
    """Call a control address: `await sim("pay", provider=..., ...)` -> (status, body)."""

    async def call(what: str, /, **body: Any) -> tuple[int, dict[str, Any]]:
        async with http.post(f"{running.url}/_sim/{what}", json=body) as answer:
            return answer.status, await answer.json()

    return call
