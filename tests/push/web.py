"""The handlers of push on a real HTTP server, with real sign-in through the stand-ins."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
from tornado.testing import bind_unused_port
from tornado.web import Application

from app.identity.service import Identity
from app.identity.sessions import Login
from app.kernel.crypto import KeyRing
from app.platforms.wechat import WeChat
from config.settings import read_settings
from handlers import gateway_reports, notifications, stream, subscriptions
from handlers.base import NotFoundHandler
from handlers.http_front import Front
from miniprogram_api import message_push, official_account, templates
from push.service import Push
from tests.push.desk import Desk


class _Application(Application):
    """What handlers ask of their application, without the whole hall behind it."""

    def __init__(self, hall: SimpleNamespace, routes: list[Any]) -> None:
        super().__init__(routes, default_handler_class=NotFoundHandler, log_function=lambda _handler: None)
        self.hall = hall

    def begin(self) -> None: ...

    def end(self) -> None: ...


@dataclass
class Web:
    desk: Desk
    url: str
    hall: SimpleNamespace
    server: Front

    async def sign_in(self, name: str) -> Login:
        """Sign a person in through the WeChat stand-in, as the mini-program does."""
        login: Login = await self.hall.identity.login_wechat(f"sim-{name}")
        identity = await self.hall.identity.channel_identity(login.resident.id, "wechat")
        self.desk.town.identities[login.resident.id, "wechat"] = identity
        return login

    async def call(
        self, method: str, path: str, login: Login | None = None, json: Any = None, **more: Any
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        headers = {"Authorization": f"Bearer {login.access_token}"} if login else {}
        async with self.desk.http.request(method, self.url + path, json=json, headers=headers, **more) as answer:
            kind = answer.headers.get("Content-Type", "")
            return answer.status, await answer.json(content_type=None) if "json" in kind else await answer.text(), answer

    def connect(self, **headers: str) -> Any:
        protocols = [part.strip() for part in headers.pop("protocol", "").split(",") if part]
        return self.desk.http.ws_connect(f"{self.url}/v1/stream", protocols=protocols, headers=headers)

    async def tell(self, login: Login, count: int = 1, name: str = "case.evaluated") -> None:
        """Have something happen to a person."""
        for _ in range(count):
            await self.desk.push.tell(self.desk.event(login.resident.id, name))

    async def joined(self, login: Login, count: int) -> None:
        """Wait until so many connections of a person are live."""
        async with asyncio.timeout(5):
            while True:
                group = self.hall.push.stream._groups.get(login.resident.id)
                if (len(group.members) if group else 0) == count:
                    return
                await asyncio.sleep(0.01)


@asynccontextmanager
async def open_web(desk: Desk, keys: KeyRing, push: Push | None = None, **settings: str) -> AsyncIterator[Web]:
    """Serve the handlers; `push` and `settings` replace the desk's own."""
    socket, port = bind_unused_port()
    url = f"http://127.0.0.1:{port}"
    environment = {"HALL_ENV": "test", "HALL_PUBLIC_URL": url, **desk.settings, **settings}
    known = read_settings(environment, env_file=None)
    wechat = WeChat(
        desk.out, desk.redis, base_url=known.wechat_api_url, app_id=known.wechat_app_id, app_secret=known.wechat_app_secret
    )
    nothing: Any = None
    identity = Identity(desk.database, keys, wechat=wechat, alipay=nothing, sms_codes=nothing, realname=nothing)
    hall = SimpleNamespace(settings=known, database=desk.database, push=push or desk.push, identity=identity)
    hall.stopping = asyncio.Event()
    routes = [*notifications.routes, *gateway_reports.routes, *subscriptions.routes, *stream.routes, *templates.routes, *message_push.routes, *official_account.routes]
    server = Front(_Application(hall, routes))
    await server.serve(socket)
    yield Web(desk, url, hall, server)
    hall.stopping.set()
    server.stop()
    await server.close_all_connections()
    await hall.push.stream.close()
