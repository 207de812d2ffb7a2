"""A mail server: EHLO, STARTTLS, AUTH PLAIN and LOGIN, MAIL, RCPT, DATA. What it takes stands under /_sim/sent as channel `email`.

It relays for the hall alone (name and password of the credentials), only over TLS, and shows a certificate that the hall is told to trust.
Some names before the @ have a fate: `nobody` does not exist (550 5.1.1), `full` is full (552 5.2.2), `grey` waits the first time (451 4.7.1),
`policy` refuses the contents (554 5.7.1). The fault switch is `smtp`: down, slow, rate_limited (421), error500 (451 at the end of DATA), lost
(taken, but never answered), garbage, bad_signature (a certificate of somebody else).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import email
import email.policy
import hashlib
import re
import ssl
from typing import Any

from sandbox.base import Sandbox, log, rfc3339_utc
from sandbox.tls import server_context

MAX_BYTES = 1024 * 1024
_LONGEST_LINE = 2048
_IDLE_S = 60
_PATH = re.compile(r"(?:FROM|TO):\s*<([^<>\s]*)>", re.IGNORECASE)
_CODE = re.compile(r"(?<!\d)\d{6}(?!\d)")


class _Bye(Exception):
    """The connection ends here."""


async def start(sandbox: Sandbox, host: str, port: int) -> asyncio.Server:
    """Serve until the returned server is closed."""
    own, foreign = (server_context(sandbox.credentials.derived(label)) for label in ("smtp.tls", "smtp.foreign"))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = sandbox.faults.take("smtp")
        try:
            async with asyncio.timeout(_IDLE_S + sandbox.pace.slow_s):
                if fault != "down":
                    await _Session(sandbox, reader, writer, fault, foreign if fault == "bad_signature" else own).run()
        except (_Bye, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, TimeoutError, ssl.SSLError, ValueError):
            pass  # the caller is gone, or speaks something else
        finally:
            writer.close()

    server = await asyncio.start_server(talk, host, port, limit=_LONGEST_LINE)
    log.info("smtp on %s:%s", *server.sockets[0].getsockname()[:2])
    return server


class _Session:
    def __init__(
        self, sandbox: Sandbox, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: str, tls: ssl.SSLContext
    ) -> None:
        self._sandbox = sandbox
        self._reader, self._writer = reader, writer
        self._fault = fault
        self._tls = tls
        self._is_secure = self._is_known = False
        self._sender: str | None = None
        self._recipients: list[str] = []

    async def run(self) -> None:
        if self._fault == "slow":
            await asyncio.sleep(self._sandbox.pace.slow_s)
        if self._fault == "garbage":
            return await self._say("HTTP/1.1 400 Bad Request")
        if self._fault == "rate_limited":
            return await self._say("421 4.7.0 too many connections, come back later")
        await self._say("220 mail.sandbox ESMTP")
        while True:
            line = await self._line()
            verb, _, rest = line.partition(" ")
            handle = getattr(self, f"_do_{verb.lower()}", None)
            if handle is None:
                await self._say("502 5.5.2 command not known")
            else:
                await handle(rest.strip())

    # --- commands ---

    async def _do_ehlo(self, _rest: str) -> None:
        offers = [f"SIZE {MAX_BYTES}", "8BITMIME", "ENHANCEDSTATUSCODES", "AUTH PLAIN LOGIN" if self._is_secure else "STARTTLS"]
        self._forget()
        await self._say("250-mail.sandbox", *(f"250-{offer}" for offer in offers[:-1]), f"250 {offers[-1]}")

    async def _do_starttls(self, _rest: str) -> None:
        await self._say("220 2.0.0 ready")
        await self._writer.start_tls(self._tls)
        self._is_secure = True
        self._forget()

    async def _do_auth(self, rest: str) -> None:
        if not self._is_secure:
            return await self._say("538 5.7.11 encryption required")
        kind, _, given = rest.partition(" ")
        if kind.upper() == "PLAIN":
            parts = (await self._secret(given)).split(b"\0")
            name, password = (parts[1], parts[2]) if len(parts) == 3 else (b"", b"")
        elif kind.upper() == "LOGIN":
            name = await self._secret(given, "334 VXNlcm5hbWU6")
            password = await self._secret("", "334 UGFzc3dvcmQ6")
        else:
            return await self._say("504 5.5.4 mechanism not known")
        keys = self._sandbox.credentials
        self._is_known = (name.decode(errors="replace"), password.decode(errors="replace")) == (keys.smtp_name, keys.smtp_password)
        await self._say("235 2.7.0 accepted" if self._is_known else "535 5.7.8 name or password wrong")

    async def _secret(self, given: str, challenge: str = "334 ") -> bytes:
        if not given:
            await self._say(challenge)
            given = await self._line()
        try:
            return base64.b64decode(given, validate=True)
        except binascii.Error:
            return b""

    async def _do_mail(self, rest: str) -> None:
        path = _PATH.match(rest)
        if not self._is_known:
            return await self._say("530 5.7.0 authentication required")
        if path is None or "@" not in path[1]:
            return await self._say("501 5.1.7 bad address")
        self._forget()
        self._sender = path[1]
        await self._say("250 2.1.0 ok")

    async def _do_rcpt(self, rest: str) -> None:
        path = _PATH.match(rest)
        if self._sender is None:
            return await self._say("503 5.5.1 MAIL first")
        if path is None or "@" not in path[1]:
            return await self._say("501 5.1.3 bad address")
        name = path[1].partition("@")[0]
        if name.startswith("nobody"):
            return await self._say("550 5.1.1 no such user here")
        if name.startswith("full"):
            return await self._say("552 5.2.2 mailbox full")
        if name.startswith("grey") and not self._sandbox.store.get("smtp_grey", path[1]):
            self._sandbox.store.put("smtp_grey", path[1], True)
            return await self._say("451 4.7.1 grey listed, try again")
        self._recipients.append(path[1])
        await self._say("250 2.1.5 ok")

    async def _do_data(self, _rest: str) -> None:
        if not self._recipients:
            return await self._say("503 5.5.1 RCPT first")
        await self._say("354 go on")
        body, is_over = bytearray(), False
        while (line := await self._reader.readuntil(b"\n")) != b".\r\n":
            is_over = is_over or len(body) + len(line) > MAX_BYTES
            body += b"" if is_over else line[1:] if line.startswith(b".") else line
        if is_over:
            return await self._say("552 5.3.4 message too big")
        if self._fault == "error500":
            return await self._say("451 4.3.0 local error")
        if any(name.startswith("policy") for name in self._recipients):
            return await self._say("554 5.7.1 refused by policy")
        for recipient in self._recipients:
            self._keep(recipient, bytes(body))
        if self._fault == "lost":
            raise _Bye
        await self._say(f"250 2.0.0 queued as {hashlib.sha256(body).hexdigest()[:10]}")
        self._forget()
        return None

    async def _do_rset(self, _rest: str) -> None:
        self._forget()
        await self._say("250 2.0.0 ok")

    async def _do_noop(self, _rest: str) -> None:
        await self._say("250 2.0.0 ok")

    async def _do_quit(self, _rest: str) -> None:
        await self._say("221 2.0.0 bye")
        raise _Bye

    # --- within ---

    def _keep(self, recipient: str, raw: bytes) -> None:
        message: Any = email.message_from_bytes(raw, policy=email.policy.default)
        texts = {part.get_content_type(): part.get_content() for part in message.walk() if not part.is_multipart()}
        now, text = self._sandbox.clock(), texts.get("text/plain", "")
        record = {"at": rfc3339_utc(now), "channel": "email", "to": recipient, "from": str(message["From"]), "sender": self._sender}
        record |= {"subject": str(message["Subject"]), "text": text, "html": texts.get("text/html", ""), "content": text}
        record |= {"headers": {name: str(value) for name, value in message.items()}, "raw": raw.decode("ascii", errors="replace")}
        if "验证码" in record["subject"] and (code := _CODE.search(text)):
            record["code"] = code[0]
        self._sandbox.store.record_sent(record, channel="email", to=recipient, at=now)

    def _forget(self) -> None:
        self._sender, self._recipients = None, []

    async def _line(self) -> str:
        return (await self._reader.readuntil(b"\n")).decode("ascii", errors="replace").rstrip("\r\n")

    async def _say(self, *lines: str) -> None:
        self._writer.write("".join(f"{line}\r\n" for line in lines).encode())
        await self._writer.drain()
