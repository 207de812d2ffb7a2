"""对接推送: the web hook of an agency's own system, for its head: address, secret (shown once), pause, test, what went out."""

import re
from typing import Any

from app.exchange.signing import ALGORITHMS
from app.kernel.errors import HallError, NotFound
from handlers.hooks import HookRequest
from handlers.pages_base import errors_by_field
from handlers.pages_staff import StaffPage
from handlers.problems import judged

PAGE = 20
EXAMPLE = "https://system.example.gov.cn/hall-events"
STATES = {"waiting": "还在发", "delivered": "已送达", "failed": "没送到", "dropped": "已取消"}
NAMES = {"hmac-sm3": "国密 SM3（HMAC-SM3）", "hmac-sha256": "SHA-256（HMAC-SHA256）"}
PAUSED = {"by_head": "已由负责人暂停", "gone": "对方回答“已停用”（410），已自动暂停"}


class Hook(StaffPage):
    async def get(self) -> None:
        await self.show_hook()

    async def post(self) -> None:
        """`do` says which of the buttons it was."""
        hooks, secret, ping = self.hall.hooks, "", None
        try:
            match self.text("do", limit=10):
                case "secret":
                    secret = await hooks.rotate(self.staff)
                case "pause":
                    await hooks.pause(self.staff)
                case "resume":
                    await hooks.resume(self.staff)
                case "remove":
                    await hooks.remove(self.staff)
                case "ping":
                    await self.hall.hook_pings.require(self.staff.agency_id, "测试太频繁，请一分钟后再试。")
                    await self.hall.hook_pings.count(self.staff.agency_id)
                    ping = await self.hall.hook_deliveries.ping(self.staff)
                case "repeat":
                    await self.hall.hook_deliveries.repeat(self.staff, self.text("delivery", limit=64))
                case _:
                    typed = {"url": self.text("url", limit=600).strip(), "algorithm": self.text("algorithm", limit=20)}
                    _hook, secret = await hooks.put(self.staff, **judged(HookRequest, typed, ""))
        except HallError as error:
            if error.status not in (404, 409, 422, 429):
                raise
            return await self.show_hook(error=error)
        if secret or ping is not None:  # shown once, so there is no page to come back to
            return await self.show_hook(secret=secret, ping=ping)
        self.redirect("/staff/hook", status=303)

    async def show_hook(self, *, secret: str = "", ping: dict[str, Any] | None = None, error: HallError | None = None) -> None:
        try:
            hook = await self.hall.hooks.view(self.staff)
        except NotFound:
            hook = None
        state, cursor = self.text("state", limit=10), self.text("cursor", limit=40)
        rows, following = await self.hall.hook_deliveries.page(
            self.staff,
            state=state if state in STATES else "",
            limit=PAGE,
            cursor=cursor if re.fullmatch(r"hkd_[0-9A-Z]{26}", cursor) else None,
        )
        await self.show(
            "staff_hook.html",
            error.status if error else 200,
            hook=hook,
            secret=secret,
            ping=ping,
            rows=rows,
            next_cursor=following,
            state=state if state in STATES else "",
            states=STATES,
            example=EXAMPLE,
            algorithms={name: NAMES[name] for name in ALGORITHMS},
            paused=PAUSED,
            typed=self.text("url", limit=600) if error else "",
            error=error,
            errors=errors_by_field(error) if error else {},
        )


routes = [(r"/staff/hook", Hook)]
