"""Web hooks: the address of an agency's own system to which the hall tells what happens to its cases (app/exchange/hook_deliveries.py).

One per agency, set by its head. The secret is made here, shown once and kept sealed; after a change the one before is good for a day more, so that
the other side can take the new one into use. An address must lead outside: see app/platforms/addresses.py.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from pymongo import ReturnDocument

from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import format_utc
from app.kernel.crypto import KeyRing
from app.kernel.errors import ErrorRow, Forbidden, NotFound, ValidationFailed, error_row
from app.kernel.ids import new_id
from app.platforms import addresses
from app.storage.mongo import Database

PREVIOUS_FOR = timedelta(hours=24)
MAX_URL = 500

INDEXES: Mapping[str, Sequence[Any]] = {"hooks": []}  # found by _id, the agency

Document = dict[str, Any]


class HookNotFound(NotFound):
    code = "hook.not_found"


class HeadNeeded(Forbidden):
    code = "hook.head_needed"


class Hooks:
    """Args: `is_production` demands https and an address that is public or in `opened`; elsewhere the stand-in of a department may be called."""

    def __init__(self, database: Database, keys: KeyRing, clock: Callable[[], datetime], *, is_production: bool, events: Sequence[str], opened: Sequence[addresses.Network] = ()) -> None:
        self._database = database
        self._hooks = database["hooks"]
        self._keys = keys
        self._clock = clock
        self._is_production = is_production
        self._networks = opened
        self.events = tuple(events)

    async def view(self, staff: StaffSession) -> Document:
        """Return the hook of a head's agency. Raises HeadNeeded, HookNotFound."""
        return _view(await self._of(staff))

    async def put(self, staff: StaffSession, *, url: str, algorithm: str, events: Sequence[str]) -> tuple[Document, str]:
        """Set the address; return the hook, and its secret when it is new (empty text otherwise).

        Args:
            events: names of events that are wanted; empty: every one.

        Raises:
            HeadNeeded, ValidationFailed.
        """
        _require_head(staff)
        rows = await self._mistakes(url)
        rows += [error_row(f"/events/{index}", "unknown", f"没有这个事件：{name}") for index, name in enumerate(events) if name not in self.events]
        if rows:
            raise ValidationFailed(rows)
        now, secret = self._clock(), secrets.token_urlsafe(32)
        fields = {"url": url, "algorithm": algorithm, "events": list(events), "changed_at": now, "changed_by": staff.account}
        first = {
            "app": new_id("app"), "secret": self._sealed(staff.agency_id, secret), "secret_at": now, "previous": None, "previous_until": None,
            "paused_at": None, "paused_why": "", "created_at": now, "leased_until": now,
        }  # fmt: skip

        async def work(session: Any) -> Document:
            before = await self._hooks.find_one_and_update(
                {"_id": staff.agency_id}, {"$set": fields, "$setOnInsert": first}, upsert=True, session=session
            )
            await self._audit(staff, "hook.set", session)
            return before or {}

        is_new = not await self._database.transaction(work)
        return _view(await self._of(staff)), secret if is_new else ""

    async def rotate(self, staff: StaffSession) -> str:
        """Make a new secret and return it, this once. The one before signs along for PREVIOUS_FOR. Raises HeadNeeded, HookNotFound."""
        hook, now, secret = await self._of(staff), self._clock(), secrets.token_urlsafe(32)
        changes = {
            "secret": self._sealed(staff.agency_id, secret), "secret_at": now,
            "previous": hook["secret"], "previous_until": now + PREVIOUS_FOR,
        }  # fmt: skip
        # Of two at once the second would lose the secret that the first has shown: it is told to look again.
        await self._change(staff, "hook.secret_rotated", changes, {"secret": hook["secret"]})
        return secret

    async def pause(self, staff: StaffSession) -> Document:
        """Send nothing until `resume`; what happens meanwhile waits."""
        return await self._change(staff, "hook.paused", {"paused_at": self._clock(), "paused_why": "by_head"})

    async def resume(self, staff: StaffSession) -> Document:
        """Send again, at once and with 72 hours of trying anew: waiting in a pause is no trying."""

        async def begin_anew(session: Any) -> None:
            if await self._hooks.find_one({"_id": staff.agency_id, "paused_at": {"$ne": None}}, {"_id": 1}, session=session):
                await self._database["hook_deliveries"].update_many(
                    {"agency_id": staff.agency_id, "is_open": True},
                    {"$set": {"first_tried_at": None, "tries": 0, "next_at": self._clock()}},
                    session=session,
                )

        return await self._change(staff, "hook.resumed", {"paused_at": None, "paused_why": ""}, first=begin_anew)

    async def remove(self, staff: StaffSession) -> None:
        """Forget the hook and what waited for it. Raises HeadNeeded, HookNotFound."""
        await self._of(staff)

        async def work(session: Any) -> None:
            await self._hooks.delete_one({"_id": staff.agency_id}, session=session)
            await self._database["hook_deliveries"].update_many(
                {"agency_id": staff.agency_id, "is_open": True}, {"$set": {"state": "dropped", "is_open": False}}, session=session
            )
            await self._audit(staff, "hook.removed", session)

        await self._database.transaction(work)

    # --- for those who send ---

    def secrets_of(self, hook: Mapping[str, Any], now: datetime) -> tuple[str, str]:
        """Return the secret of a hook, and the one before it while that is good (else empty text)."""
        previous = hook["previous"] if hook["previous"] and hook["previous_until"] > now else ""
        return self._opened(hook["_id"], hook["secret"]), self._opened(hook["_id"], previous) if previous else ""

    # --- within ---

    async def _of(self, staff: StaffSession) -> Document:
        _require_head(staff)
        hook = await self._hooks.find_one({"_id": staff.agency_id})
        if hook is None:
            raise _not_found()
        return hook

    async def _change(
        self,
        staff: StaffSession,
        action: str,
        changes: Mapping[str, Any],
        still: Mapping[str, Any] | None = None,
        *,
        first: Callable[[Any], Awaitable[None]] | None = None,
    ) -> Document:
        await self._of(staff)

        async def work(session: Any) -> Document | None:
            if first is not None:
                await first(session)
            changed = await self._hooks.find_one_and_update(
                {"_id": staff.agency_id, **(still or {})}, {"$set": dict(changes)}, return_document=ReturnDocument.AFTER, session=session
            )
            if changed is not None:
                await self._audit(staff, action, session)
            return changed

        changed = await self._database.transaction(work)
        if changed is None:
            raise _not_found()
        return _view(changed)

    async def _audit(self, staff: StaffSession, action: str, session: Any) -> None:
        await record(self._database["audit"], actor=staff.account, action=action, subject=staff.agency_id, owner_id="", session=session)

    def _sealed(self, agency_id: str, secret: str) -> str:
        return self._keys.seal(secret, context=f"hook.{agency_id}.secret")

    def _opened(self, agency_id: str, sealed: str) -> str:
        return self._keys.open_sealed(sealed, context=f"hook.{agency_id}.secret")

    async def _mistakes(self, url: str) -> list[ErrorRow]:
        """Return what is wrong with an address, as rows for the person."""
        problem = shape_problem(url, is_production=self._is_production)
        if problem is None and self._is_production:
            host = urlsplit(url).hostname or ""
            found = [host] if addresses.is_literal(host) else await addresses.resolved(host)
            if not found:
                problem = "这个地址的域名现在解析不到，请核对"
            elif not all(addresses.is_allowed(one, self._networks) for one in found):
                problem = "这个地址指向内部网络，不能使用；请填写互联网上能访问的地址"
        return [error_row("/url", "invalid", problem)] if problem else []


