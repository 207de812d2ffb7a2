"""A load of keep-alive GETs over plain sockets, and what it cost the server: CPU time from the kernel, not the client's clock.

The client is Python too and would hide the difference if it were timed; CPU microseconds per request of the server alone do not.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return user and system CPU seconds of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


async def load(port: int, path: str, headers: Mapping[str, str], requests: int, connections: int) -> None:
    """Send `requests` GETs over `connections` connections. Raises AssertionError for any answer but 200."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode()

    async def one(count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head[:200]
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(one(requests // connections) for _ in range(connections)))


async def microseconds_per_request(
    pid: int, port: int, path: str, headers: Mapping[str, str], requests: int, connections: int = 16
) -> float:
    """Return the server's CPU microseconds per request under a load."""
    before = cpu_seconds(pid)
    await load(port, path, headers, requests, connections)
    return (cpu_seconds(pid) - before) / requests * 1e6


async def post_all(port: int, requests: Sequence[bytes], connections: int, *, status: int = 204) -> None:
    """Send whole requests, each once, over `connections` connections. Raises AssertionError for an answer of another status."""
    waiting = iter(requests)
    expected = f"HTTP/1.1 {status}".encode()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in waiting:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(length)
            assert head.startswith(expected), (head[:200], body[:500])
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
