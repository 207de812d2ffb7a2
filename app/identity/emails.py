"""A person's e-mail address: given by the person, verified by a code sent to it, sealed at rest, shown masked.

It proves nothing about who somebody is: it is where notices go, so two people (a parent and a child) may have the same one.

Guarantee: an address is used only after a code sent to it has come back, entered by the person who is signed in; a code works once, five
wrong tries end it. An address that its mail server does not know is marked dead and is not written to again until it is verified anew.
"""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.clock import format_utc, utc_now
from app.kernel.crypto import KeyRing
from app.kernel.errors import Conflict, HallError, NotFound, RateLimited, ValidationFailed, error_row
from app.kernel.ids import random_digits
from app.kernel.numbers import check_email, mask_email
from app.storage.limits import noted_within, take_turn
from app.storage.mongo import Database

VALID_FOR = timedelta(minutes=10)  # mail can be slow
MAX_TRIES = 5

INDEXES = {
    "emails": [],  # found by _id, the resident
    "email_codes": [IndexModel([("expires_at", ASCENDING)], name="expires", expireAfterSeconds=0)],
    "email_sends": [
        IndexModel([("resident_id", ASCENDING), ("at", ASCENDING)], name="of_resident"),
        IndexModel([("email_index", ASCENDING), ("at", ASCENDING)], name="of_email"),
        IndexModel([("address", ASCENDING), ("at", ASCENDING)], name="of_address"),
        IndexModel([("at", ASCENDING)], name="kept_a_day", expireAfterSeconds=24 * 3600),
    ],
}


class EmailOff(Conflict):
    """This hall sends no mail (HALL_SMTP_URL is empty)."""

    code = "email.off"


class EmailCodeWrong(HallError):
    code = "email.code_wrong"
    status = 422
    title = "验证码不对"


class NoEmail(NotFound):
    code = "email.none"


