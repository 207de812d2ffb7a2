"""The reports of the SMS and voice gateway to the hall: POST {hall}/callbacks/sms and /callbacks/voice, signed, in batches, repeated until
answered 200.

What is reported is scripted by `POST /_sim/reports` {channel, to?, statuses?, delay_s?, repeat?, early?, forged?}: `statuses` in this order
(the empty list: no report ever), each `repeat` times, `delay_s` after the send. `early`: before the send is answered. `forged`: wrongly
signed. With `to` for this number only. Waiting reports live in memory: a stand-in that is killed forgets them, as a bad gateway does.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from sandbox.base import StandIn, compact, log, rfc3339_utc

if TYPE_CHECKING:
    from sandbox.base import Sandbox

_AT_ONCE = 200
_TICK_S = 0.1
_AGAIN_AFTER_S = (1.0, 5.0, 30.0, 120.0)
_WITHIN_S = 10.0
ARRIVED = {"sms": "DELIVRD", "voice": "ANSWERED"}


@dataclass(frozen=True)
class Script:
    """What is reported of each message; see the module."""

    statuses: tuple[str, ...]
    delay_s: float = 0.5
    repeat: int = 1
    early: bool = False
    forged: bool = False


@dataclass
class _Waiting:
    due_at: float  # of the loop's clock
    channel: str
    report: dict[str, Any]
    forged: bool
    tries: int = 0


@dataclass
class Reporter:
    """One per process of stand-ins."""

    sandbox: Sandbox
    scripts: dict[tuple[str, str], Script] = field(default_factory=dict)  # (channel, number or "") -> script
    answers: list[tuple[str, int]] = field(default_factory=list)  # channel and status of each request, for tests
    _waiting: list[_Waiting] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    async def message_taken(self, channel: str, to: str, request_id: str, message_id: str) -> None:
        """Plan the reports of a message that was just taken; sends them at once when the script says early."""
        script = self.scripts.get((channel, to)) or self.scripts.get((channel, "")) or Script((ARRIVED[channel],))
        now = asyncio.get_running_loop().time()
        rows = []
        for place, status in enumerate(script.statuses):
            report = {"request_id": request_id, "message_id": message_id, "status": status}
            # A hundredth apart, so that the order of the script is the order of the reports.
            due_at = now + (0 if script.early else script.delay_s + place * 2 * _TICK_S)
            rows += [_Waiting(due_at, channel, report, script.forged) for _ in range(script.repeat)]
        if script.early:
            for row in rows:
                await self._post([row])
            return
        self._waiting += rows
        if rows and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="sandbox-reports")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(_TICK_S)
            now = asyncio.get_running_loop().time()
            due = [row for row in self._waiting if row.due_at <= now]
            self._waiting = [row for row in self._waiting if row.due_at > now]
            for channel, forged in {(row.channel, row.forged) for row in due}:
                rows = [row for row in due if (row.channel, row.forged) == (channel, forged)]
                for begin in range(0, len(rows), _AT_ONCE):
                    await self._post(rows[begin : begin + _AT_ONCE])

    async def _post(self, rows: list[_Waiting]) -> None:
        channel, at = rows[0].channel, rfc3339_utc(self.sandbox.clock())
        body = compact({"reports": [row.report | {"at": at} for row in rows]})
        headers = {"Content-Type": "application/json"} | self.signed(body)
        if rows[0].forged:
            headers["X-Gateway-Signature"] = "0" * 64
        try:
            timeout = aiohttp.ClientTimeout(total=_WITHIN_S)
            async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
                async with http.post(f"{self.sandbox.hall_url.rstrip('/')}/callbacks/{channel}", data=body, headers=headers) as answer:
                    status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.debug("reports of %s: %s", channel, type(error).__name__)
            status = 0
        self.answers.append((channel, status))
        if status == 200:
            return
        for row in rows:
            if row.tries < len(_AGAIN_AFTER_S) and not row.forged:
                row.due_at = asyncio.get_running_loop().time() + _AGAIN_AFTER_S[row.tries]
                row.tries += 1
                self._waiting.append(row)

    def signed(self, body: bytes) -> dict[str, str]:
        """Return the headers that sign a body, each time with another nonce."""
        timestamp, nonce = str(int(self.sandbox.clock())), secrets.token_hex(12)
        text = f"{timestamp}\n{nonce}\n".encode() + body
        signature = hmac.new(self.sandbox.credentials.gateway_key.encode(), text, hashlib.sha256).hexdigest()
        return {"X-Gateway-Timestamp": timestamp, "X-Gateway-Nonce": nonce, "X-Gateway-Signature": signature}


class Reports(StandIn):
    """POST /_sim/reports: what is reported from now on."""

    def post(self) -> None:
        body = self.json_object() or {}
        channel, statuses = body.get("channel"), body.get("statuses")
        if channel not in ARRIVED:
            return self.refuse(422, "unknown_channel", "channel 应为 sms 或 voice")
        wanted = [ARRIVED[channel]] if statuses is None else statuses
        if not isinstance(wanted, list) or not all(isinstance(word, str) for word in wanted):
            return self.refuse(422, "invalid_statuses", "statuses 应为文字的列表")
        script = Script(
            tuple(wanted), float(body.get("delay_s", 0.5)), int(body.get("repeat", 1)),
            body.get("early") is True, body.get("forged") is True,
        )  # fmt: skip
        reporter = self.sandbox.reporter
        assert reporter is not None
        reporter.scripts[channel, str(body.get("to", ""))] = script
        return self.send({"ok": True})


routes = [(r"/_sim/reports", Reports)]
