"""The way out to those who speak HTTP/2 only (Apple): the guarantees of app/platforms/http.py over httpx and h2.

One connection per host carries all calls side by side and stays open: Apple takes one that opens and closes all the time for an attack.
Plain `http://` is HTTP/2 with prior knowledge, for the stand-in. Nothing is negotiated down to HTTP/1.
"""

import asyncio
import logging
import ssl
from collections.abc import Mapping

import httpx

from app.platforms.http import AWAY, CONNECT_TIMEOUT_S, HttpClient, Response, VendorUnknown, VendorUnreachable, read_answer

# They tell of each request with its whole address and headers, in which are device tokens (addresses of people) and our signature.
for name in ("httpx", "httpcore", "hpack", "h2"):
    logging.getLogger(name).setLevel(logging.WARNING)

_KEEP_OPEN_S = 300
# Nothing was sent: no connection, or no place on one.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)


class Http2Client(HttpClient):
    """One per process, as HttpClient: the same `request`, breaker, metrics and log. No `download`."""

    _calls_in_flight = 200  # the other side allows what it allows, the rest waits in httpx

    def __init__(self, *, user_agent: str = "shaoguan-hall/1.0", trust: ssl.SSLContext | None = None) -> None:
        super().__init__(user_agent=user_agent)
        self._trust = trust
        self._client: httpx.AsyncClient | None = None
        self._making = asyncio.Lock()

    async def _send(
        self,
        vendor: str,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
        max_bytes: int,
    ) -> Response:
        try:
            async with self._place(vendor, timeout_s) as left_s:
                # httpx gives up by itself, each step on its own: a call that is cancelled from outside could take others of its connection along.
                timeout = httpx.Timeout(left_s, connect=min(CONNECT_TIMEOUT_S, left_s), pool=min(CONNECT_TIMEOUT_S, left_s))
                own = self._own_headers()
                client = await self._own_client()
                async with client.stream(method, url, content=body, headers=own | dict(headers), timeout=timeout) as answer:
                    return await read_answer(vendor, answer.status_code, answer.headers, answer.aiter_raw(), max_bytes)
        except _NOT_SENT as error:
            raise VendorUnreachable(AWAY, vendor=vendor, cause=type(error).__name__) from error
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise VendorUnknown(AWAY, vendor=vendor, cause=type(error).__name__) from error

    async def _own_client(self) -> httpx.AsyncClient:
        async with self._making:
            if self._client is None:
                # The certificates of the system are read for it: tens of milliseconds that are not the loop's.
                trust = self._trust or await asyncio.to_thread(ssl.create_default_context)
                limits = httpx.Limits(keepalive_expiry=_KEEP_OPEN_S, max_connections=4)
                self._client = httpx.AsyncClient(http1=False, http2=True, verify=trust, limits=limits, trust_env=False)
            return self._client

    async def close(self) -> None:
        await super().close()
        if self._client is not None:
            await self._client.aclose()
            self._client = None
