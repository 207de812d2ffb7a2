"""Serve some of the hall's handlers on a free port, with only the parts they need behind them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
from tornado.testing import bind_unused_port
from tornado.web import Application

from config.settings import read_settings
from handlers.base import NotFoundHandler
from handlers.http_front import Front


class _Application(Application):
    def __init__(self, hall: SimpleNamespace, routes: list[Any]) -> None:
        super().__init__(routes, default_handler_class=NotFoundHandler, log_function=lambda _handler: None)
        self.hall = hall

    def begin(self) -> None: ...

    def end(self) -> None: ...


@dataclass
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes
    json: Any


@dataclass
class Site:
    url: str
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, *, token: str = "", **more: Any) -> Answered:
        headers = {**more.pop("headers", {})}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        async with self.http.request(method, self.url + path, headers=headers, **more) as answer:
            body = await answer.read()
            zipped = "Content-Encoding" in answer.headers
            is_json = "json" in answer.headers.get("Content-Type", "") and bool(body) and not zipped
            return Answered(answer.status, answer.headers, body, await answer.json(content_type=None) if is_json else None)

    async def get(self, path: str, **more: Any) -> Answered:
        return await self.call("GET", path, **more)


@asynccontextmanager
async def serving(routes: list[Any], **parts: Any) -> AsyncIterator[Site]:
    """Serve `routes` with `parts` as the attributes of the hall."""
    socket, port = bind_unused_port()
    url = f"http://127.0.0.1:{port}"
    settings = read_settings({"HALL_ENV": "test", "HALL_PUBLIC_URL": url, **parts.pop("environment", {})}, env_file=None)
    server = Front(_Application(SimpleNamespace(settings=settings, **parts), routes))
    await server.serve(socket)
    async with aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=("Accept-Encoding",)) as http:
        yield Site(url, http)
    server.stop()
    await server.close_all_connections()
