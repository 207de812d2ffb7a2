"""What serves the sockets: requests are read by llhttp (httptools) and given to the same Tornado application.

Tornado's own HTTP/1 server costs four times as much for a small request as reading it in C. So a request that is plain and small, as nearly
all are, is read here; every other one (WebSocket, streamed or large body, `Expect`, whatever this does not know) is left to Tornado's server
together with its connection, before a byte of it was used. Both give the application the same `HTTPServerRequest`, so no handler can tell.

Where a request ends is said once: its head ends with the first empty line, its body has the `Content-Length` that llhttp has judged, and
nothing else may say so (`Transfer-Encoding` is Tornado's). A connection has one request in hand; what comes meanwhile waits, and so does
the next request while the client leaves its answers unread: a connection holds a few hundred kilobytes, whatever its client does.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import httptools
import structlog
from tornado.httpserver import HTTPServer, _HTTPRequestContext
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError

log = structlog.get_logger(__name__)

MAX_HEAD_BYTES = 64 * 1024  # as Tornado's
MAX_BODY_BYTES = 64 * 1024  # larger ones are Tornado's
# More than nginx keeps an idle connection to us (60 s), so that it never sends into one that is just being closed.
IDLE_S = 120
# In so long a time a request must have come whole.
ARRIVE_S = 60
LARGE_ARRIVES_S = 300  # 12 MB over a poor connection
_LOOK_EVERY_S = 10
_BACKLOG = 1024
_TORNADOS_OWN = frozenset({"Upgrade", "Transfer-Encoding", "Expect"})
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\n\r\n"


class Front:
    """Serves an application on sockets; the arguments are those of Tornado's HTTPServer, which has the other connections."""

    def __init__(self, application: Any, **arguments: Any) -> None:
        self.tornado = HTTPServer(application, **{"idle_connection_timeout": IDLE_S, "body_timeout": LARGE_ARRIVES_S, **arguments})
        self.connections: set[_Connection] = set()
        self.is_open = True
        self._servers: list[asyncio.Server] = []
        self._looking: asyncio.TimerHandle | None = None

    async def serve(self, *sockets: socket.socket) -> None:
        """Accept connections on bound sockets, from now until `stop`."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._servers.append(await loop.create_server(lambda: _Connection(self), sock=each, backlog=_BACKLOG))
        self._look()

    def stop(self) -> None:
        """Accept no more; requests in hand go on."""
        self.is_open = False
        for server in self._servers:
            server.close()
        if self._looking is not None:
            self._looking.cancel()

    async def close_all_connections(self) -> None:
        """Close whatever is open, but for WebSockets, as HTTPServer does."""
        for connection in list(self.connections):
            connection.close()
        await self.tornado.close_all_connections()

    def _look(self) -> None:
        """Close connections on which nothing, or only a part of a request, has come for too long: one timer for all of them."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self.connections):
            connection.close_if_idle(now)
        self._looking = loop.call_later(_LOOK_EVERY_S, self._look)