class Emails:
    """`send_code(email, code)` sends at once and raises ProviderUnavailable; None: this hall sends no mail.

    Args:
        interval_s, per_hour: of one person and of one e-mail address; per_hour_per_address: of one network address.
    """

    def __init__(
        self,
        database: Database,
        keys: KeyRing,
        send_code: Callable[[str, str], Awaitable[None]] | None,
        *,
        interval_s: int,
        per_hour: int,
        per_hour_per_address: int,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._emails = database["emails"]
        self._codes = database["email_codes"]
        self._sends = database["email_sends"]
        self._keys = keys
        self._send_code = send_code
        self._interval_s = interval_s
        self._per_hour = per_hour
        self._per_hour_per_address = per_hour_per_address
        self._clock = clock

    @property
    def is_on(self) -> bool:
        return self._send_code is not None

    async def ask(self, resident_id: str, email: str, address: str) -> str:
        """Send a code to an address that a person says is theirs; return the address, masked. The one verified before stays until then.

        Raises:
            EmailOff, ValidationFailed, RateLimited, ProviderUnavailable.
        """
        if self._send_code is None:
            raise EmailOff("这里暂时不能用邮件收通知。", en="This hall does not send e-mail.")
        try:
            email = check_email(email)
        except ValueError as error:
            raise ValidationFailed([error_row("/email", "invalid", str(error))]) from error
        now = self._clock()
        index = self._index(email)
        await self._check_limits(resident_id, index, address, now)
        for who in (resident_id, index):
            await take_turn(self._sends, who, self._interval_s, now)
        row = {"resident_id": resident_id, "email_index": index, "address": address, "at": now}
        if not await noted_within(self._sends, row, {"address": address}, now - timedelta(hours=1), self._per_hour_per_address):
            raise _too_often()
        code = random_digits(6)
        await self._codes.replace_one(
            {"_id": resident_id},
            {
                "email": self._keys.seal(email, context=f"{resident_id}.email"),
                "code_hash": self._hash(resident_id, email, code),
                "tries": 0,
                "expires_at": now + VALID_FOR,
            },
            upsert=True,
        )
        await self._send_code(email, code)
        return mask_email(email)

    async def confirm(self, resident_id: str, code: str) -> dict[str, Any]:
        """Take the address as verified when the code is right; return it as `view` does. Raises EmailCodeWrong."""
        now = self._clock()
        # The try is counted before it is judged: of many at once only five are looked at.
        tried = await self._codes.find_one_and_update(
            {"_id": resident_id, "tries": {"$lt": MAX_TRIES}, "expires_at": {"$gt": now}}, {"$inc": {"tries": 1}}
        )
        email = self._keys.open_sealed(tried["email"], context=f"{resident_id}.email") if tried else ""
        right = tried is not None and hmac.compare_digest(tried["code_hash"], self._hash(resident_id, email, code))
        if not right:
            raise EmailCodeWrong("验证码不对或已过期，请核对邮件，或重新获取。", en="Wrong or expired code.")
        # Kept first, the code ended after it: who dies between the two can enter the same code again, with the same result.
        await self._emails.replace_one(
            {"_id": resident_id},
            {
                "email": self._keys.seal(email, context=f"{resident_id}.email"),
                "email_index": self._index(email),
                "verified_at": now,
                "dead_at": None,
            },
            upsert=True,
        )
        await self._codes.delete_one({"_id": resident_id, "code_hash": tried["code_hash"]})
        return await self.view(resident_id)

    async def view(self, resident_id: str) -> dict[str, Any]:
        """Return `{email_masked, verified_at, is_dead}` as the person sees it, None where there is no address."""
        kept = await self._emails.find_one({"_id": resident_id})
        if kept is None:
            return {"email_masked": None, "verified_at": None, "is_dead": False}
        masked = mask_email(self._keys.open_sealed(kept["email"], context=f"{resident_id}.email"))
        return {"email_masked": masked, "verified_at": format_utc(kept["verified_at"]), "is_dead": kept["dead_at"] is not None}

    async def forget(self, resident_id: str) -> None:
        """Take an address, and what is under way, out of use. Raises NoEmail."""
        under_way = await self._codes.delete_one({"_id": resident_id})
        if (await self._emails.delete_one({"_id": resident_id})).deleted_count + under_way.deleted_count == 0:
            raise NoEmail("没有绑定过邮箱。", en="There is no e-mail address.")

    # --- for push ---

    async def email_of(self, resident_id: str) -> str:
        """Return the verified address that is not known to be dead, or empty text. In clear: never log or store it."""
        kept = await self._emails.find_one({"_id": resident_id, "dead_at": None})
        return self._keys.open_sealed(kept["email"], context=f"{resident_id}.email") if kept else ""

    async def mark_dead(self, resident_id: str, email: str, session: AsyncClientSession) -> None:
        """Its server does not know this address. One that was verified meanwhile is another one and stays."""
        await self._emails.update_one(
            {"_id": resident_id, "email_index": {"$in": self._keys.blind_indexes(email, purpose="email")}, "dead_at": None},
            {"$set": {"dead_at": self._clock()}},
            session=session,
        )

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Two residents were joined: the one that stays keeps its address, or gets the other's. Idempotent."""
        left = await self._emails.find_one({"_id": from_id})
        if left is None:
            return
        email = self._keys.open_sealed(left["email"], context=f"{from_id}.email")
        moved = {**left, "_id": into_id, "email": self._keys.seal(email, context=f"{into_id}.email")}
        await self._emails.update_one({"_id": into_id}, {"$setOnInsert": _without_id(moved)}, upsert=True)
        await self._emails.delete_one({"_id": from_id})

    # --- stopping the mails without signing in ---

    def stop_path(self, resident_id: str) -> str:
        """Return the path that a mail carries; whoever has it may stop the mails of this person, and nothing else."""
        return f"/email/stop?{urlencode({'who': resident_id, 'mark': self._keys.blind_index(resident_id, purpose='email.stop')})}"

    def may_stop(self, resident_id: str, mark: str) -> bool:
        marks = self._keys.blind_indexes(resident_id, purpose="email.stop")
        return any(hmac.compare_digest(one.encode(), mark.encode()) for one in marks)

    # --- within ---

    def _index(self, email: str) -> str:
        return self._keys.blind_index(email, purpose="email")

    def _hash(self, resident_id: str, email: str, code: str) -> str:
        return self._keys.code_hash(f"{resident_id}:{email}:{code}", purpose="email.verify")

    async def _check_limits(self, resident_id: str, index: str, address: str, now: datetime) -> None:
        last = await self._sends.find_one({"$or": [{"resident_id": resident_id}, {"email_index": index}]}, sort=[("at", -1)])
        if last is not None and (wait := self._interval_s - (now - last["at"]).total_seconds()) > 0:
            raise RateLimited(f"验证码刚刚发过，请 {int(wait) + 1} 秒后再试。", retry_after_s=int(wait) + 1)
        hour_ago = now - timedelta(hours=1)
        for query, most in (
            ({"resident_id": resident_id}, self._per_hour),
            ({"email_index": index}, self._per_hour),
            ({"address": address}, self._per_hour_per_address),
        ):
            if await self._sends.count_documents({**query, "at": {"$gt": hour_ago}}, limit=most) >= most:
                raise _too_often()


def _too_often() -> RateLimited:
    return RateLimited("获取验证码次数太多，请过一小时再试。", retry_after_s=3600)


def _without_id(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "_id"}
