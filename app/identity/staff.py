"""Staff accounts: one role at one agency; passwords by argon2id; five wrong tries lock the account for ten minutes."""

import asyncio
import os
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any
from weakref import WeakValueDictionary

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from app.identity import tokens
from app.identity.errors import StaffLoginRefused, TokenInvalid
from app.identity.model import StaffSession
from app.kernel.clock import real_now, shanghai_day, utc_now
from app.kernel.crypto import KeyRing
from app.kernel.errors import RateLimited, Unauthorized
from app.kernel.ids import new_id
from app.storage.mongo import Database

MAX_FAILURES = 5
LOCKED_FOR = timedelta(minutes=10)


def hash_password(password: str) -> str:
    """Return an argon2id hash with OWASP's minimum cost (19 MiB, 2 passes). About 30 ms of CPU: call it in a thread."""
    kdf = Argon2id(salt=os.urandom(16), length=32, iterations=2, lanes=1, memory_cost=19 * 1024)
    return kdf.derive_phc_encoded(password.encode())


def verify_password(password: str, hashed: str) -> bool:
    """Return whether a password fits a hash. As dear as hashing."""
    try:
        Argon2id.verify_phc_encoded(password.encode(), hashed)
    except InvalidKey:
        return False
    return True


_NOBODY = hash_password("nobody")  # so that an unknown account takes as long as a wrong password