class _Connection(asyncio.Protocol):
    """One connection: reads requests one after the other, hands each to the application, writes its answer."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: asyncio.Transport = None  # type: ignore[assignment] # until connection_made
        self._context: _HTTPRequestContext = None  # type: ignore[assignment]
        self._parser = httptools.HttpRequestParser(self)
        self._buffer = bytearray()
        self._since = 0.0  # since when it waits for (the rest of) a request
        self._head_end = 0  # of the request that is coming in, in the buffer; 0 while its head is not whole
        self._need = 0  # bytes of it in all
        self._answer: _Answer | None = None  # of the request in hand
        self._drained: asyncio.Future[None] | None = None  # there while the client leaves too much unread
        self._unsent = 0  # bytes of answers that it had not taken at the last look
        self._is_leaving = False  # to Tornado, as soon as it has taken them
        self._feeding: asyncio.Task[None] | None = None
        self._begin_head()

    def _begin_head(self) -> None:
        self._target = b""
        self._headers = HTTPHeaders()
        self._line: RequestStartLine | None = None
        self._keep = False
        self._is_whole = False

    # --- the transport's ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._since = asyncio.get_running_loop().time()
        # Whose address counts behind a proxy is Tornado's rule (xheaders): one rule for both ways in.
        stream = cast(IOStream, SimpleNamespace(socket=transport.get_extra_info("socket")))
        server = self._front.tornado
        self._context = _HTTPRequestContext(stream, transport.get_extra_info("peername"), server.protocol, server.trusted_downstream)
        self._front.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if not self._buffer and self._answer is None:
            self._since = asyncio.get_running_loop().time()
        self._buffer += data
        if self._may_read:
            self._read()
        if not self._may_read and len(self._buffer) > MAX_HEAD_BYTES:
            self._transport.pause_reading()

    @property
    def _may_read(self) -> bool:
        """Say whether the next request may be taken up."""
        return self._answer is None and self._drained is None and not self._is_leaving and not self._transport.is_closing()

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
        if self._is_leaving:
            self._leave_to_tornado()
        else:
            asyncio.get_running_loop().call_soon(self._go_on)

    def connection_lost(self, _error: Exception | None) -> None:
        self._front.connections.discard(self)
        self._buffer.clear()
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(StreamClosedError())
            self._drained.exception()  # whoever awaits it is told; nobody has to
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.lost()

    # --- reading ---

    def _read(self) -> None:
        """Hand the first request of the buffer on, if it is there; else let more come."""
        buffer = self._buffer
        if not self._head_end:
            while buffer[:2] == b"\r\n":  # allowed before a request (RFC 9112, 2.2)
                del buffer[:2]
            end = buffer.find(b"\r\n\r\n") + 4
            if end < 4 and len(buffer) <= MAX_HEAD_BYTES and b"\n\n" not in buffer:
                self._transport.resume_reading()
                return
            length = self._length(bytes(memoryview(buffer)[:end])) if 4 <= end <= MAX_HEAD_BYTES else None
            if length is None:
                self._leave_to_tornado()
                return
            self._head_end, self._need = end, end + length
        if len(buffer) < self._need:
            self._transport.resume_reading()
            return
        body = bytes(memoryview(buffer)[self._head_end : self._need])
        if body:
            self._parser.feed_data(body)
        del buffer[: self._need]
        self._head_end = 0
        if not self._is_whole:  # llhttp and we do not agree where it ends
            self._refuse()
            return
        self._hand_on(body)

    def _length(self, head: bytes) -> int | None:
        """Return the length of the body that belongs to a head; None for a request that is Tornado's."""
        try:
            self._parser.feed_data(head)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError):  # it upgrades, or says what is wrong
            return None
        headers = self._headers
        if self._line is None or not _TORNADOS_OWN.isdisjoint(headers):
            return None
        length = int(headers.get("Content-Length", "0"))  # llhttp lets digits pass, and one number only
        return length if length <= MAX_BODY_BYTES else None

    # What llhttp says of a head and its body.

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.add(name.decode("latin1"), value.strip(b" \t").decode("latin1"))

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._line = RequestStartLine(parser.get_method().decode(), self._target.decode("latin1"), f"HTTP/{parser.get_http_version()}")
        self._keep = parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self._is_whole = True

    def _hand_on(self, body: bytes) -> None:
        start_line, headers = self._line, self._headers
        assert start_line is not None
        answer = _Answer(self, self._context, start_line, self._keep)
        self._answer = answer
        self._begin_head()
        request = self._front.tornado.start_request(self, answer)
        try:
            ready = request.headers_received(start_line, headers)
        except HTTPInputError as error:  # no Host, or two
            log.info("http.malformed", reason=str(error)[:200])
            self._answer = None
            self._refuse()
            return
        if ready is not None:  # a handler that takes its body as it comes
            self._feeding = asyncio.get_running_loop().create_task(self._feed(request, ready, body, answer))
            return
        if body:
            request.data_received(body)
        request.finish()

    async def _feed(self, request: HTTPMessageDelegate, ready: Awaitable[None], body: bytes, answer: "_Answer") -> None:
        await ready
        if body and self._answer is answer:  # it has not answered yet
            taken = request.data_received(body)
            if taken is not None:
                await taken
        if self._answer is answer:
            request.finish()

    def _refuse(self) -> None:
        self._transport.write(_BAD_REQUEST)
        self._transport.close()

    def _leave_to_tornado(self) -> None:
        """Give the connection with the request whose head has just come to Tornado's server, for good."""
        if self._transport.is_closing():
            return
        self._is_leaving = True
        if self._transport.get_write_buffer_size():  # of the answers before: they would be lost with the transport
            self._transport.set_write_buffer_limits(high=0)  # so that resume_writing says when the last byte has left
            return
        # The transport closes its own descriptor alone: the connection lives on in the copy.
        own = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
        own.setblocking(False)
        begun, address = bytes(self._buffer), self._transport.get_extra_info("peername")
        self._transport.abort()
        server = self._front.tornado
        stream = _Begun(own, begun, max_buffer_size=server.max_buffer_size, read_chunk_size=server.read_chunk_size)
        stream.set_nodelay(True)
        server.handle_stream(stream, address)

    # --- answering ---

    def write(self, data: bytes) -> "asyncio.Future[None]":
        """Send; the future is done as soon as it is wise to send more."""
        self._transport.write(data)
        return self._drained or _done()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def is_kept(self) -> bool:
        """Say whether another request may follow."""
        return self._front.is_open

    def answered(self, keep: bool) -> None:
        """Go on to the next request, or close."""
        self._answer = None
        if not keep:
            self._transport.close()
            return
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        # Not here: a hundred small requests in one piece would be a hundred calls deep.
        if self._buffer:
            loop.call_soon(self._go_on)
        else:  # what waited ended with a whole request
            self._transport.resume_reading()

    def _go_on(self) -> None:
        if not self._may_read:
            return
        if self._buffer:
            self._read()
        else:  # what waited ended with a whole request
            self._transport.resume_reading()

    def close(self) -> None:
        self._transport.close()

    def close_if_idle(self, now: float) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:  # it takes what it is sent, however slowly
            self._unsent, self._since = unsent, now
        waited_s = now - self._since
        if unsent:
            if waited_s > IDLE_S:
                self._transport.abort()  # a mere close would wait for its reader
        elif self._answer is None and waited_s > (ARRIVE_S if self._buffer else IDLE_S):
            self._transport.close()


