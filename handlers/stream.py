"""The live stream: GET /v1/stream over WebSocket, GET /v1/stream/poll for clients that cannot.

A client says who it is by `Sec-WebSocket-Protocol: bearer, <token>`, by its first message `{"token": ...}`, or, on a page of the hall
itself, by the page's cookie. `{"after": id}` (alone, or together with the token) first replays what came after that id.
Then it gets `{"id", "type", "data"}`: type is the event's name, data the message as in GET /v1/notifications.
Close codes: 4400 not understood, 4401 not signed in (or not any more), 4429 too many connections, 1013 too slow, 1001 and 1012 restarted or moved:
come back with `after`. `notice.published` has no id: it goes to everybody and can be read again at GET /v1/notices.

A poll waits on the same stream with the same cursor; what it answers is what a WebSocket would have been sent, in the same order.
"""

import asyncio
from urllib.parse import urlsplit

import orjson
import structlog
from marshmallow import Schema, fields, validate
from pymongo.errors import PyMongoError
from tornado.websocket import WebSocketHandler

from app.kernel.errors import BadRequest, HallError, RateLimited, Unauthorized
from handlers.base import HallHandler, operation
from handlers.raw_frames import drop, write_frame
from push.model import stream_id
from push.stream import Frame, TooManyConnections, encode

log = structlog.get_logger(__name__)

MOST_WAIT_S = 25  # less than proxies wait for an answer
SIGN_IN_WITHIN_S = 10
# A client that signed in by header or cookie may send {"after"} next: live messages wait this long for it, so that nothing new
# overtakes what is replayed.
_WAIT_FOR_AFTER_S = 0.5
_MAX_MESSAGE_BYTES = 8192
_SENT_HEADERS = (
    "Server", "Date", "X-Content-Type-Options", "Cache-Control", "X-Request-ID", "Upgrade", "Connection", "Sec-WebSocket-Accept",
    "Sec-WebSocket-Protocol",
)  # fmt: skip
_COOKIE = "hall_page"
_CLOSE_CODES = {400: 4400, 422: 4400, 401: 4401, 429: 4429}


class LiveStream(HallHandler, WebSocketHandler):
    """One connection; the protocol `Connection` of push.stream."""

    # Slots, also for what the base sets: a handler of thirty attributes loses the dict layout that instances share, a kilobyte for each.
    __slots__ = ("_by_page", "_english", "_heard", "_joined", "_owner_id", "_refusal", "_timer", "_token", "_unsent", "cursor")
    __slots__ += ("_began", "_is_counted", "_reservation")

    ping_interval = None  # the stream beats for all: Tornado would keep a task and a timer for each
    max_message_size = _MAX_MESSAGE_BYTES

    def initialize(self) -> None:
        super().initialize()
        self.cursor = 0
        self._owner_id = self._token = ""
        self._by_page = self._joined = False
        self._heard = True  # something came since the last heartbeat
        self._english = super().wants_english
        self._refusal: HallError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unsent: asyncio.Future[None] | None = None

    @property
    def wants_english(self) -> bool:
        return self._english

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
        del subprotocols[1:]  # Tornado keeps the list, and with it a copy of the token, as long as the connection lives
        return subprotocols[0] if subprotocols and subprotocols[0].lower() == "bearer" else None

    def open(self, *_args: str, **_kwargs: str) -> None:
        self.set_nodelay(True)
        self.request.headers.clear()  # read by now, as those of the answer are sent: three kilobytes of each connection that waits
        for name in _SENT_HEADERS:
            self.clear_header(name)
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
        self._heard = True
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
        session = await self.hall.identity.sessions.authenticate(token, **({"page": True} if by_page else {}))
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
            return self._refuse(_too_many())
        self._joined = True
        return None

    def _refuse(self, error: HallError) -> None:
        detail = error.detail_en if self.wants_english else error.detail
        try:
            self.send(encode(None, "error", {"code": error.code, "detail": detail}))
        except OSError:
            return
        self.close(_CLOSE_CODES.get(error.status, 4400), error.code)

    # --- Connection ---

    def send(self, frame: Frame) -> bool:
        self._unsent = write_frame(self.ws_connection, frame.wire)
        return self._unsent is None

    async def flushed(self) -> None:
        if self._unsent is not None:
            await asyncio.wait({self._unsent})

    async def beat(self) -> None:
        """Close when the other side is silent or its session has ended. A client renews by `{"token"}` before the old one runs out."""
        if self.ws_connection is None or self.ws_connection.is_closing():
            return
        if not self._heard:
            return self.cut()
        self._heard = False
        try:
            self.ping()
            if self._joined:
                session = await self.hall.identity.sessions.authenticate(self._token, **({"page": True} if self._by_page else {}))
                if session.resident_id != self._owner_id:  # joined to another account: come back, the inbox has moved
                    self.close(1012, "moved")
        except HallError as error:
            self._refuse(error)
        except (PyMongoError, OSError):
            pass  # the database is asked again at the next beat; a socket that is gone says so itself
        except Exception as error:
            log.error("stream.bug", exc_info=error)
            self.close(1011, "internal")

    def on_pong(self, data: bytes) -> None:
        self._heard = True

    def cut(self) -> None:
        connection = self.ws_connection
        self.close(1013, "too slow")
        drop(connection)

    def go_away(self) -> None:
        self.close(1001, "restarting")

    def on_close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.hall.push.stream.closed(self._owner_id, self)


