"""One-time sign-in codes by SMS: limited per phone and address, kept as a keyed hash, used once.

Guarantee: a code signs in at most once (it is deleted in the same atomic step that accepts it), and five wrong tries end it.
"""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.identity.errors import SmsCodeWrong
from app.kernel.crypto import KeyRing
from app.kernel.errors import RateLimited
from app.kernel.ids import random_digits
from app.storage.limits import noted_within, take_turn
from app.storage.mongo import Database

VALID_FOR = timedelta(minutes=5)
MAX_TRIES = 5
_PER_DAY = 10


@dataclass(frozen=True)
class SmsLimits:
    """Stricter than the gateways' own limits, so that the resident reads our words, not theirs."""

    interval_s: int
    per_hour: int
    per_hour_per_address: int


class SmsCodes:
    def __init__(
        self, database: Database, keys: KeyRing, limits: SmsLimits, send: Callable[[str, str, str], Awaitable[None]]
    ) -> None:
        self._codes = database["sms_codes"]
        self._sends = database["sms_sends"]
        self._keys = keys
        self._limits = limits
        self._send = send

    async def send(self, phone: str, address: str, *, purpose: str, now: datetime) -> None:
        """Send a code to a checked mobile number; the same for known and unknown numbers.

        Raises:
            RateLimited: with the seconds to wait.
            ProviderUnavailable: the gateway does not answer.
        """
        index = self._keys.blind_index(phone, purpose="phone")
        await self._check_limits(index, address, now)
        await take_turn(self._sends, index, self._limits.interval_s, now)
        row = {"phone_index": index, "address": address, "at": now}
        if not await noted_within(self._sends, row, {"address": address}, now - timedelta(hours=1), self._limits.per_hour_per_address):
            raise _too_often("当前网络")
        code = random_digits(6)
        await self._codes.replace_one(
            {"_id": f"{purpose}:{index}"},
            {"code_hash": self._hash(phone, purpose, code), "tries": 0, "expires_at": now + VALID_FOR},
            upsert=True,
        )
        await self._send(phone, code, purpose)

    async def use(self, phone: str, code: str, *, purpose: str, now: datetime) -> None:
        """Accept a code and end it. Raises SmsCodeWrong."""
        record_id = f"{purpose}:{self._keys.blind_index(phone, purpose='phone')}"
        # The try is counted before it is judged: of many at once only five are looked at.
        tried = await self._codes.find_one_and_update(
            {"_id": record_id, "tries": {"$lt": MAX_TRIES}, "expires_at": {"$gt": now}}, {"$inc": {"tries": 1}}
        )
        right = tried is not None and hmac.compare_digest(tried["code_hash"], self._hash(phone, purpose, code))
        # Of two who bring the right code at once the delete lets one through.
        if not right or (await self._codes.delete_one({"_id": record_id, "code_hash": tried["code_hash"]})).deleted_count == 0:
            raise SmsCodeWrong("验证码不对或已过期，请核对短信，或重新获取。", en="Wrong or expired code.")

    def _hash(self, phone: str, purpose: str, code: str) -> str:
        return self._keys.code_hash(f"{phone}:{code}", purpose=f"sms.{purpose}")

    async def _check_limits(self, index: str, address: str, now: datetime) -> None:
        hour_ago = now - timedelta(hours=1)
        last = await self._sends.find_one({"phone_index": index}, sort=[("at", -1)])
        if last is not None:
            wait = self._limits.interval_s - (now - last["at"]).total_seconds()
            if wait > 0:
                raise RateLimited(f"验证码刚刚发过，请 {int(wait) + 1} 秒后再试。", retry_after_s=int(wait) + 1)
        for query, since, most, what in (
            ({"phone_index": index}, hour_ago, self._limits.per_hour, "这个手机号"),
            ({"phone_index": index}, now - timedelta(days=1), max(_PER_DAY, self._limits.per_hour), "这个手机号"),
            ({"address": address}, hour_ago, self._limits.per_hour_per_address, "当前网络"),
        ):
            if await self._sends.count_documents({**query, "at": {"$gt": since}}, limit=most) >= most:
                raise _too_often(what)


def _too_often(what: str) -> RateLimited:
    return RateLimited(f"{what}获取验证码次数太多，请过一小时再试，或用微信、支付宝登录。", retry_after_s=3600)
