"""Campaigns of the staff member's agency (/staff/v1/campaigns): write, preview, try, hand in, approve, hold, and how far it is."""

from typing import Any, ClassVar

from marshmallow import Schema, fields, validate

from app.kernel.errors import NotFound
from handlers.base import HallHandler, operation
from push.campaigns import machine, segments
from push.campaigns.model import COUNT_AT_MOST, RATES, Content
from push.campaigns.segments import Segment

# What staff do by name, beside writing and trying.
BY_NAME = tuple(step.name for step in machine.TABLE if machine.SYSTEM not in step.actors and step.name not in ("edit", "test"))
_code = validate.Length(1, 60)


class SegmentSchema(Schema):
    """Whom it is for. `all`: no more; `division`: `divisions`; `applicants`: `items` and days; `subscribers`: items, themes, divisions."""

    kind = fields.String(required=True, validate=validate.OneOf(tuple(segments.KIND_NAMES), error="请选择收件人"))
    divisions = fields.List(fields.String(validate=_code), load_default=list, validate=validate.Length(max=100))
    items = fields.List(fields.String(validate=_code), load_default=list, validate=validate.Length(max=50))
    themes = fields.List(fields.String(validate=_code), load_default=list, validate=validate.Length(max=50))
    from_on = fields.Date(load_default=None, allow_none=True)
    until_on = fields.Date(load_default=None, allow_none=True)


class CampaignRequest(Schema):
    """English may be left out. `link`: a path in the hall. `rate`: persons per second. `start_at`: not before; null: once approved."""

    title = fields.String(required=True, validate=validate.Length(2, 30, error="标题写 2 到 30 个字"), metadata={"example": "户籍窗口搬迁"})
    text = fields.String(required=True, validate=validate.Length(5, 1000, error="正文写 5 到 1000 个字"))
    title_en = fields.String(load_default="", validate=validate.Length(max=80, error="最多 80 个字符"))
    text_en = fields.String(load_default="", validate=validate.Length(max=2000, error="最多 2000 个字符"))
    link = fields.String(load_default="/inbox", validate=validate.Length(2, 200, error="应为本大厅里的地址"))
    channels = fields.List(fields.String(validate=_code), load_default=list, validate=validate.Length(max=10))
    rate = fields.Integer(load_default=50, strict=True, validate=validate.Range(*RATES, error="每秒 {min} 到 {max} 人"))
    start_at = fields.AwareDateTime(
        format="iso", load_default=None, allow_none=True, metadata={"format": "date-time"},
        error_messages={"invalid": "应为带时区的时刻，例如 2026-12-01T01:00:00Z", "invalid_awareness": "应为带时区的时刻，例如 2026-12-01T01:00:00Z"},
    )  # fmt: skip
    segment = fields.Nested(SegmentSchema, required=True)


class EditCampaignRequest(CampaignRequest):
    version = fields.Integer(required=True, strict=True, validate=validate.Range(1))


class CampaignStepRequest(Schema):
    """`note`: why; wanted for refuse and stop. `version`: what was looked at; wanted for approve."""

    note = fields.String(load_default="", validate=validate.Length(max=500, error="最多 500 个字"))
    version = fields.Integer(load_default=None, allow_none=True, strict=True, validate=validate.Range(1))


class CampaignTestRequest(Schema):
    phone = fields.String(required=True, validate=validate.Length(1, 20), metadata={"description": "with which the author signs in"})


class CampaignQuery(Schema):
    state = fields.String(load_default="", validate=validate.OneOf(["", *machine.STATES]))
    everybody = fields.Boolean(load_default=False, metadata={"description": "of all agencies, for the one that runs the hall"})
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100, error="应为 1 到 100"))
    cursor = fields.String(load_default=None, validate=validate.Regexp(r"cpn_[0-9A-Z]{26}\Z"))


class CampaignProgress(Schema):
    """Counts as they stand, each added up when it happened."""

    size = fields.Integer(metadata={"description": f"of the segment when it was handed in, counted up to {COUNT_AT_MOST}"})
    size_is_more = fields.Boolean()
    percent = fields.Integer()
    told = fields.Integer(metadata={"description": "whose inbox has it"})
    muted = fields.Integer(metadata={"description": "who want no such messages"})
    sent = fields.Integer(metadata={"description": "delivered by a channel as well"})
    inbox = fields.Integer(metadata={"description": "told in the inbox alone"})
    waiting = fields.Integer(metadata={"description": "in the inbox, a channel still to come"})
    failed = fields.Integer()
    unclear = fields.Integer()
    merged = fields.Integer(metadata={"description": "told by the message of another account of the same person"})
    opened = fields.Integer()


class CampaignHistory(Schema):
    at = fields.String(metadata={"format": "date-time"})
    by = fields.String()
    step = fields.String(validate=validate.OneOf(list(machine.STEP_NAMES)))
    name = fields.String()
    note = fields.String()


class CampaignAgency(Schema):
    id = fields.String()
    name = fields.String()


