"""The one way out: every call to another system goes through this client.

What it guarantees, whoever is called: explicit time-outs, no redirects, no cookies, no automatic repetition of a POST, a limit on
the size of the answer, a cap on calls in flight per vendor, a circuit breaker per vendor, raw bytes back, and one log line per call
that holds neither query nor body (tokens travel in queries, personal data in bodies).

Failures are split by what the caller may do:

ProviderUnavailable (kernel)
├── VendorUnreachable   nothing was sent: the same call may be made again, or another vendor chosen
└── VendorUnknown       it may have happened: ask what happened, or repeat only what may be repeated
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import structlog
from prometheus_client import Counter, Histogram
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState
from yarl import URL

from app.kernel import context
from app.kernel.errors import ProviderUnavailable
from app.platforms import addresses

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 3
STALL_TIMEOUT_S = 20  # of a download
CALLS_IN_FLIGHT = 32
LEAST_CALL_S = 0.3
MAX_ANSWER_BYTES = 2 * 1024 * 1024
# Ten failures in a row mean that a vendor is away; two seconds later one call tries again. Short on purpose: a breaker spares our
# residents the waiting (a time-out each), it must not keep a vendor away that is back.
BREAKER_FAILURES = 10
BREAKER_REST_S = 2

calls = Counter("hall_vendor_calls", "Calls to other systems", ["vendor", "outcome"])
call_seconds = Histogram(
    "hall_vendor_seconds", "Time until another system answered", ["vendor"], buckets=(0.02, 0.1, 0.3, 1, 3, 10, 30)
)

# The connection broke; no byte of an answer had come.
_CUT_OFF = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)

AWAY = "对方系统暂时没有回应，请稍后再试。"


class VendorUnreachable(ProviderUnavailable):
    """Nothing was sent: connection refused, no address, no free place, or the breaker is open."""


class VendorUnknown(ProviderUnavailable):
    """The call may have had its effect: time-out, broken connection, 5xx, or an answer nobody can read."""


def is_host_away(error: ProviderUnavailable) -> bool:
    """Say whether another host of the same vendor may do better: no connection, one that broke, or a 5xx.

    Not after a time-out: whoever waits has waited long enough.
    """
    cut_off = isinstance(error.__cause__, aiohttp.ClientConnectionError)
    return cut_off or (isinstance(error, VendorUnknown) and error.context.get("cause") == "status")


@dataclass(frozen=True)
class Response:
    """An answer: status, headers by lower-case name, the bytes as they came. `is_repeat`: to a call that was made twice."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_repeat: bool = False

    def header(self, name: str) -> str:
        return self.headers.get(name.lower(), "")


def date_offset_s(response: Response, now: datetime) -> float | None:
    """Return how far the other side's clock is ahead of ours by its `Date` header, in seconds; None without a readable one.

    The header has whole seconds, so the middle of that second is taken: half a second is no drift.
    """
    try:
        told = parsedate_to_datetime(response.header("Date"))
    except ValueError:
        return None
    if told.tzinfo is None:
        return None
    return round((told - now).total_seconds() + 0.5, 1)


async def read_answer(
    vendor: str, status: int, headers: Mapping[str, str], chunks: AsyncIterator[bytes], max_bytes: int
) -> Response:
    """Read an answer to its end. Raises VendorUnknown for one of 500 or more, and for one that is too large."""
    raw = bytearray()
    async for chunk in chunks:
        raw += chunk
        if len(raw) > max_bytes:
            raise VendorUnknown(AWAY, vendor=vendor, cause="answer too large", status=status)
    if status >= 500:
        raise VendorUnknown(AWAY, vendor=vendor, cause="status", status=status)
    return Response(status, {name.lower(): value for name, value in headers.items()}, bytes(raw))


