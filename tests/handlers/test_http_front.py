"""The front gives the application what Tornado's own server gives it, and its client the same bytes back."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
import pytest
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body
from tornado.websocket import WebSocketHandler, websocket_connect

from handlers import http_front
from handlers.http_front import Front

BIG = 100_000


class Echo(RequestHandler):
    """Answers what it was asked, as far as a handler can see it."""

    SUPPORTED_METHODS = (*RequestHandler.SUPPORTED_METHODS,)

    def answer(self) -> None:
        request = self.request
        self.set_header("X-Given", request.headers.get("X-Given", ""))
        self.finish(
            orjson.dumps(
                {
                    "method": request.method,
                    "uri": request.uri,
                    "version": request.version,
                    "ip": request.remote_ip,
                    "protocol": request.protocol,
                    "headers": sorted(request.headers.get_all()),
                    "arguments": {key: [value.decode() for value in values] for key, values in request.arguments.items()},
                    "files": {key: [file["body"].decode() for file in files] for key, files in request.files.items()},
                    "length": len(request.body),
                }
            )
        )

    get = post = put = patch = delete = options = head = answer  # type: ignore[assignment]


class Status(RequestHandler):
    def get(self, code: str) -> None:
        self.set_status(int(code))
        if int(code) not in (204, 304):
            self.write("text")


class Pieces(RequestHandler):
    async def get(self) -> None:
        for number in range(3):
            self.write(f"piece {number} ")
            await self.flush()


class Wrong(RequestHandler):
    def get(self, what: str) -> None:
        match what:
            case "more":
                self.set_header("Content-Length", "2")
                self.finish("more than two")
            case "fewer":
                self.set_header("Content-Length", "20")
                self.finish("fewer")
            case _:
                raise RuntimeError("a mistake of the handler")


@stream_request_body
class Streamed(RequestHandler):
    def prepare(self) -> None:
        self.count = 0

    def data_received(self, chunk: bytes) -> None:
        self.count += len(chunk)

    def post(self) -> None:
        self.finish(str(self.count))


class Talk(WebSocketHandler):
    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


class Waiting(RequestHandler):
    """Waits until its client is gone."""

    gone: "asyncio.Queue[str]"
    here: "asyncio.Queue[str]"

    async def get(self) -> None:
        self.here.put_nowait("here")
        await asyncio.sleep(20)

    def on_connection_close(self) -> None:
        self.gone.put_nowait("gone")


class Flood(RequestHandler):
    """Sends until its client reads no more; says how much it was let send before it had to wait."""

    sent = 0
    ended: "asyncio.Queue[str]"

    async def get(self) -> None:
        type(self).sent = 0
        try:
            for _ in range(1000):
                self.write(b"x" * 64 * 1024)
                type(self).sent += 64 * 1024
                await self.flush()
        except StreamClosedError:
            self.ended.put_nowait("closed")
            raise
        self.ended.put_nowait("all")


ROUTES = [
    (r"/echo", Echo),
    (r"/status/(\d+)", Status),
    (r"/pieces", Pieces),
    (r"/wrong/(\w+)", Wrong),
    (r"/streamed", Streamed),
    (r"/talk", Talk),
    (r"/waiting", Waiting),
    (r"/flood", Flood),
]


@dataclass
class Sites:
    front: Front
    ours: int
    tornados: int


@pytest.fixture
async def sites() -> AsyncIterator[Sites]:
    """The same application behind the front and behind Tornado's own server."""
    Waiting.gone, Waiting.here, Flood.ended = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
    application = Application(ROUTES, log_function=lambda _handler: None, websocket_ping_interval=0)
    front = Front(application, max_body_size=BIG * 2, xheaders=True)
    [ours], [tornados] = bind_sockets(0, "127.0.0.1"), bind_sockets(0, "127.0.0.1")
    await front.serve(ours)
    tornado = HTTPServer(application, max_body_size=BIG * 2, xheaders=True)
    tornado.add_socket(tornados)
    yield Sites(front, ours.getsockname()[1], tornados.getsockname()[1])
    front.stop()
    await front.close_all_connections()
    tornado.stop()
    await tornado.close_all_connections()


