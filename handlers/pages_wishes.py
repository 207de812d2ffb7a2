"""怎么通知我: the page of the notification preferences, one form that needs no script; and the matters that are kept quiet."""

import re
from collections.abc import Mapping
from datetime import time
from typing import Any

from app.kernel.errors import HallError
from handlers.pages_base import PageHandler
from push.model import EVENTS, LANGUAGES, SWITCH_OF, Preferences, switches

KIND_NAMES = {
    "case": "办件进展", "order": "缴费和退款", "feedback": "评价和投诉", "notice": "部门的通知", "reminder": "到期和预约提醒",
    "news": "我订阅的消息",
}  # fmt: skip
SWITCH_NAMES = {
    "inbox": "接收这类消息", "wechat": "微信小程序", "official": "微信公众号", "alipay": "支付宝", "app": "手机应用", "email": "邮件",
    "sms": "短信", "voice": "打电话",
}  # fmt: skip
_CLOCK = re.compile(r"[0-2][0-9]:[0-5][0-9]")  # as a browser sends it
LANGUAGE_NAMES = {"zh": "中文", "en": "English"}
assert set(LANGUAGE_NAMES) == set(LANGUAGES)  # noqa: S101


class Wishes(PageHandler):
    """GET /me/notices; POST keeps the whole form. `?case=` offers to keep that case quiet."""

    needs = "resident"
    tab = "me"

    async def get(self) -> None:
        await self._show(await self.hall.push.preferences(self.resident.resident_id))

    async def post(self) -> None:
        owner, errors = self.resident.resident_id, {}
        wanted: dict[str, Any] = {"elder_mode": self.text("elder_mode") == "1"}
        if self.text("language") in LANGUAGES:
            wanted["language"] = self.text("language")
        wanted["kinds"] = {
            kind: {name: self.text(f"{kind}.{name}") == "1" for name in names} for kind, names in self._offered().items()
        }
        try:
            wanted["quiet_hours"] = _quiet_hours(self.text("quiet") == "1", self.text("from", limit=5), self.text("to", limit=5))
        except ValueError:
            errors["quiet"] = "请填写开始和结束的时间，例如 22:00 到 07:00"
        if errors:
            return await self._show(await self.hall.push.preferences(owner), 422, errors)
        await self.hall.push.set_preferences(owner, wanted)
        self.keep_elder(wanted["elder_mode"])
        self.tell_next("wishes")
        self.redirect("/me/notices", status=303)

    def _offered(self) -> dict[str, list[str]]:
        """Return per kind the switches that change anything: channels that carry one of its messages."""
        used: dict[str, set[str]] = {kind: {"inbox"} for kind in EVENTS}
        for spec in self.hall.push.templates.specs.values():
            used[spec.kind] |= {SWITCH_OF.get(channel, channel) for channel in spec.channels}
        found = {kind: [name for name in switches(kind) if name in used[kind]] for kind in EVENTS}
        return {kind: names for kind, names in found.items() if names}

    async def _show(self, wishes: Preferences, status: int = 200, errors: Mapping[str, str] | None = None) -> None:
        case_id = self.text("case", limit=64) if self.request.method == "GET" else ""
        await self.show(
            "wishes.html",
            status,
            wishes=wishes,
            kinds=[
                (kind, KIND_NAMES.get(kind, kind), [(name, SWITCH_NAMES[name], wishes.allows(kind, name)) for name in names])
                for kind, names in self._offered().items()
            ],
            languages=LANGUAGE_NAMES,
            case=await self._case(case_id),
            quiet=[("case", key, await self._case_name(key)) for key in sorted(wishes.quiet_cases)]
            + [("item", key, self._item_name(key)) for key in sorted(wishes.quiet_items)],
            errors=errors or {},
            back="/me",
        )

    async def _case(self, case_id: str) -> dict[str, Any] | None:
        try:
            return dict(await self.hall.cases.view(await self.hall.cases.get(case_id, self.resident.resident_id))) if case_id else None
        except HallError:  # somebody else's, or none: nothing to offer
            return None

    async def _case_name(self, case_id: str) -> str:
        case = await self._case(case_id)
        return f"{case['item']['name']}（{case['number'][-6:]}）" if case else "一件已经看不到的办件"

    def _item_name(self, code: str) -> str:
        try:
            return f"所有“{self.hall.catalogue.item(code)['name']}”"
        except (HallError, KeyError):
            return "一个已经下线的事项"


class Quiet(PageHandler):
    """POST /me/notices/quiet {kind: case|item, key, on}: keep a matter quiet, or no longer."""

    needs = "resident"

    async def get(self) -> None:
        self.redirect("/me/notices", status=303)

    async def post(self) -> None:
        owner, key = self.resident.resident_id, self.text("key", limit=64)
        name = {"case": "quiet_cases", "item": "quiet_items"}.get(self.text("kind", limit=10))
        if name is not None and key:
            if name == "quiet_cases" and self.text("on") == "1":
                await self.hall.cases.get(key, owner)  # one's own, or it does not exist
            if await self.hall.push.keep_quiet(owner, name, key, self.text("on") == "1"):
                self.tell_next("wishes")
        self.redirect("/me/notices", status=303)


def _quiet_hours(is_on: bool, begin: str, end: str) -> dict[str, time] | None:
    """Return the hours of the form, or None when they are off. Raises ValueError: one is missing or no time, or both are the same."""
    if not is_on:
        return None
    # `fromisoformat` reads zones as well, and a time with one compares with none of ours.
    if not (_CLOCK.fullmatch(begin) and _CLOCK.fullmatch(end)):
        raise ValueError("no time of day")
    hours = {"from": time.fromisoformat(begin), "to": time.fromisoformat(end)}
    if hours["from"] == hours["to"]:
        raise ValueError("no time between")
    return hours


routes = [(r"/me/notices", Wishes), (r"/me/notices/quiet", Quiet)]
