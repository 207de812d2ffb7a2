"""GET /v1/stream: the live stream over WebSocket.

A client says who it is by `Sec-WebSocket-Protocol: bearer, <token>`, by its first message `{"token": ...}`, or, on a page of the hall
itself, by the page's cookie. `{"after": id}` (alone, or together with the token) first replays what came after that id.
Then it gets `{"id", "type", "data"}`: type is the event's name, data the message as in GET /v1/notifications.
Close codes: 4400 not understood, 4401 not signed in (or not any more), 4429 too many connections, 1013 too slow, 1001 and 1012 restarted or moved:
come back with `after`.
"""

import asyncio
from urllib.parse import urlsplit

import orjson
import structlog
from pymongo.errors import PyMongoError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from app.kernel.errors import BadRequest, HallError, RateLimited, Unauthorized
from handlers.base import HallHandler, operation
from push.stream import TooManyConnections, encode

log = structlog.get_logger(__name__)

HEARTBEAT_S = 30
SIGN_IN_WITHIN_S = 10
# A client that signed in by header or cookie may send {"after"} next: live messages wait this long for it, so that nothing new
# overtakes what is replayed.
_WAIT_FOR_AFTER_S = 0.5
_MAX_MESSAGE_BYTES = 8192
_COOKIE = "hall_page"
_CLOSE_CODES = {400: 4400, 422: 4400, 401: 4401, 429: 4429}