def shape_problem(url: str, *, is_production: bool) -> str | None:
    """Return what is wrong with the form of an address, or None. Pure."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "地址的格式不对，例如 https://system.example.gov.cn/hall-events"
    if len(url) > MAX_URL or not url.isascii() or any(character <= " " for character in url) or "\\" in url:
        return f"地址只能是不含空格的英文字符，最长{MAX_URL}个"
    if parts.scheme not in (("https",) if is_production else ("https", "http")) or not host:
        return "地址必须以 https:// 开头，例如 https://system.example.gov.cn/hall-events"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "地址里不要有用户名、密码和 # 号"
    if is_production and (port not in (None, 443, 8443) or "." not in host.strip(".") and ":" not in host):
        return "地址应为完整域名，端口只能是 443 或 8443"
    return None


def _require_head(staff: StaffSession) -> None:
    if staff.role != "head":
        raise HeadNeeded("对接地址要由单位负责人设置。", en="The head of the agency sets the web hook.")


def _not_found() -> HookNotFound:
    return HookNotFound("本单位还没有设置对接地址，或刚刚有人改过，请刷新后再试。", en="There is no web hook, or it was changed just now.")


def _view(hook: Mapping[str, Any]) -> Document:
    return {
        "app": hook["app"],
        "url": hook["url"],
        "algorithm": hook["algorithm"],
        "events": hook["events"],
        "created_at": format_utc(hook["created_at"]),
        "changed_at": format_utc(hook["changed_at"]),
        "secret_at": format_utc(hook["secret_at"]),
        "paused_at": format_utc(hook["paused_at"]),
        "paused_why": hook["paused_why"],
    }