class StaffAccounts:
    def __init__(self, database: Database, keys: KeyRing) -> None:
        self._staff = database["staff"]
        self._sessions = database["staff_sessions"]
        self._keys = keys
        # Tries at one account are judged one after the other: of many at once only five are looked at (per process).
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def login(self, account: str, password: str) -> tuple[str, int, StaffSession]:
        """Return a token, its seconds, and who signed in.

        Raises:
            StaffLoginRefused: unknown account or wrong password, not told apart.
            RateLimited: locked after too many wrong tries.
        """
        turn = self._turns.setdefault(account, asyncio.Lock())
        async with turn:
            document = await self._judge(account, password)
        now = real_now()
        session_id = new_id("stf")
        await self._sessions.insert_one({"_id": session_id, "account": account, "expires_at": now + tokens.STAFF_FOR})
        token = tokens.sign_token(
            self._keys, audience="staff", subject=account, now=now, lifetime=tokens.STAFF_FOR, sid=session_id
        )
        return token, int(tokens.STAFF_FOR.total_seconds()), _session(document)

    async def _judge(self, account: str, password: str) -> dict[str, Any]:
        now = utc_now()
        document = await self._staff.find_one({"_id": account, "disabled": {"$ne": True}})
        if document and document.get("locked_until") and document["locked_until"] > now:
            wait = int((document["locked_until"] - now).total_seconds()) + 1
            raise RateLimited("密码错误次数太多，账号已暂时锁定，请稍后再试。", retry_after_s=wait)
        right = await asyncio.to_thread(verify_password, password, document["password_hash"] if document else _NOBODY)
        if not document or not right:
            if document:
                await self._count_failure(account)
            raise StaffLoginRefused("账号或密码不对。", en="Wrong account or password.")
        await self._staff.update_one({"_id": account}, {"$set": {"failures": 0, "last_login_at": now}})
        return document

    async def authenticate(self, token: str) -> StaffSession:
        """Return the staff member of a token; session, role and agency are read afresh, so a change works at once."""
        if not token:
            raise Unauthorized("请先登录。", en="Sign in first.")
        claims = tokens.read_token(self._keys, token, audience="staff")
        session = await self._sessions.find_one({"_id": claims.get("sid"), "account": claims["sub"]})
        document = session and await self._staff.find_one({"_id": claims["sub"], "disabled": {"$ne": True}})
        if not document:
            raise TokenInvalid("登录已结束，请重新登录。", en="The session has ended.")
        return _session(document)

    async def logout(self, token: str) -> None:
        """End the session of a token; one that is no session ends nothing."""
        try:
            claims = tokens.read_token(self._keys, token, audience="staff")
        except Unauthorized:
            return
        await self._sessions.delete_one({"_id": claims.get("sid")})

    async def is_of_agency(self, account: str, agency_id: str) -> bool:
        """Say whether an account works at an agency."""
        query = {"_id": account, "agency_id": agency_id, "disabled": {"$ne": True}}
        return await self._staff.find_one(query, {"_id": 1}) is not None

    async def colleagues(self, agency_id: str) -> list[dict[str, str]]:
        """Return up to 200 people of an agency by account: {account, name, role}. Disabled accounts are left out."""
        query = {"agency_id": agency_id, "disabled": {"$ne": True}}
        found = await self._staff.find(query, {"name": 1, "role": 1}).sort("_id", 1).limit(200).to_list()
        return [{"account": row["_id"], "name": row["name"], "role": row["role"]} for row in found]

    async def set_absence(self, account: str, cover: str, from_on: date, until_on: date) -> None:
        """Let a colleague act on the cases of somebody who is away, on Shanghai days from first to last; it replaces what was said before.

        The two writes are not one: a process that dies between them leaves nobody as cover, and saying it again mends that.
        """
        await self.end_absence(account)
        row = {"account": account, "from": from_on.isoformat(), "until": until_on.isoformat()}
        await self._staff.update_one({"_id": cover}, {"$push": {"covers": row}})

    async def end_absence(self, account: str) -> None:
        """Take back what was said of somebody's leave. Harmless when repeated."""
        await self._staff.update_many({"covers.account": account}, {"$pull": {"covers": {"account": account}}})

    async def absences(self, agency_id: str) -> list[dict[str, str]]:
        """Return the leaves of an agency that are not over: account, cover, from, until (Shanghai days)."""
        today = shanghai_day(utc_now()).isoformat()
        found = await self._staff.find({"agency_id": agency_id, "covers.until": {"$gte": today}}, {"covers": 1}).to_list()
        return [{**row, "cover": document["_id"]} for document in found for row in document["covers"] if row["until"] >= today]

    async def role_of(self, account: str) -> str:
        """Return the role of an account, "" when there is none or it is disabled."""
        found = await self._staff.find_one({"_id": account, "disabled": {"$ne": True}}, {"role": 1})
        return str(found["role"]) if found else ""

    async def person(self, account: str) -> StaffSession | None:
        """Return who an account is, for commands on the server; None when there is none or it is disabled."""
        document = await self._staff.find_one({"_id": account, "disabled": {"$ne": True}})
        return _session(document) if document else None

    async def add(self, account: str, name: str, role: str, agency_id: str, password: str) -> bool:
        """Add an account; False when it exists already."""
        hashed = await asyncio.to_thread(hash_password, password)
        row = {"_id": account, "name": name, "role": role, "agency_id": agency_id, "password_hash": hashed}
        try:
            await self._staff.insert_one(row)
        except DuplicateKeyError:
            return False
        return True

    async def set_password(self, account: str, password: str) -> bool:
        """Set a new password and end the account's sessions; False when there is no such account."""
        hashed = await asyncio.to_thread(hash_password, password)
        change = {"$set": {"password_hash": hashed, "failures": 0}, "$unset": {"locked_until": ""}}
        found = await self._staff.update_one({"_id": account}, change)
        await self._sessions.delete_many({"account": account})
        return found.matched_count == 1

    async def disable(self, account: str) -> bool:
        """Let nobody sign in with an account any more and end its sessions; False when there is no such account."""
        found = await self._staff.update_one({"_id": account}, {"$set": {"disabled": True}})
        await self._sessions.delete_many({"account": account})
        return found.matched_count == 1

    async def ensure_demo_accounts(self, agencies: Iterable[Any], password: str) -> None:
        """Make `clerk.<agency>` and `head.<agency>` for every agency, all with one password. For dev and test only."""
        wanted = [
            (f"{role}.{agency['id']}", f"{agency['short_name']}{title}", role, agency["id"])
            for agency in agencies
            for role, title in (("clerk", "经办员"), ("head", "负责人"))
        ]
        known = await self._staff.find_one({"_id": wanted[0][0]})
        count = await self._staff.count_documents({"demo": True})
        if known and count == len(wanted) and await asyncio.to_thread(verify_password, password, known["password_hash"]):
            return
        hashed = await asyncio.to_thread(hash_password, password)
        changes = [
            UpdateOne(
                {"_id": account},
                {
                    "$set": {"name": name, "role": role, "agency_id": agency_id, "password_hash": hashed, "demo": True},
                    "$unset": {"locked_until": ""},
                },
                upsert=True,
            )
            for account, name, role, agency_id in wanted
        ]
        await self._staff.bulk_write(changes, ordered=False)

    async def _count_failure(self, account: str) -> None:
        document = await self._staff.find_one_and_update(
            {"_id": account}, {"$inc": {"failures": 1}}, return_document=True
        )
        if document and document["failures"] >= MAX_FAILURES:
            await self._staff.update_one(
                {"_id": account}, {"$set": {"failures": 0, "locked_until": utc_now() + LOCKED_FOR}}
            )


def _session(document: dict[str, Any]) -> StaffSession:
    today = shanghai_day(utc_now()).isoformat()
    covers = {row["account"] for row in document.get("covers", ()) if row["from"] <= today <= row["until"]}
    return StaffSession(document["_id"], document["name"], document["role"], document["agency_id"], frozenset(covers))
