"""Asynchronous notifications: delivered at least once, on each provider's ladder, from the store.

A notice stays due in the store until its delivery is noted there, so a stand-in that is killed between sending and
noting sends it again, as the real ones do now and then.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import aiohttp

from sandbox import alipay_trade, wechatpay_notice
from sandbox.base import Sandbox, log
from sandbox.store import Notice

# WeChat Pay gives the merchant 5 s. Alipay publishes no figure; 10 s is the assumption here.
_ANSWER_WITHIN_S = {"wechatpay": 5.0, "alipay": 10.0}


class Courier:
    """Sends what is due, sleeps until the next one, and can be woken when something new was written."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._woken = asyncio.Event()
        self._under_way: dict[int, asyncio.Task[None]] = {}

    def wake(self) -> None:
        self._woken.set()

    async def settle(self) -> None:
        """Wait until nothing that is due is left: for tests that hold the clock and let it go on in steps."""
        while self._under_way or self._sandbox.store.due_notices(self._sandbox.clock()):
            self.wake()
            await asyncio.sleep(0.01)

    async def run(self) -> None:
        """Deliver until cancelled."""
        # One connection per notice and no cookies: what a merchant's firewall sees from the real ones.
        connector = aiohttp.TCPConnector(force_close=True, limit=50)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
            try:
                while True:
                    self._woken.clear()
                    now = self._sandbox.clock()
                    for notice in self._sandbox.store.due_notices(now):
                        if notice.id not in self._under_way:
                            self._under_way[notice.id] = asyncio.create_task(self._deliver(http, notice))
                    await self._pause()
            finally:
                tasks = list(self._under_way.values())
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _pause(self) -> None:
        next_at = self._sandbox.store.next_notice_at()
        # Notices under way are still due in the store; their own end wakes the loop, so never spin on them.
        seconds = 30.0 if next_at is None else min(30.0, max(0.0, next_at - self._sandbox.clock()))
        if seconds == 0.0 and self._under_way:
            seconds = 0.5
        try:
            # Not wait_for: on Python 3.11 it loses a cancellation that comes in the very moment in which it is woken, and whoever
            # stops the courier would wait for ever.
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _deliver(self, http: aiohttp.ClientSession, notice: Notice) -> None:
        try:
            accepted, result = await self._post(http, notice)
            now = self._sandbox.clock()
            next_at = None if accepted else self._next_try_at(notice, now)
            self._sandbox.store.note_delivery(
                notice, result, next_at=next_at, delivered_at=now if accepted else None
            )
            log.info("notice %s of %s: %s", notice.attempts + 1, notice.out_trade_no, result)
        finally:
            self._under_way.pop(notice.id, None)
            self._woken.set()

    def _next_try_at(self, notice: Notice, now: float) -> float | None:
        pace = self._sandbox.pace
        ladder = pace.wechatpay_retries_s if notice.provider == "wechatpay" else pace.alipay_retries_s
        return now + ladder[notice.attempts] if notice.attempts < len(ladder) else None

    async def _post(self, http: aiohttp.ClientSession, notice: Notice) -> tuple[bool, str]:
        fault = self._sandbox.faults.take(f"{notice.provider}_notice")
        if fault == "down":
            return False, "lost on the way (fault)"
        if self._sandbox.storm.loses():
            return False, "lost on the way (storm)"
        build = wechatpay_notice.build if notice.provider == "wechatpay" else alipay_trade.build_notice
        headers, body = build(self._sandbox, notice, forged=fault == "bad_signature", unsigned=fault == "unsigned")
        if fault == "slow":
            await asyncio.sleep(self._sandbox.pace.slow_s)
        elif fault == "garbage":
            body = b"\x00\xffnot a notice"
        timeout = aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S[notice.provider])
        try:
            # No redirects: both providers count 3xx as a failure.
            async with http.post(
                notice.url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                text = await answer.content.read(1024)
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return False, f"no answer from {urlsplit(notice.url).netloc}: {type(error).__name__}"
        if fault == "lost":
            return False, f"{status}, but the answer was lost (fault)"
        # WeChat Pay looks at the status alone, Alipay at the seven letters alone.
        accepted = status in (200, 204) if notice.provider == "wechatpay" else status == 200 and text == b"success"
        return accepted, f"{status} {text[:80].decode(errors='replace')}".strip()
