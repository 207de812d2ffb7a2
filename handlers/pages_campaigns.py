"""群发通知 on the staff console: the list, the form, one campaign with its preview, its steps and how far it is. No script is needed."""

import re
from collections.abc import Mapping
from typing import Any

from app.kernel.clock import SHANGHAI, parse_utc
from app.kernel.errors import HallError
from handlers.campaigns import BY_NAME, CampaignRequest, CampaignStepRequest, CampaignTestRequest, EditCampaignRequest, content_of
from handlers.pages_base import ULID
from handlers.pages_staff import PAGE, StaffPage
from handlers.problems import judged
from push.campaigns import machine
from push.campaigns.segments import NEEDS

ID = rf"(cpn_{ULID})"
TABS = {"": "本单位的", "everybody": "各单位的"}
CHANNELS = {"wechat": "微信服务通知", "official": "微信公众号", "alipay": "支付宝", "app": "手机应用", "email": "电子邮件", "sms": "短信（只发给要求短信的人）"}
# How people ended up -> what staff read.
FIGURES = {
    "told": "已送进消息箱", "sent": "另外推送到手机或邮箱", "inbox": "只在消息箱里", "waiting": "等待推送", "opened": "已打开", "muted": "不接收这类通知",
    "failed": "推送失败", "unclear": "没有回音", "merged": "同一人的两个账号，只发一次",
}  # fmt: skip
LAMPS = {"draft": "rest", "submitted": "wait", "approved": "wait", "running": "go", "paused": "stop", "finished": "done", "stopped": "rest"}
# Pausing comes first: a page that renews itself is no place to write a reason.
_NOT_WHILE_RUNNING = frozenset({"stop"})
_QUIET = frozenset({"take_back", "refuse", "discard", "stop"})


class CampaignPage(StaffPage):
    def words_of(self, segment: Mapping[str, Any]) -> str:
        """Return whom a campaign is for, in words."""
        snapshot = self.hall.catalogue.snapshot
        names = [
            *(snapshot.divisions[code]["name"] if code in snapshot.divisions else code for code in segment["divisions"]),
            *(snapshot.by_name[code]["name"] if code in snapshot.by_name else code for code in segment["items"]),
            *segment["themes"],
        ]
        days = [f"{segment['from_on'] or '……'} 至 {segment['until_on'] or '今天'}"] if segment["from_on"] or segment["until_on"] else []
        return "：".join([self.hall.campaigns.kinds.get(segment["kind"], segment["kind"]), *filter(None, ["、".join([*names, *days])])])


class Campaigns(CampaignPage):
    async def get(self) -> None:
        is_superior = self.hall.supervision.is_superior(self.staff)
        tab, state, cursor = self.text("tab", limit=20), self.text("state", limit=20), self.text("cursor", limit=40)
        asked = {"tab": tab if tab in TABS and is_superior else "", "state": state if state in machine.STATES else ""}
        rows, following = await self.hall.campaigns.page(
            self.staff, state=asked["state"], everybody=bool(asked["tab"]), limit=PAGE, cursor=cursor if re.fullmatch(ID, cursor) else None
        )
        await self.show(
            "staff_campaigns.html",
            rows=rows,
            words={row["id"]: self.words_of(row["segment"]) for row in rows},
            asked=asked,
            tabs=TABS if is_superior else {},
            states=machine.STATE_NAMES,
            lamps=LAMPS,
            next_cursor=following,
        )


class Form(CampaignPage):
    """GET, POST /staff/campaigns/new; a draft's form is EditForm."""

    async def get(self) -> None:
        first = {"rate": "50", "link": "/inbox", "kind": next(iter(self.hall.campaigns.kinds))}
        await self.show_form({name: [value] for name, value in first.items()})

    async def post(self) -> None:
        campaign_id = self.once("cpn")
        try:
            body = judged(CampaignRequest, self.body_of(self.form_fields), "")
            await self.hall.campaigns.create(self.staff, content_of(body), campaign_id)
        except HallError as error:
            if error.status != 422:
                raise
            return await self.show_form(self.form_fields, error=error)
        self.redirect(f"/staff/campaigns/{campaign_id}", status=303)

    async def show_form(
        self, typed: Mapping[str, list[str]], *, row: Mapping[str, Any] | None = None, error: HallError | None = None
    ) -> None:
        snapshot = self.hall.catalogue.snapshot
        is_superior = self.hall.supervision.is_superior(self.staff)
        items = {item["code"]: item["name"] for item in snapshot.items}
        own = {item["code"]: item["name"] for item in snapshot.items if is_superior or item["agency"] == self.staff.agency_id}
        await self.show(
            "staff_campaign_form.html",
            error.status if error else 200,
            row=row,
            typed=typed,
            kinds=self.hall.campaigns.kinds,
            needs=NEEDS,
            choices={
                ("applicants", "items"): own or items,
                ("subscribers", "items"): items,
                ("subscribers", "themes"): {theme["name"]: theme["name"] for theme in snapshot.themes},
                ("division", "divisions"): self.divisions,
                ("subscribers", "divisions"): self.divisions,
            },
            channels={name: CHANNELS.get(name, name) for name in self.hall.campaigns.carriers},
            error=error,
            errors=_by_pointer(error),
        )

    @staticmethod
    def body_of(typed: Mapping[str, list[str]]) -> dict[str, Any]:
        """Return what the form sent as the API takes it. The fields of a kind of segment are named `<kind>.<field>`."""

        def one(name: str) -> str:
            return (typed.get(name) or [""])[0].strip()

        kind = one("kind")
        segment: dict[str, Any] = {"kind": kind}
        for name in NEEDS.get(kind, ()):
            values = [value for value in typed.get(f"{kind}.{name}", []) if value]
            if name.endswith("_on"):
                segment[name] = values[0] if values else None
            else:
                segment[name] = values
        start = one("start_at")
        return {
            **{name: one(name) for name in ("title", "text", "title_en", "text_en")},
            "link": one("link") or "/inbox",
            "channels": typed.get("channels", []),
            "rate": int(one("rate")) if re.fullmatch(r"\d{1,6}", one("rate")) else one("rate"),
            # A browser's local time, without its offset: the desk is in Shanghai.
            "start_at": f"{start}+08:00" if start else None,
            "segment": segment,
        }


