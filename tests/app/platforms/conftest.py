"""The stand-ins on a free port, and our one HTTP client."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.platforms.http import HttpClient
from sandbox.base import Pace
from sandbox.credentials import FILE_NAME
from sandbox.server import Running, start


@pytest.fixture(scope="session")
def platform_keys(sandbox_keys: Path) -> Path:
    return sandbox_keys


@pytest.fixture
async def sandbox(tmp_path: Path, platform_keys: Path) -> AsyncIterator[Running]:
    shutil.copy2(platform_keys, tmp_path / FILE_NAME)
    running = await start(0, tmp_path, pace=Pace(slow_s=0.2))
    yield running
    await running.stop()


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


@pytest.fixture
async def sim(sandbox: Running) -> AsyncIterator[Any]:
    """Call a control address of the stand-ins: `await sim("faults", provider=..., mode=...)`."""
    async with aiohttp.ClientSession() as session:

        async def call(what: str, **body: Any) -> dict[str, Any]:
            async with session.post(f"{sandbox.url}/_sim/{what}", json=body) as answer:
                found: dict[str, Any] = await answer.json()
                return found

        yield call
