"""The way out: what is sent arrives as given, and every failure is told apart by what the caller may do."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import structlog

from app.platforms.http import BREAKER_FAILURES, CALLS_IN_FLIGHT, HttpClient, VendorUnknown, VendorUnreachable

QUICK = {"headers": {}, "body": None, "timeout_s": 0.4}


@dataclass
class Wire:
    """A server that keeps the raw request and answers what it is told, byte for byte."""

    url: str = ""
    answer: bytes | None = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    requests: list[bytes] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    hold_s: float = 0


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    got = Wire()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.open_now += 1
        got.most_open = max(got.most_open, got.open_now)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
            got.requests.append(head + await reader.readexactly(length))
            await asyncio.sleep(got.hold_s)
            if got.answer is not None:
                writer.write(got.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            got.open_now -= 1
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    got.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield got
    server.close()


async def test_url_and_body_leave_exactly_as_given(http, wire):
    target = "/v3/x%2Fy?a=%7C|*&b=%3D\"'~"
    body = "{\"a\": \"补领\"}".encode()
    answer = await http.request(
        "v", "POST", wire.url + target, headers={"Content-Type": "application/json"}, body=body, timeout_s=1
    )
    assert (answer.status, answer.body) == (200, b"ok")
    head, _, sent = wire.requests[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == f"POST {target} HTTP/1.1".encode()
    assert sent == body
    names = [line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    assert sorted(names) == sorted(set(names))
    assert b"user-agent" in names and b"x-request-id" not in names


async def test_redirects_are_answers(http, wire):
    wire.answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    answer = await http.request("v", "GET", wire.url, **QUICK)
    assert (answer.status, answer.header("LOCATION")) == (302, "http://127.0.0.1:1/")


async def test_nothing_sent(http):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        with pytest.raises(VendorUnreachable):
            await http.request("v", "POST", f"http://127.0.0.1:{taken.getsockname()[1]}/", **QUICK)
    with pytest.raises(VendorUnreachable):
        await http.request("v", "GET", "http://no-such-host.invalid/", **QUICK)


@pytest.mark.parametrize(
    "answer",
    [
        None,  # closes without a word
        b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbroken off",
        b"\x00\x01garbage\r\n\r\n",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_may_have_happened(http, wire, answer, method):
    wire.answer = answer
    with pytest.raises(VendorUnknown):
        await http.request("v", method, wire.url, **QUICK)
    assert len(wire.requests) == 1  # nothing is repeated by itself, whatever the method


async def test_what_is_repeatable_is_repeated_once(http, wire):
    wire.answer = None
    with pytest.raises(VendorUnknown):
        await http.request("v", "POST", wire.url, repeatable=True, **QUICK)
    assert len(wire.requests) == 2
    wire.answer = b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(VendorUnknown):
        await http.request("v", "POST", wire.url, repeatable=True, **QUICK)
    assert len(wire.requests) == 3  # an answer, even a bad one, is an answer


async def test_time_out_and_size_limit(http, wire):
    wire.hold_s = 1
    with pytest.raises(VendorUnknown):
        await http.request("v", "GET", wire.url, **QUICK)
    wire.hold_s = 0
    wire.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
    with pytest.raises(VendorUnknown):
        await http.request("v", "GET", wire.url, max_bytes=4999, **QUICK)
    assert len((await http.request("v", "GET", wire.url, max_bytes=5000, **QUICK)).body) == 5000


async def test_no_more_than_the_cap_at_once(http, wire):
    wire.hold_s = 0.1
    many = [http.request("v", "GET", wire.url, headers={}, body=None, timeout_s=5) for _ in range(CALLS_IN_FLIGHT + 10)]
    answers = await asyncio.gather(*many)
    assert all(answer.status == 200 for answer in answers)
    assert wire.most_open <= CALLS_IN_FLIGHT


async def test_breaker_is_per_vendor_and_recovers(http, wire, monkeypatch):
    wire.answer = b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    for _ in range(BREAKER_FAILURES):
        with pytest.raises(VendorUnknown):
            await http.request("bad", "GET", wire.url, **QUICK)
    asked = len(wire.requests)
    with pytest.raises(VendorUnreachable):
        await http.request("bad", "GET", wire.url, **QUICK)
    assert len(wire.requests) == asked  # not even tried
    wire.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    assert (await http.request("good", "GET", wire.url, **QUICK)).status == 200
    import time

    later = time.time() + 60
    monkeypatch.setattr("purgatory.domain.model.time.time", lambda: later)
    assert (await http.request("bad", "GET", wire.url, **QUICK)).status == 200
    assert (await http.request("bad", "GET", wire.url, **QUICK)).status == 200


async def test_refusals_do_not_open_the_breaker(http, wire):
    wire.answer = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    for _ in range(BREAKER_FAILURES + 2):
        assert (await http.request("v", "GET", wire.url, **QUICK)).status == 404


async def test_the_log_holds_neither_query_nor_body(http, wire):
    with structlog.testing.capture_logs() as lines:
        await http.request(
            "v", "POST", f"{wire.url}/path?access_token=hidden", headers={"A": "hidden"}, body=b"hidden", timeout_s=1
        )
    (line,) = [line for line in lines if line["event"] == "vendor.call"]
    assert (line["vendor"], line["path"], line["status"], line["outcome"]) == ("v", "/path", 200, "answered")
    assert "hidden" not in str(lines)


async def test_close_twice():
    client = HttpClient()
    await client.close()
    await client.close()