class EditForm(Form):
    async def get(self, campaign_id: str) -> None:
        row = await self.hall.campaigns.get(campaign_id, self.staff)
        if "edit" not in row["allowed_actions"]:
            return self.redirect(f"/staff/campaigns/{campaign_id}", status=303)
        await self.show_form(_typed(row), row=row)

    async def post(self, campaign_id: str) -> None:
        row = await self.hall.campaigns.get(campaign_id, self.staff)
        version = self.text("version", limit=10)
        try:
            wanted = {**self.body_of(self.form_fields), "version": int(version) if version.isdecimal() else version}
            body = judged(EditCampaignRequest, wanted, "")
            await self.hall.campaigns.edit(campaign_id, self.staff, content_of(body), body["version"])
        except HallError as error:
            if error.status not in (403, 409, 422):
                raise
            return await self.show_form(self.form_fields, row=row, error=error)
        self.redirect(f"/staff/campaigns/{campaign_id}", status=303)


class OneCampaign(CampaignPage):
    async def get(self, campaign_id: str) -> None:
        await self.show_campaign(campaign_id)

    async def show_campaign(self, campaign_id: str, *, action: str = "", error: HallError | None = None) -> None:
        row = await self.hall.campaigns.get(campaign_id, self.staff)
        if row["state"] == machine.DRAFT:
            preview = await self.hall.campaigns.preview(campaign_id, self.staff)
        else:  # counted when it was handed in
            size = {"count": row["progress"]["size"], "is_more": row["progress"]["size_is_more"]}
            looks = await self.hall.campaigns.looks(campaign_id, self.staff)
            preview = {"channels": looks, "size": size, "needs_operator": row["needs_operator"]}
        is_running = row["state"] == machine.RUNNING
        acts = [name for name in row["allowed_actions"] if name in BY_NAME and not (is_running and name in _NOT_WHILE_RUNNING)]
        acts.sort(key=lambda name: name in _QUIET)  # what leads on comes first
        await self.show(
            "staff_campaign.html",
            error.status if error else 200,
            row=row,
            quiet=_QUIET,
            segment=self.words_of(row["segment"]),
            preview=preview,
            figures=FIGURES,
            channels=CHANNELS,
            lamp=LAMPS[row["state"]],
            acts=acts,
            names=machine.STEP_NAMES,
            needs_note={step.name for step in machine.TABLE if step.needs_note},
            is_live=is_running and error is None,
            action=action,
            note=self.text("note", limit=501),
            phone=self.text("phone", limit=20),
            error=error,
            errors=_by_pointer(error),
        )


class Act(OneCampaign):
    """POST /staff/campaigns/<id>/<step>, `test` among them."""

    async def get(self, campaign_id: str, _action: str) -> None:
        self.redirect(f"/staff/campaigns/{campaign_id}", status=303)

    async def post(self, campaign_id: str, action: str) -> None:
        try:
            if action == "test":
                body = judged(CampaignTestRequest, {"phone": self.text("phone", limit=20).strip()}, "")
                await self.hall.campaigns.test(campaign_id, self.staff, body["phone"])
                self.tell_next("campaign_tested")
            else:
                seen = self.text("version", limit=10) if action == "approve" else ""  # the others mean the campaign, whatever it says
                wanted = {"note": self.text("note", limit=501).strip(), "version": int(seen) if seen.isdecimal() else None}
                body = judged(CampaignStepRequest, wanted, "")
                await self.hall.campaigns.act(campaign_id, self.staff, action, note=body["note"], version=body["version"])
        except HallError as error:
            if error.status not in (403, 409, 422):
                raise
            return await self.show_campaign(campaign_id, action=action, error=error)
        self.redirect(f"/staff/campaigns/{campaign_id}", status=303)


def _typed(row: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return a campaign as its form would send it."""
    segment = row["segment"]
    kind = segment["kind"]
    typed = {name: [str(row[name])] for name in ("title", "text", "title_en", "text_en", "link", "rate", "version")}
    typed |= {"channels": list(row["channels"]), "kind": [kind]}
    if row["start_at"]:
        typed["start_at"] = [f"{parse_utc(row['start_at']).astimezone(SHANGHAI):%Y-%m-%dT%H:%M}"]
    for name in NEEDS[kind]:
        value = segment[name]
        typed[f"{kind}.{name}"] = value if isinstance(value, list) else [value or ""]
    return typed


def _by_pointer(error: HallError | None) -> dict[str, str]:
    """Return what is wrong by the name of the field in the form: `title`, `segment.items`."""
    found: dict[str, str] = {}
    for row in getattr(error, "errors", []):
        parts = [part for part in row["pointer"].split("/") if part and not part.isdecimal()]
        found.setdefault(".".join(parts), row["detail"])
    return found


routes = [
    (r"/staff/campaigns", Campaigns),
    (r"/staff/campaigns/new", Form),
    (rf"/staff/campaigns/{ID}", OneCampaign),
    (rf"/staff/campaigns/{ID}/edit", EditForm),
    (rf"/staff/campaigns/{ID}/(test|{'|'.join(BY_NAME)})", Act),
]