async def exchange(port: int, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Send pieces over one connection, and after them a request that ends it; return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    # Read while it comes: what a reader has not taken yet when the connection is reset, because we asked something of a closed one, is lost.
    reading = asyncio.create_task(_all_of(reader))
    try:
        for piece in (*pieces, request("GET /status/200", "Connection: close")):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
    except ConnectionResetError:
        pass
    async with asyncio.timeout(20):
        came = await reading
    writer.close()
    return re.sub(rb"Date: [^\r]+", b"Date: now", came)


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    came = b""
    try:
        while piece := await reader.read(1 << 20):
            came += piece
    except ConnectionResetError:
        pass
    return came


def request(line: str, *headers: str, body: bytes = b"", version: str = "HTTP/1.1") -> bytes:
    lines = [f"{line} {version}", "Host: hall.example", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


MULTIPART = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\ninside\r\n--edge--\r\n'

SAME = {
    "get": request("GET /echo?a=1&a=2&b=%E4%BD%A0"),
    "head": request("HEAD /echo"),
    "options": request("OPTIONS /echo"),
    "delete": request("DELETE /echo"),
    "patch": request("PATCH /echo", "Content-Type: application/json", body=b'{"a":1}'),
    "form": request("POST /echo", "Content-Type: application/x-www-form-urlencoded", body=b"a=1&b=%E4%BD%A0&a=3"),
    "multipart": request("POST /echo", "Content-Type: multipart/form-data; boundary=edge", body=MULTIPART),
    "empty body": request("POST /echo", "Content-Length: 0"),
    "no length": request("POST /echo"),
    "odd names": request("GET /echo", "x-given: there", "X-OTHER:  blanks around  ", "X-Twice: 1", "X-Twice: 2", "Cookie: a=b; c=d"),
    "latin1": request("GET /echo").replace(b"\r\n\r\n", b"\r\nX-Odd: caf\xe9\r\n\r\n"),
    "proxied": request("GET /echo", "X-Real-Ip: 203.0.113.9", "X-Forwarded-Proto: https"),
    "proxied by garbage": request("GET /echo", "X-Real-Ip: <script>", "X-Forwarded-For: 203.0.113.7, 198.51.100.2", "X-Scheme: gopher"),
    "close": request("GET /echo", "Connection: close"),
    "1.0": request("GET /echo", version="HTTP/1.0"),
    "1.0 kept": request("GET /echo", "Connection: keep-alive", version="HTTP/1.0"),
    "two at once": request("GET /echo?n=1") + request("POST /echo", body=b"second") + request("GET /echo?n=3", "Connection: close"),
    "blank line first": b"\r\n" + request("GET /echo"),
    "no such path": request("GET /nothing"),
    "no such method": request("BREW /echo"),
    "status 204": request("GET /status/204"),
    "status 304": request("GET /status/304"),
    "status 500": request("GET /status/500"),
    "handler failed": request("GET /wrong/all"),
    "pieces": request("GET /pieces"),
    "pieces to head": request("HEAD /pieces"),
    "pieces, then another": request("GET /pieces") + request("GET /echo"),
    "large body": request("POST /echo", body=b"x" * BIG),
    "too large body": request("POST /echo", body=b"x" * BIG * 3),
    "streamed": request("POST /streamed", body=b"x" * 1000),
    "streamed, large": request("POST /streamed", body=b"x" * BIG),
    "chunked": request("POST /echo", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n" + request("GET /echo"),
    "expect": request("POST /echo", "Expect: 100-continue", "Content-Length: 5") + b"hello",
    "upgrade to nothing": request("GET /echo", "Upgrade: h2c", "Connection: Upgrade"),
    "line feeds alone": b"GET /echo HTTP/1.1\nHost: hall.example\n\n",
    "list of lengths": request("POST /echo", "Content-Length: 5, 5") + b"hello",
    "both lengths": request("POST /echo", "Transfer-Encoding: chunked", "Content-Length: 5") + b"0\r\n\r\n",
}


@pytest.mark.parametrize("name", SAME)
async def test_both_servers_give_the_same_bytes(sites: Sites, name: str) -> None:
    ours, tornados = await asyncio.gather(exchange(sites.ours, SAME[name]), exchange(sites.tornados, SAME[name]))
    assert ours == tornados
    assert ours.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("name", ["get", "form", "multipart", "two at once", "chunked", "large body"])
async def test_a_request_may_come_in_any_pieces(sites: Sites, name: str) -> None:
    whole = SAME[name]
    expected = await exchange(sites.ours, whole)
    head = min(len(whole), 400)
    cuts = [*range(1, head, max(1, head // 4))]
    for cut in cuts:
        assert await exchange(sites.ours, whole[:cut], whole[cut:], pause_s=0.01) == expected, cut


async def test_a_request_may_come_byte_by_byte(sites: Sites) -> None:
    assert await exchange(sites.ours, *(bytes([byte]) for byte in SAME["form"]), pause_s=0.001) == await exchange(sites.ours, SAME["form"])


MALFORMED = {
    "no request": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "length of letters": request("POST /echo", "Content-Length: five") + b"hello",
    "negative length": request("POST /echo", "Content-Length: -5") + b"hello",
    "plus length": request("POST /echo", "Content-Length: +5") + b"hello",
    "two lengths": request("POST /echo", "Content-Length: 5", "Content-Length: 6") + b"hello!",
    "blank before the colon": request("POST /echo", "Content-Length : 5") + b"hello",
    "folded": request("GET /echo", "X-Given: a", " b"),
    "nul": request("GET /echo", "X-Given: a\x00b"),
    "no host": b"GET /echo HTTP/1.1\r\n\r\n",
    "two hosts": request("GET /echo", "Host: other.example"),
    "head without end": b"GET /echo HTTP/1.1\r\n" + b"X-Long: " + b"x" * 70_000,
    "long head": request("GET /echo", "X-Long: " + "x" * 70_000),
    "long line": request("GET /echo?" + "x" * 66_000),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_request_is_refused_and_nothing_after_it_is_read(sites: Sites, name: str) -> None:
    wrong = MALFORMED[name] + request("GET /echo?smuggled")
    ours, tornados = await asyncio.gather(exchange(sites.ours, wrong), exchange(sites.tornados, wrong))
    assert b"smuggled" not in ours
    assert ours in (tornados, b"")  # a reset can overtake the refusal
    assert ours == b"" or ours.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert await exchange(sites.ours, SAME["get"])  # and the next client is served


async def test_a_websocket_is_tornados_from_its_first_byte(sites: Sites) -> None:
    connection = await websocket_connect(f"ws://127.0.0.1:{sites.ours}/talk")
    for number in range(3):
        await connection.write_message(f"message {number}")
        assert await connection.read_message() == f"message {number}"
    connection.close()


async def test_a_websocket_whose_first_frame_comes_with_its_handshake(sites: Sites) -> None:
    frame = b"\x81\x82\x00\x00\x00\x00hi"
    shake = request("GET /talk", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")
    assert b"\x81\x02hi" in await exchange(sites.ours, shake + frame)


@pytest.mark.parametrize("what", ["more", "fewer"])
async def test_a_handler_that_lies_about_its_length_costs_its_connection_alone(sites: Sites, what: str) -> None:
    came = await exchange(sites.ours, request(f"GET /wrong/{what}") + request("GET /echo?after"))
    assert b"after" not in came
    assert (await exchange(sites.ours, SAME["get"])).startswith(b"HTTP/1.1 200")


async def test_a_handler_is_told_that_its_client_has_gone(sites: Sites) -> None:
    _reader, writer = await asyncio.open_connection("127.0.0.1", sites.ours)
    writer.write(request("GET /waiting"))
    assert await asyncio.wait_for(Waiting.here.get(), 5) == "here"
    writer.close()
    assert await asyncio.wait_for(Waiting.gone.get(), 5) == "gone"


async def test_a_slow_reader_holds_up_who_writes_to_it_and_nobody_else(sites: Sites) -> None:
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, ("127.0.0.1", sites.ours))
        await loop.sock_sendall(slow, request("GET /flood"))
        await asyncio.sleep(0.3)
        sent = Flood.sent
        assert 0 < sent < 16 * 1024 * 1024
        assert (await exchange(sites.ours, SAME["get"])).startswith(b"HTTP/1.1 200")
        assert Flood.sent == sent
        read = 0
        while read < sent + 1024 * 1024:
            read += len(await asyncio.wait_for(loop.sock_recv(slow, 1 << 20), 5))
        assert Flood.sent > sent
    assert await asyncio.wait_for(Flood.ended.get(), 5) == "closed"


async def test_who_asks_on_and_reads_nothing_is_held_up_and_cut_off(sites: Sites) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        greedy.setblocking(False)
        await loop.sock_connect(greedy, ("127.0.0.1", sites.ours))
        asked = request("GET /echo?" + "x" * 1000) * 40_000
        sending = asyncio.create_task(loop.sock_sendall(greedy, asked))
        await asyncio.sleep(0.1)
        [connection] = sites.front.connections
        async with asyncio.timeout(10):
            while connection._drained is None:  # the kernel's own buffers come first
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        kept = len(connection._buffer), connection._transport.get_write_buffer_size()
        assert max(kept) < 1024 * 1024, kept
        assert not sending.done()
        connection.close_if_idle(loop.time())  # a look that sees the unread answers
        connection.close_if_idle(loop.time() + http_front.IDLE_S - 1)
        assert not connection.is_closing()
        connection.close_if_idle(loop.time() + http_front.IDLE_S + 1)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending, 5)
        assert not sites.front.connections


async def test_who_reads_late_gets_every_answer(sites: Sites) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sites.ours, limit=2048)
    asked = [request(f"GET /echo?n={number}&{'x' * 2000}") for number in range(2000)]
    asked.append(request("POST /echo?last", "Connection: close", body=b"x" * BIG))  # Tornado's, with answers before it still on their way
    sending = asyncio.create_task(_send(writer, b"".join(asked)))
    await asyncio.sleep(0.3)
    came = b""
    while piece := await asyncio.wait_for(reader.read(1 << 16), 5):
        came += piece
    await sending
    assert [int(number) for number in re.findall(rb'"uri":"/echo\?n=(\d+)', came)] == list(range(2000))
    assert came.count(b"/echo?last") == 1 and came.count(b"HTTP/1.1 200 OK") == 2001
    writer.close()


async def test_after_many_at_once_the_connection_goes_on(sites: Sites) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sites.ours)
    for _ in range(3):
        whole = request("GET /pieces") + b"".join(request(f"GET /echo?{'x' * 2000}") for _ in range(60))
        assert len(whole) > http_front.MAX_HEAD_BYTES
        writer.write(whole)
        came = b""
        while came.count(b"HTTP/1.1 200 OK") < 61 or not came.endswith((b"}", b"0\r\n\r\n")):
            came += await asyncio.wait_for(reader.read(1 << 20), 5)
    writer.close()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_many_small_requests_in_one_piece_are_answered_in_their_order(sites: Sites) -> None:
    came = await exchange(sites.ours, b"".join(request(f"GET /echo?n={number}") for number in range(500)))
    assert [int(number) for number in re.findall(rb"/echo\?n=(\d+)", came)] == list(range(500))


async def test_what_waits_too_long_is_closed_and_what_works_is_not(sites: Sites) -> None:
    loop = asyncio.get_running_loop()
    idle, half, busy = [await asyncio.open_connection("127.0.0.1", sites.ours) for _ in range(3)]
    half[1].write(b"GET /echo HT")
    busy[1].write(request("GET /waiting"))
    await Waiting.here.get()
    connections = list(sites.front.connections)
    assert len(connections) == 3

    def look(later_s: float) -> int:
        for connection in connections:
            connection.close_if_idle(loop.time() + later_s)
        return sum(connection.is_closing() for connection in connections)

    assert look(http_front.ARRIVE_S - 1) == 0
    assert look(http_front.ARRIVE_S + 1) == 1
    assert await asyncio.wait_for(half[0].read(), 5) == b""
    assert look(http_front.IDLE_S + 1) == 2
    assert await asyncio.wait_for(idle[0].read(), 5) == b""
    busy[1].close()


@pytest.mark.parametrize("framing", ["Content-Length: 70000", "Transfer-Encoding: chunked"])
async def test_a_large_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch, framing: str) -> None:
    monkeypatch.setattr(http_front, "LARGE_ARRIVES_S", 0.5)
    front = Front(Application(ROUTES, log_function=lambda _handler: None), max_body_size=BIG)
    [bound] = bind_sockets(0, "127.0.0.1")
    await front.serve(bound)
    reader, writer = await asyncio.open_connection(*bound.getsockname())
    writer.write(f"POST /echo HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\nffff\r\n".encode() + b"a" * 100)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    front.stop()
    await front.close_all_connections()


async def test_while_stopping_an_answer_is_the_last_of_its_connection(sites: Sites) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sites.ours)
    writer.write(request("GET /pieces"))
    sites.front.stop()
    came = await asyncio.wait_for(reader.read(), 5)
    assert b"Connection: close" in came and b"piece 2" in came
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", sites.ours)
    writer.close()
