"""The way out to those who speak HTTP/2 only (Apple): the guarantees of app/platforms/http.py over httpx and h2.

One connection per host carries all calls side by side and stays open: Apple takes one that opens and closes all the time for an attack.
Plain `http://` is HTTP/2 with prior knowledge, for the stand-in. Nothing is negotiated down to HTTP/1.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping

import httpx

from app.platforms.http import CONNECT_TIMEOUT_S, HttpClient, Response, VendorUnknown, VendorUnreachable

# They tell of each request with its whole address and headers, in which are device tokens (addresses of people) and our signature.
for name in ("httpx", "httpcore", "hpack", "h2"):
    logging.getLogger(name).setLevel(logging.WARNING)

STREAMS = 200  # calls at once; the other side allows what it allows, the rest waits in httpx
_KEEP_OPEN_S = 300
_AWAY = "对方系统暂时没有回应，请稍后再试。"
# Nothing was sent: no connection, or no place on one.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)


class Http2Client(HttpClient):
    """One per process, as HttpClient: the same `request`, breaker, metrics and log. No `download`."""

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
        deadline = time.monotonic() + timeout_s
        place = self._places.setdefault(vendor, asyncio.Semaphore(STREAMS))
        try:
            async with asyncio.timeout(timeout_s):
                await place.acquire()
        except TimeoutError as error:
            raise VendorUnreachable(_AWAY, vendor=vendor, cause="no free place") from error
        try:
            left_s = max(0.05, deadline - time.monotonic())
            # httpx gives up by itself, each step on its own: a call that is cancelled from outside could take others of its connection along.
            timeout = httpx.Timeout(left_s, connect=min(CONNECT_TIMEOUT_S, left_s), pool=min(CONNECT_TIMEOUT_S, left_s))
            own = self._own_headers()
            client = await self._own_client()
            async with client.stream(method, url, content=body, headers=own | dict(headers), timeout=timeout) as answer:
                raw = bytearray()
                async for chunk in answer.aiter_raw():
                    raw += chunk
                    if len(raw) > max_bytes:
                        raise VendorUnknown(_AWAY, vendor=vendor, cause="answer too large", status=answer.status_code)
                if answer.status_code >= 500:
                    raise VendorUnknown(_AWAY, vendor=vendor, cause="status", status=answer.status_code)
                return Response(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, bytes(raw))
        except _NOT_SENT as error:
            raise VendorUnreachable(_AWAY, vendor=vendor, cause=type(error).__name__) from error
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise VendorUnknown(_AWAY, vendor=vendor, cause=type(error).__name__) from error
        finally:
            place.release()

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