class _Answer(HTTPConnection):
    """The way back for one request, as Tornado's handlers use it: the bytes are those that Tornado's own server would send."""

    def __init__(self, connection: _Connection, context: _HTTPRequestContext, asked: RequestStartLine, keep: bool) -> None:
        self.context = context
        self._connection = connection
        self._is_new = asked.version == "HTTP/1.1"
        self._is_head = asked.method == "HEAD"
        self._keep = keep
        self._is_chunked = False
        self._left: int | None = None  # bytes of the Content-Length that are not written yet
        self._on_close: Callable[[], None] | None = None

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        self._on_close = callback

    def close(self) -> None:
        """Break off: the client gets no answer, or not all of it. As Tornado's own connection does it."""
        self._connection.close()

    def lost(self) -> None:
        """Tell the handler that its client has gone."""
        callback, self._on_close = self._on_close, None
        if callback is not None:
            callback()

    def write_headers(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> "asyncio.Future[None]":
        assert isinstance(start_line, ResponseStartLine)
        code = start_line.code
        has_length, has_body = "Content-Length" in headers, not self._is_head and code >= 200 and code not in (204, 304)
        self._is_chunked = self._is_new and has_body and not has_length
        if self._is_chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif has_body and not has_length:
            self._keep = False  # its end is the end of the connection
        self._keep = self._keep and self._connection.is_kept()
        if self._is_new and not self._keep:
            headers["Connection"] = "close"
        elif not self._is_new and self._keep:
            headers["Connection"] = "Keep-Alive"
        self._left = 0 if self._is_head or code == 304 else int(headers["Content-Length"]) if has_length else None
        lines = [f"HTTP/1.1 {code} {start_line.reason}", *(f"{name}: {value}" for name, value in headers.get_all())]
        head = "\r\n".join(lines)
        if head.count("\r") != len(lines) - 1 or head.count("\n") != len(lines) - 1:
            raise ValueError("a line break in a header")
        return self._send(head.encode("latin1") + b"\r\n\r\n" + self._framed(chunk or b""))

    def write(self, chunk: bytes) -> "asyncio.Future[None]":
        return self._send(self._framed(chunk))

    def finish(self) -> None:
        if self._left and not self._connection.is_closing():
            self._connection.close()
            raise HTTPOutputError(f"{self._left} bytes fewer than Content-Length were written")
        if self._is_chunked:
            self._send(b"0\r\n\r\n")
        self._on_close = None
        self._connection.answered(self._keep)

    def _framed(self, chunk: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                self._connection.close()
                raise HTTPOutputError("more bytes than Content-Length were written")
        return b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._is_chunked and chunk else chunk

    def _send(self, data: bytes) -> "asyncio.Future[None]":
        if self._connection.is_closing():
            gone = asyncio.get_running_loop().create_future()
            gone.set_exception(StreamClosedError())
            gone.exception()  # whoever awaits it is told; nobody has to
            return gone
        return self._connection.write(data)


class _Begun(IOStream):
    """A stream of which some bytes were read before."""

    def __init__(self, connection: socket.socket, begun: bytes, **arguments: Any) -> None:
        self._begun = begun
        super().__init__(connection, **arguments)
        # At the first read all of it: the loop tells only of bytes that are still in the socket.
        self._later_chunk_size, self.read_chunk_size = self.read_chunk_size, max(self.read_chunk_size, len(begun))

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        if not self._begun:
            return super().read_from_fd(buf)
        count = min(len(buf), len(self._begun))
        buf[:count] = self._begun[:count]
        self._begun, self.read_chunk_size = self._begun[count:], self._later_chunk_size
        return count


def _done() -> "asyncio.Future[None]":
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