def _not_understood() -> BadRequest:
    return BadRequest('看不懂这条消息，请发送 {"token"} 或 {"after"}。', en='Send {"token": ...}, {"after": ...} or both.')


def _too_many() -> RateLimited:
    return RateLimited("您同时打开的页面太多了，请关掉几个再试。", retry_after_s=30, en="Too many connections.")


class PollQuery(Schema):
    after = fields.Str(
        load_default="",
        validate=validate.Length(max=64),
        metadata={"description": "the `cursor` of the last answer, or an id as for the WebSocket; without it the present cursor is answered at once"},
    )
    wait_s = fields.Int(
        load_default=MOST_WAIT_S,
        validate=validate.Range(0, MOST_WAIT_S, error=f"应为 0 到 {MOST_WAIT_S}"),
        metadata={"description": "how long to wait when there is nothing yet"},
    )


class StreamFrame(Schema):
    id = fields.Str(allow_none=True, metadata={"description": "null: for everybody, without a cursor"})
    type = fields.Str(metadata={"example": "case.accepted"})
    data = fields.Dict(metadata={"description": "the message as in GET /v1/notifications; the notice as in GET /v1/notices"})


class PollAnswer(Schema):
    items = fields.List(fields.Nested(StreamFrame))
    cursor = fields.Str(metadata={"description": "the next `after`"})


class Waiting:
    """A poll that waits; the protocol `Connection` of push.stream."""

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.frames: list[Frame] = []
        self.ended = asyncio.Event()

    def send(self, frame: Frame) -> bool:
        self.frames.append(frame)
        self.ended.set()
        return True

    async def flushed(self) -> None:
        """Nothing waits here for a reader."""

    async def beat(self) -> None:
        """It ends by itself sooner than a heartbeat would find out anything."""

    def cut(self) -> None:
        self.ended.set()

    def go_away(self) -> None:
        self.ended.set()


class StreamPoll(HallHandler):
    _waiting: Waiting | None = None

    @operation("Wait for what comes after a cursor", query=PollQuery, answers={200: PollAnswer}, auth="resident")
    async def get(self) -> None:
        owner_id, stream = self.resident.resident_id, self.hall.push.stream
        after = self.query["after"]
        try:
            cursor = await (stream.cursor_after(owner_id, after) if after else stream.head(owner_id))
        except ValueError:
            raise BadRequest("看不懂 after，请用上次返回的 cursor。", en="`after` is no cursor.") from None
        waiting = Waiting(cursor)
        for waiting.cursor, frame in await stream.read(owner_id, cursor):
            waiting.frames.append(frame)
        # Whoever has no cursor yet gets one before it waits: a first call that breaks would leave a gap.
        if after and not waiting.frames and self.query["wait_s"]:
            await self._wait(owner_id, waiting)
            self.resident = await self.require_resident()  # a session that ended meanwhile is told nothing more
        self.set_header("Content-Type", "application/json; charset=utf-8")
        items = b",".join(frame.json for frame in waiting.frames)
        self.finish(b'{"items":[%b],"cursor":"%b"}' % (items, stream_id(waiting.cursor).encode()))

    async def _wait(self, owner_id: str, waiting: Waiting) -> None:
        stream, self._waiting = self.hall.push.stream, waiting
        stream.opened(waiting, self.hall.stopping)
        try:
            stream.join(owner_id, waiting)  # looks once more from the cursor: what came since we read is not missed
            async with asyncio.timeout(self.query["wait_s"]):
                await waiting.ended.wait()
        except TooManyConnections:
            raise _too_many() from None
        except TimeoutError:
            pass
        finally:
            stream.closed(owner_id, waiting)

    def on_connection_close(self) -> None:
        if self._waiting is not None:
            self._waiting.ended.set()


routes = [(r"/v1/stream", LiveStream), (r"/v1/stream/poll", StreamPoll)]