class HttpClient:
    """One per process. Made anywhere, bound to the running loop at the first call; close it at the end.

    Args:
        stays_outside: only public addresses, and those in `opened`, are connected to, whatever a name resolves to: for addresses that
            others name.
    """

    _calls_in_flight = CALLS_IN_FLIGHT

    def __init__(self, *, user_agent: str = "shaoguan-hall/1.0", stays_outside: bool = False, opened: Sequence[addresses.Network] = ()) -> None:
        self._user_agent = user_agent
        self._stays_outside = stays_outside
        self._opened = opened
        self._session: aiohttp.ClientSession | None = None
        self._breakers = AsyncCircuitBreakerFactory(default_threshold=BREAKER_FAILURES, default_ttl=BREAKER_REST_S)
        self._places: dict[str, asyncio.Semaphore] = {}

    async def request(
        self,
        vendor: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
        max_bytes: int = MAX_ANSWER_BYTES,
        repeatable: bool = False,
        headers_again: Callable[[], Mapping[str, str]] | None = None,
        shown_path: str = "",
    ) -> Response:
        """Send one request, exactly this URL and these bytes, and return the answer, whatever its status below 500.

        Args:
            vendor: the name for breaker, cap, metrics and log.
            url: complete and already percent-encoded; nothing in it is changed (signatures cover it).
            timeout_s: for everything, waiting for a free place included.
            repeatable: the very same call may be made twice, so it is, once, when the connection breaks before any answer (a kept
                connection that the other side was just closing, most often). The answer says so (`is_repeat`): a refusal may then be
                one of the repetition alone.
            shown_path: what the log shows for a path that holds a person's address.
            headers_again: makes the headers of the repetition, where a signature counts once.

        Raises:
            VendorUnreachable, VendorUnknown.
        """
        began = time.perf_counter()
        outcome, status = "unknown", 0
        try:
            breaker = await self._breakers.get_breaker(vendor)
            async with breaker:
                try:
                    response = await self._send(vendor, method, url, headers, body, timeout_s, max_bytes)
                except VendorUnknown as error:
                    if not (repeatable and isinstance(error.__cause__, _CUT_OFF)):
                        raise
                    again = headers_again() if headers_again else headers
                    response = await self._send(vendor, method, url, again, body, timeout_s, max_bytes)
                    response = replace(response, is_repeat=True)
            outcome, status = "answered", response.status
            return response
        except OpenedState as error:
            outcome = "breaker_open"
            raise VendorUnreachable(AWAY, retry_after_s=BREAKER_REST_S, vendor=vendor) from error
        except VendorUnreachable:
            outcome = "unreachable"
            raise
        except VendorUnknown as error:
            status = int(error.context.get("status", 0))  # type: ignore[call-overload]
            raise
        finally:
            took_s = time.perf_counter() - began
            calls.labels(vendor, outcome).inc()
            call_seconds.labels(vendor).observe(took_s)
            log.info(
                "vendor.call",
                vendor=vendor,
                method=method,
                path=shown_path or urlsplit(url).path,
                outcome=outcome,
                status=status,
                ms=round(took_s * 1000, 1),
            )

    async def download(
        self,
        vendor: str,
        url: str,
        *,
        headers: Mapping[str, str],
        to: Path,
        max_bytes: int,
        timeout_s: float,
    ) -> Response:
        """GET a file of any size into `to`, chunk by chunk; whatever was there is replaced.

        Args:
            url: complete and already percent-encoded; nothing in it is changed.
            max_bytes: as it comes over the wire; a larger file is given up.
            timeout_s: for everything. A connection that brings nothing for STALL_TIMEOUT_S is given up sooner.

        Returns:
            status and headers; the body is in the file for status 200, and here (at most MAX_ANSWER_BYTES) for any other below 500.

        Raises:
            VendorUnreachable, VendorUnknown: `to` may hold a part.
        """
        outcome, status, began = "unknown", 0, time.perf_counter()
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S, sock_read=STALL_TIMEOUT_S)
            async with self._own_session().get(
                URL(url, encoded=True),
                headers=self._own_headers() | dict(headers),
                skip_auto_headers=("Accept",),
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                status = answer.status
                if status >= 500:
                    raise VendorUnknown(AWAY, vendor=vendor, cause="status", status=status)
                limit = max_bytes if status == 200 else MAX_ANSWER_BYTES
                body, length = bytearray(), 0
                with await asyncio.to_thread(to.open, "wb") as file:
                    async for chunk in answer.content.iter_chunked(256 * 1024):
                        length += len(chunk)
                        if length > limit:
                            raise VendorUnknown(AWAY, vendor=vendor, cause="answer too large", status=status)
                        if status == 200:
                            await asyncio.to_thread(file.write, chunk)  # a slow disk must not hold the loop
                        else:
                            body += chunk
                outcome = "answered"
                return Response(status, {name.lower(): value for name, value in answer.headers.items()}, bytes(body))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            outcome = "unreachable"
            raise VendorUnreachable(AWAY, vendor=vendor, cause=type(error).__name__) from error
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise VendorUnknown(AWAY, vendor=vendor, cause=type(error).__name__) from error
        finally:
            calls.labels(vendor, outcome).inc()
            took_ms = round((time.perf_counter() - began) * 1000, 1)
            log.info("vendor.download", vendor=vendor, path=urlsplit(url).path, outcome=outcome, status=status, ms=took_ms)

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
        host = urlsplit(url).hostname or ""
        if self._stays_outside and addresses.is_literal(host) and not addresses.is_allowed(host, self._opened):  # a literal is not resolved
            raise VendorUnreachable(AWAY, vendor=vendor, cause="address inside")
        try:
            async with self._place(vendor, timeout_s) as left_s:
                timeout = aiohttp.ClientTimeout(total=left_s, sock_connect=min(CONNECT_TIMEOUT_S, left_s))
                async with self._own_session().request(
                    method,
                    URL(url, encoded=True),
                    data=body,
                    # Without Accept-Encoding nothing is unpacked behind our back: the bytes that came are the bytes that were signed.
                    headers=self._own_headers() | dict(headers),
                    skip_auto_headers=("Content-Type", "Accept"),
                    timeout=timeout,
                    allow_redirects=False,
                ) as answer:
                    return await read_answer(vendor, answer.status, answer.headers, answer.content.iter_chunked(64 * 1024), max_bytes)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise VendorUnreachable(AWAY, vendor=vendor, cause=type(error).__name__) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise VendorUnknown(AWAY, vendor=vendor, cause=type(error).__name__) from error

    @asynccontextmanager
    async def _place(self, vendor: str, timeout_s: float) -> AsyncIterator[float]:
        """Wait for a place among the calls to a vendor, and hold it. Yields the seconds that are left for the call itself.

        No call is begun that would have to be given up at once: nobody would know what became of it.
        """
        timeout_s = context.at_most(timeout_s)
        deadline = time.monotonic() + timeout_s
        place = self._places.setdefault(vendor, asyncio.Semaphore(self._calls_in_flight))
        try:
            async with asyncio.timeout(timeout_s):
                await place.acquire()
        except TimeoutError as error:
            raise VendorUnreachable(AWAY, vendor=vendor, cause="no free place") from error
        try:
            if context.at_most(LEAST_CALL_S) < LEAST_CALL_S:
                raise VendorUnreachable(AWAY, vendor=vendor, cause="no time left")
            yield max(0.05, deadline - time.monotonic())
        finally:
            place.release()

    def _own_headers(self) -> dict[str, str]:
        """Return what every call carries. The request id means nothing outside, but lets a vendor's log be laid beside ours."""
        request_id = context.request_id.get()
        return {"User-Agent": self._user_agent, "Accept-Encoding": "identity"} | ({"X-Request-ID": request_id} if request_id else {})

    def _own_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    keepalive_timeout=15,
                    ttl_dns_cache=60,
                    resolver=addresses.PublicResolver(self._opened) if self._stays_outside else None,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
            # aiohttp repeats a GET by itself when a connection breaks, and offers no public switch against it. A login code works
            # once: repeated, it answers "used" although it had worked. What may be repeated is the caller's to know.
            self._session._retry_connection = False
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