class LiveStream(HallHandler, WebSocketHandler):
    """One connection; the protocol `Connection` of push.stream."""

    cursor = 0
    _owner_id = ""
    _token = ""
    _by_page = False
    _joined = False
    _last_write: "asyncio.Future[None] | None" = None
    _timer: asyncio.TimerHandle | None = None
    _watch: "asyncio.Task[None] | None" = None

    ping_interval = HEARTBEAT_S
    ping_timeout = HEARTBEAT_S
    max_message_size = _MAX_MESSAGE_BYTES

    @operation("The live stream (WebSocket)", answers={101: None})
    async def get(self) -> None:
        headers = self.request.headers
        if (
            headers.get("Upgrade", "").lower() != "websocket"
            or "upgrade" not in [part.strip().lower() for part in headers.get("Connection", "").split(",")]
            or headers.get("Sec-WebSocket-Version") != "13"
            or not headers.get("Sec-WebSocket-Key")
        ):
            raise BadRequest("这个地址只提供 WebSocket（13 版）连接。", en="This address speaks WebSocket 13 only.")
        self._refusal: HallError | None = None
        token, by_page = self._token_of_request()
        if token:
            try:
                # Before the handshake is answered: whoever is connected misses nothing from then on.
                await self._sign_in(token, by_page=by_page)
            except HallError as error:
                # A page whose cookie has run out may still send a token; a refused token of its own ends the connection.
                self._refusal = None if by_page else error
        await WebSocketHandler.get(self)

    def _token_of_request(self) -> tuple[str, bool]:
        offered = [part.strip() for part in self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if len(offered) == 2 and offered[0].lower() == "bearer":
            return offered[1], False
        cookie = self.get_cookie(_COOKIE, "") or ""
        # A cookie goes along with a connection that any site opens, so it counts for our own pages only.
        return (cookie, True) if cookie and self._is_same_origin() else ("", False)

    def _is_same_origin(self) -> bool:
        origin = urlsplit(self.request.headers.get("Origin", "")).netloc.lower()
        public = urlsplit(self.hall.settings.public_url).netloc.lower()
        return bool(origin) and origin in (self.request.host.lower(), public)

    def check_origin(self, origin: str) -> bool:
        return True  # a token is no cookie: nobody's browser sends it along by itself

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return subprotocols[0] if subprotocols and subprotocols[0].lower() == "bearer" else None

    async def open(self, *_args: str, **_kwargs: str) -> None:
        self.set_nodelay(True)
        self.hall.push.stream.opened(self, self.hall.stopping)
        if self._refusal is not None:
            return self._refuse(self._refusal)
        loop = asyncio.get_running_loop()
        if self._owner_id:
            self._timer = loop.call_later(_WAIT_FOR_AFTER_S, self._join)
        else:
            missing = Unauthorized("请在10秒内登录。", en="Sign in within 10 seconds.")
            self._timer = loop.call_later(SIGN_IN_WITHIN_S, self._refuse, missing)
        return None

    async def on_message(self, message: str | bytes) -> None:
        try:
            await self._understand(message)
        except HallError as error:
            self._refuse(error)
        except PyMongoError:
            self.close(1013, "try again")
        except Exception as error:
            log.error("stream.bug", exc_info=error)
            self.close(1011, "internal")

    async def _understand(self, message: str | bytes) -> None:
        try:
            said = orjson.loads(message)
        except orjson.JSONDecodeError:
            raise _not_understood() from None
        if not isinstance(said, dict) or not said or not set(said) <= {"token", "after"}:
            raise _not_understood()
        token, after = said.get("token"), said.get("after")
        if (token is not None and not isinstance(token, str)) or (after is not None and not isinstance(after, str | int)):
            raise _not_understood()
        if token is not None:
            await self._sign_in(token)
        if not self._owner_id:
            raise Unauthorized("请先登录。", en="Sign in first.")
        if after is not None and not isinstance(after, bool) and after != "":
            await self._go_back(str(after))
        self._join()

    async def _sign_in(self, token: str, *, by_page: bool = False) -> None:
        session = await self.hall.identity.authenticate(token, **({"page": True} if by_page else {}))
        if self._owner_id and session.resident_id != self._owner_id:
            raise Unauthorized("这个连接属于另一个账号，请重新连接。", en="This connection belongs to another account.")
        if not self._owner_id:
            self.cursor = await self.hall.push.stream.head(session.resident_id)
            self._owner_id = session.resident_id
        self._token, self._by_page = token, by_page

    async def _go_back(self, after: str) -> None:
        try:
            self.cursor = await self.hall.push.stream.cursor_after(self._owner_id, after)
        except ValueError:
            raise _not_understood() from None

    def _join(self) -> None:
        """Go live (again), from the cursor."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.ws_connection is None or self.ws_connection.is_closing():
            return
        try:
            self.hall.push.stream.join(self._owner_id, self)
        except TooManyConnections:
            return self._refuse(RateLimited("您同时打开的页面太多了，请关掉几个再试。", retry_after_s=30, en="Too many connections."))
        if self._watch is None:
            self._watch = asyncio.create_task(self._keep_signed_in())
        return None

    async def _keep_signed_in(self) -> None:
        """End the connection when its session ends. A client renews by sending {"token"} before the old one runs out."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                session = await self.hall.identity.authenticate(self._token, **({"page": True} if self._by_page else {}))
                if session.resident_id != self._owner_id:  # joined to another account: come back, the inbox has moved
                    return self.close(1012, "moved")
            except HallError as error:
                return self._refuse(error)
            except PyMongoError:
                continue

    def _refuse(self, error: HallError) -> None:
        detail = error.detail_en if self.wants_english else error.detail
        try:
            self.send(encode(None, "error", {"code": error.code, "detail": detail}))
        except OSError:
            return
        self.close(_CLOSE_CODES.get(error.status, 4400), error.code)

    # --- Connection ---

    def send(self, frame: bytes) -> None:
        try:
            self._last_write = asyncio.ensure_future(self.write_message(frame))
        except WebSocketClosedError as error:
            raise ConnectionResetError from error
        # Tell the loop that somebody looks at the outcome: a connection that went away is no bug.
        self._last_write.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def flushed(self) -> None:
        if self._last_write is not None:
            await asyncio.wait({self._last_write})

    def cut(self) -> None:
        self.close(1013, "too slow")
        if self.ws_connection is not None:
            self.ws_connection.abort()

    def go_away(self) -> None:
        self.close(1001, "restarting")

    def on_close(self) -> None:
        for ending in (self._timer, self._watch):
            if ending is not None:
                ending.cancel()
        self.hall.push.stream.closed(self._owner_id, self)


def _not_understood() -> BadRequest:
    return BadRequest('看不懂这条消息，请发送 {"token"} 或 {"after"}。', en='Send {"token": ...}, {"after": ...} or both.')


routes = [(r"/v1/stream", LiveStream)]
