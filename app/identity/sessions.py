"""Sessions: begun by signing in, kept by rotating refresh tokens, ended by their owner or by a stolen token that shows up."""

import hashlib
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache, TTLCache

from app.identity import errors, store, tokens
from app.identity.model import Resident, ResidentSession
from app.kernel.clock import real_now
from app.kernel.crypto import KeyRing
from app.kernel.errors import Unauthorized
from app.kernel.ids import new_id
from app.storage.mongo import Database

# How long a verified token's session is trusted without asking MongoDB again: a session ended in another process lives on for
# at most this long in this one.
SESSION_TRUST_S = 3


@dataclass(frozen=True)
class Login:
    """A fresh session. `expires_in` is in seconds."""

    resident: Resident
    session_id: str
    access_token: str
    refresh_token: str
    expires_in: int
    is_new: bool
    channel: str


class Sessions:
    """One per process."""

    def __init__(self, database: Database, keys: KeyRing) -> None:
        self._database = database
        self._keys = keys
        # By the token's hash: session, and the second in which the token runs out.
        self._trusted: TTLCache[bytes, tuple[ResidentSession, float]] = TTLCache(20_000, ttl=SESSION_TRUST_S)
        # Whose signature was found good stays good until it runs out; whether its session still lives is asked each time.
        self._verified: LRUCache[bytes, tuple[str | None, float]] = LRUCache(20_000)  # session id, and that second

    async def begin(self, document: dict[str, Any], channel: str, is_new: bool) -> Login:
        """Begin a session of a resident who has just signed in."""
        now = real_now()
        session_id = new_id("ses")
        refresh_token = tokens.make_refresh_token(session_id)
        await self._database["sessions"].insert_one(
            {
                "_id": session_id,
                "resident_id": document["_id"],
                "channel": channel,
                "refresh_hash": tokens.refresh_hash(refresh_token),
                "created_at": now,
                "last_seen_at": now,
                "expires_at": now + tokens.REFRESH_FOR,
            }
        )
        return self._login_of(document, session_id, channel, refresh_token, is_new)

    def _login_of(
        self, document: dict[str, Any], session_id: str, channel: str, refresh_token: str, is_new: bool
    ) -> Login:
        access_token = tokens.sign_token(
            self._keys, audience="api", subject=document["_id"], now=real_now(), lifetime=tokens.ACCESS_FOR, sid=session_id
        )
        return Login(
            store.opened(self._keys, document),
            session_id,
            access_token,
            refresh_token,
            int(tokens.ACCESS_FOR.total_seconds()),
            is_new,
            channel,
        )

    async def refresh(self, refresh_token: str) -> Login:
        """Rotate a refresh token.

        Guarantee: a token works once. The compare-and-set on its hash lets one of two callers through; the other one, and
        whoever comes later with an old token, ends the whole session.

        Raises:
            errors.TokenInvalid, errors.RefreshReused.
        """
        session_id = refresh_token.partition(".")[0]
        renewed = tokens.make_refresh_token(session_id)
        now = real_now()
        sessions = self._database["sessions"]
        session = await sessions.find_one_and_update(
            {"_id": session_id, "refresh_hash": tokens.refresh_hash(refresh_token), "expires_at": {"$gt": now}},
            {
                "$set": {
                    "refresh_hash": tokens.refresh_hash(renewed),
                    "last_seen_at": now,
                    "expires_at": now + tokens.REFRESH_FOR,
                },
                "$push": {"used_hashes": {"$each": [tokens.refresh_hash(refresh_token)], "$slice": -50}},
            },
        )
        if session is None:
            stolen = await sessions.find_one_and_delete(
                {"_id": session_id, "used_hashes": tokens.refresh_hash(refresh_token)}
            )
            self._trusted.clear()
            if stolen is not None:
                raise errors.RefreshReused(stolen["resident_id"], session_id)
            raise errors.TokenInvalid("登录已过期，请重新登录。", en="Invalid refresh token.")
        document = await store.load_resident(self._database["residents"], session["resident_id"])
        return self._login_of(document, session_id, session["channel"], renewed, False)

    def page_token(self, login: Login) -> str:
        """Return the token of the H5 pages' cookie: good for 12 hours and for pages only, and ends with its session."""
        return tokens.sign_token(
            self._keys,
            audience="page",
            subject=login.resident.id,
            now=real_now(),
            lifetime=tokens.PAGE_FOR,
            sid=login.session_id,
        )

    async def authenticate(self, token: str, *, page: bool = False) -> ResidentSession:
        """Return the session of a token. Raises Unauthorized, errors.TokenExpired, errors.TokenInvalid."""
        if not token:
            raise Unauthorized("请先登录。", en="Sign in first.")
        audience, now = "page" if page else "api", real_now()
        # A token is half a kilobyte, and a stream keeps its session known as long as it is open.
        key = hashlib.sha256(f"{audience}.{token}".encode()).digest()
        known = self._trusted.get(key)
        if known is not None and known[1] > now.timestamp():
            return known[0]
        verified = self._verified.get(key)
        if verified is None or verified[1] <= now.timestamp():
            claims = tokens.read_token(self._keys, token, audience=audience)
            verified = self._verified[key] = (claims.get("sid"), claims["exp"])
        session_id, expires_at = verified
        session = await self._database.document("sessions", session_id)
        if session is None or session["expires_at"] <= now:
            raise errors.TokenInvalid("登录已结束，请重新登录。", en="The session has ended.")
        # The session names the resident, not the token: after a join it is the one that stays.
        document = await store.resident_of(self._database, session["resident_id"])
        found = ResidentSession(document["_id"], session["_id"], document["level"], session["channel"])
        self._trusted[key] = (found, expires_at)
        return found

    async def living(self, resident_id: str) -> list[dict[str, Any]]:
        """Return the living sessions of a resident, newest first."""
        return await self._database["sessions"].find({"resident_id": resident_id}).sort("_id", -1).limit(100).to_list()

    async def end(self, resident_id: str, session_id: str) -> bool:
        """End one session of this resident; return whether it was there. Its tokens stop at once here and within SESSION_TRUST_S elsewhere."""
        ended = await self._database["sessions"].delete_one({"_id": session_id, "resident_id": resident_id})
        self._trusted.clear()
        return ended.deleted_count == 1

    def distrust(self) -> None:
        """Ask MongoDB again about every session: what one is allowed has changed."""
        self._trusted.clear()
