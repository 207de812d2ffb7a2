"""Mail out by SMTP: one connection per message, always over TLS, with name and password when the URL has them.

`smtp://name:password@host:587` demands STARTTLS, `smtps://name:password@host:465` is TLS from the first byte. Without TLS nothing is said:
neither the password nor a person's address. Source: RFC 5321, RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 8314.

Failures are split by what the caller may do:

SmtpError
├── SmtpAway      nothing was handed over: the same message may be sent again
├── SmtpRefused   the server said no, with its code: what follows is the caller's to know; nothing was handed over
└── SmtpUnknown   the connection broke after the message had gone out: the server has it, or it has not
"""

import asyncio
import re
import ssl
import time
from functools import lru_cache
from urllib.parse import unquote, urlsplit

import aiosmtplib
import structlog

from app.kernel import context
from app.platforms.http import LEAST_CALL_S, call_seconds, calls

log = structlog.get_logger(__name__)

TIMEOUT_S = 4.5  # for the whole of a message, from the connection to the server's yes
_PLACE_TIMEOUT_S = 1.0
AT_ONCE = 12  # connections of one process: relays of a city count them
_PORTS = {"smtp": 587, "smtps": 465}
_ENHANCED = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\b")


class SmtpError(Exception):
    """A message did not go out."""


class SmtpAway(SmtpError):
    """No connection, no TLS, or it broke before the message was handed over. `cause`: a short word, no personal data."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class SmtpUnknown(SmtpAway):
    """It broke, or nothing was answered, while the message was on its way."""


class SmtpRefused(SmtpError):
    """The server's refusal. `enhanced`: its code of RFC 3463 ("5.1.1"), or empty; `step`: login, sender, recipient, message."""

    def __init__(self, code: int, enhanced: str, step: str) -> None:
        super().__init__(f"{code} {enhanced} {step}")
        self.code = code
        self.enhanced = enhanced
        self.step = step


@lru_cache(maxsize=2)  # the system's list takes 50 ms
def _trust(ca: str) -> ssl.SSLContext:
    tls = ssl.create_default_context()
    if ca:
        tls.load_verify_locations(cadata=ca)
    return tls


class Smtp:
    """A mail server. `ca`: certificates (PEM) that are trusted besides the system's, for a relay with one of its own."""

    def __init__(self, url: str, ca: str = "") -> None:
        parts = urlsplit(url)
        self._implicit_tls = parts.scheme == "smtps"
        self._host, self._port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        self._name, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._tls = _trust(ca)
        self._places = asyncio.Semaphore(AT_ONCE)

    async def send(self, sender: str, to: str, message: bytes) -> str:
        """Send one message to one person; return what the server said when it took it. Raises an SmtpError."""
        began, outcome = time.perf_counter(), "unknown"
        try:
            try:
                async with asyncio.timeout(context.at_most(_PLACE_TIMEOUT_S)):
                    await self._places.acquire()
            except TimeoutError as error:
                raise SmtpAway("no free place") from error
            try:
                said = await self._send(sender, to, message)
            finally:
                self._places.release()
            outcome = "answered"
            return said
        except SmtpRefused:
            outcome = "answered"
            raise
        except SmtpUnknown:
            raise
        except SmtpAway:
            outcome = "unreachable"
            raise
        finally:
            took_s = time.perf_counter() - began
            calls.labels("smtp", outcome).inc()
            call_seconds.labels("smtp").observe(took_s)
            log.info("vendor.call", vendor="smtp", outcome=outcome, ms=round(took_s * 1000, 1))

    async def _send(self, sender: str, to: str, message: bytes) -> str:
        timeout_s = context.at_most(TIMEOUT_S)
        if context.at_most(LEAST_CALL_S) < LEAST_CALL_S:
            raise SmtpAway("no time left")
        client = aiosmtplib.SMTP(
            hostname=self._host, port=self._port, use_tls=self._implicit_tls, start_tls=False, tls_context=self._tls, timeout=timeout_s
        )
        step = "connect"
        try:
            async with asyncio.timeout(timeout_s):
                await client.connect()
                if not self._implicit_tls:
                    step = "tls"
                    await client.starttls(tls_context=self._tls)
                if self._name:
                    step = "login"
                    await client.login(self._name, self._password)
                step = "sender"
                await client.mail(sender)
                step = "recipient"
                await client.rcpt(to)
                step = "message"
                said = (await client.data(message)).message
        except aiosmtplib.SMTPResponseException as error:
            if step in ("connect", "tls") and error.code >= 500:
                raise SmtpAway(step) from error
            enhanced = _ENHANCED.match(error.message or "")
            raise SmtpRefused(error.code, enhanced[1] if enhanced else "", step) from error
        except (aiosmtplib.SMTPException, OSError) as error:  # a broken connection, a time-out, a certificate that is not trusted
            cause = "tls" if step == "tls" or isinstance(error.__cause__ or error, ssl.SSLError) else type(error).__name__
            raise (SmtpUnknown if step == "message" else SmtpAway)(cause) from error
        finally:
            client.close()  # without QUIT: what counted was said, and a good-bye can only cost time
        return said[:200]
