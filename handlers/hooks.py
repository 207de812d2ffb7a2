"""The web hook of an agency's own system (/staff/v1/hook): set by its head, tried, looked at, sent again."""

from marshmallow import Schema, fields, validate

from app.exchange.hooks import MAX_URL
from app.exchange.signing import ALGORITHMS
from handlers.base import HallHandler, operation

STATES = ("waiting", "delivered", "failed", "dropped")


class HookRequest(Schema):
    url = fields.String(
        required=True, validate=validate.Length(10, MAX_URL), metadata={"example": "https://system.example.gov.cn/hall-events"}
    )
    algorithm = fields.String(load_default="hmac-sm3", validate=validate.OneOf(ALGORITHMS))
    events = fields.List(
        fields.String(validate=validate.Length(1, 60)), load_default=list, validate=validate.Length(max=100),
        metadata={"description": "names of events; empty: every one"},
    )  # fmt: skip


class HookResponse(Schema):
    app = fields.String(metadata={"description": "sent as X-Hall-App"})
    url = fields.String()
    algorithm = fields.String(validate=validate.OneOf(ALGORITHMS))
    events = fields.List(fields.String())
    created_at = fields.String(metadata={"format": "date-time"})
    changed_at = fields.String(metadata={"format": "date-time"})
    secret_at = fields.String(metadata={"format": "date-time"})
    paused_at = fields.String(allow_none=True, metadata={"format": "date-time"})
    paused_why = fields.String(metadata={"description": "by_head; gone: the receiver answered 410"})


class NewHookResponse(HookResponse):
    secret = fields.String(metadata={"description": "only in the answer that made the hook"})


class HookSecretResponse(Schema):
    secret = fields.String(metadata={"description": "shown this once"})


class HookPingResponse(Schema):
    delivered = fields.Boolean()
    status = fields.Integer(metadata={"description": "0: nobody answered"})
    cause = fields.String()
    ms = fields.Integer()


class HookDeliveryQuery(Schema):
    state = fields.String(load_default="", validate=validate.OneOf(("", *STATES)))
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100, error="应为 1 到 100"))
    cursor = fields.String(load_default=None, validate=validate.Regexp(r"hkd_[0-9A-Z]{26}\Z"))


class HookAttempt(Schema):
    at = fields.String(metadata={"format": "date-time"})
    status = fields.Integer(metadata={"description": "0: nobody answered"})
    cause = fields.String()
    ms = fields.Integer()


class HookDeliveryResponse(Schema):
    id = fields.String()
    event_id = fields.String(metadata={"description": "`id` of the body: repetitions have the same"})
    event = fields.String(metadata={"example": "case.accepted"})
    case_number = fields.String(allow_none=True)
    state = fields.String(validate=validate.OneOf(STATES))
    made_at = fields.String(metadata={"format": "date-time"})
    next_at = fields.String(allow_none=True, metadata={"format": "date-time"})
    delivered_at = fields.String(allow_none=True, metadata={"format": "date-time"})
    failed_at = fields.String(allow_none=True, metadata={"format": "date-time"})
    tries = fields.Integer()
    attempts = fields.List(fields.Nested(HookAttempt))


class HookDeliveryListResponse(Schema):
    items = fields.List(fields.Nested(HookDeliveryResponse))
    next_cursor = fields.String(allow_none=True)


class Hook(HallHandler):
    @operation("The web hook of the own agency", answers={200: HookResponse}, auth="staff")
    async def get(self) -> None:
        await self.answer(await self.hall.hooks.view(self.staff))

    @operation("Set the address; the first time the answer has the secret, this once", body=HookRequest, answers={200: NewHookResponse}, auth="staff")
    async def put(self) -> None:
        hook, secret = await self.hall.hooks.put(self.staff, **self.body)
        await self.answer(hook | ({"secret": secret} if secret else {}), 201 if secret else 200)

    @operation("Forget the hook and what waits for it", answers={204: None}, auth="staff")
    async def delete(self) -> None:
        await self.hall.hooks.remove(self.staff)
        self.set_status(204)


class HookSecret(HallHandler):
    @operation("Make a new secret; the one before signs along for 24 hours", answers={200: HookSecretResponse}, auth="staff")
    async def post(self) -> None:
        await self.answer({"secret": await self.hall.hooks.rotate(self.staff)})


class HookPause(HallHandler):
    @operation("Send nothing for now; what happens meanwhile waits", answers={200: HookResponse}, auth="staff")
    async def post(self) -> None:
        await self.answer(await self.hall.hooks.pause(self.staff))


class HookResume(HallHandler):
    @operation("Send again, beginning with what has waited", answers={200: HookResponse}, auth="staff")
    async def post(self) -> None:
        await self.answer(await self.hall.hooks.resume(self.staff))


class HookPing(HallHandler):
    @operation("Call the hook with a test message now", answers={200: HookPingResponse}, auth="staff")
    async def post(self) -> None:
        await self.hall.hook_pings.require(self.staff.agency_id, "测试太频繁，请一分钟后再试。")
        await self.hall.hook_pings.count(self.staff.agency_id)
        await self.answer(await self.hall.hook_deliveries.ping(self.staff))


class HookDeliveries(HallHandler):
    @operation(
        "What went to the hook, newest first; `state=failed` is what an agency has to see to",
        query=HookDeliveryQuery, answers={200: HookDeliveryListResponse}, auth="staff",
    )  # fmt: skip
    async def get(self) -> None:
        rows, cursor = await self.hall.hook_deliveries.page(self.staff, **self.query)
        await self.answer({"items": rows, "next_cursor": cursor})


class RepeatHookDelivery(HallHandler):
    @operation("Send one that has ended once more", answers={200: HookDeliveryResponse}, auth="staff")
    async def post(self, delivery_id: str) -> None:
        await self.answer(await self.hall.hook_deliveries.repeat(self.staff, delivery_id))


routes = [
    (r"/staff/v1/hook", Hook),
    (r"/staff/v1/hook/secret", HookSecret),
    (r"/staff/v1/hook/pause", HookPause),
    (r"/staff/v1/hook/resume", HookResume),
    (r"/staff/v1/hook/ping", HookPing),
    (r"/staff/v1/hook/deliveries", HookDeliveries),
    (r"/staff/v1/hook/deliveries/([\w-]{1,64})/repeat", RepeatHookDelivery),
]