class CampaignResponse(Schema):
    id = fields.String(metadata={"example": "cpn_01KB2M3N4P5Q6R7S8T9V0W1X2Y"})
    version = fields.Integer()
    state = fields.String(validate=validate.OneOf(machine.STATES))
    state_name = fields.String()
    agency = fields.Nested(CampaignAgency)
    title = fields.String()
    text = fields.String()
    title_en = fields.String()
    text_en = fields.String()
    link = fields.String()
    channels = fields.List(fields.String())
    rate = fields.Integer()
    start_at = fields.String(allow_none=True, metadata={"format": "date-time"})
    segment = fields.Nested(SegmentSchema)
    needs_operator = fields.Boolean(metadata={"description": "the head of the agency that runs the hall approves it"})
    authors = fields.List(fields.String())
    created_at = fields.String(metadata={"format": "date-time"})
    approved_by = fields.String(allow_none=True)
    progress = fields.Nested(CampaignProgress)
    allowed_actions = fields.List(fields.String(validate=validate.OneOf(list(machine.STEPS))))
    history = fields.List(fields.Nested(CampaignHistory))


class CampaignListResponse(Schema):
    items = fields.List(fields.Nested(CampaignResponse))
    next_cursor = fields.String(allow_none=True)


class SegmentSize(Schema):
    count = fields.Integer()
    is_more = fields.Boolean()


class CampaignPreviewResponse(Schema):
    """`channels`: `inbox` and each chosen channel, by language; a text message with its characters and parts."""

    channels = fields.Dict()
    size = fields.Nested(SegmentSize)
    needs_operator = fields.Boolean()


def content_of(body: dict[str, Any]) -> Content:
    """Return what was written, from the loaded body of a request."""
    segment = body["segment"]
    return Content(
        **{name: body[name] for name in ("title", "text", "title_en", "text_en", "link", "rate", "start_at")},
        channels=tuple(dict.fromkeys(body["channels"])),
        segment=Segment(
            kind=segment["kind"],
            divisions=tuple(dict.fromkeys(segment["divisions"])),
            items=tuple(dict.fromkeys(segment["items"])),
            themes=tuple(dict.fromkeys(segment["themes"])),
            from_on=segment["from_on"],
            until_on=segment["until_on"],
        ),
    )


class CampaignList(HallHandler):
    @operation("Campaigns of the own agency, newest first", query=CampaignQuery, answers={200: CampaignListResponse}, auth="staff")
    async def get(self) -> None:
        rows, cursor = await self.hall.campaigns.page(
            self.staff, state=self.query["state"], everybody=self.query["everybody"], limit=self.query["limit"], cursor=self.query["cursor"]
        )
        await self.answer({"items": rows, "next_cursor": cursor})

    @operation("Begin a campaign", body=CampaignRequest, answers={201: CampaignResponse}, auth="staff", idempotent=True)
    async def post(self) -> None:
        await self.answer(await self.hall.campaigns.create(self.staff, content_of(self.body), self.idempotent_id("cpn")), 201)


class OneCampaign(HallHandler):
    @operation("A campaign and how far it is", answers={200: CampaignResponse}, auth="staff")
    async def get(self, campaign_id: str) -> None:
        await self.answer(await self.hall.campaigns.get(campaign_id, self.staff))

    @operation("Write a draft anew", body=EditCampaignRequest, answers={200: CampaignResponse}, auth="staff")
    async def put(self, campaign_id: str) -> None:
        content = content_of(self.body)
        await self.answer(await self.hall.campaigns.edit(campaign_id, self.staff, content, self.body["version"]))


class CampaignPreview(HallHandler):
    @operation("How it will look and how many it will reach", answers={200: CampaignPreviewResponse}, auth="staff")
    async def get(self, campaign_id: str) -> None:
        await self.answer(await self.hall.campaigns.preview(campaign_id, self.staff))


class CampaignTest(HallHandler):
    @operation("Send it to the author's own account", body=CampaignTestRequest, answers={200: CampaignResponse}, auth="staff")
    async def post(self, campaign_id: str) -> None:
        await self.answer(await self.hall.campaigns.test(campaign_id, self.staff, self.body["phone"]))


class CampaignStep(HallHandler):
    bodies_by_action: ClassVar[dict[str, type[Schema]]] = dict.fromkeys(BY_NAME, CampaignStepRequest)

    @operation("Take a step of its life", body=CampaignStepRequest, answers={200: CampaignResponse}, auth="staff", body_optional=True)
    async def post(self, campaign_id: str, action: str) -> None:
        if action not in BY_NAME:
            raise NotFound("没有这个操作。", en="No such action.")
        found = await self.hall.campaigns.act(campaign_id, self.staff, action, note=self.body["note"], version=self.body["version"])
        await self.answer(found)


_ID = r"([\w-]{1,64})"
routes = [
    (r"/staff/v1/campaigns", CampaignList),
    (rf"/staff/v1/campaigns/{_ID}", OneCampaign),
    (rf"/staff/v1/campaigns/{_ID}/preview", CampaignPreview),
    (rf"/staff/v1/campaigns/{_ID}/test", CampaignTest),
    (rf"/staff/v1/campaigns/{_ID}/([a-z_]{{1,20}})", CampaignStep),
]
